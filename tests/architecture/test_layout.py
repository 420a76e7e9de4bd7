"""What every file is held to: its sign, and where clocks, I/O and tasks may be."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.paths import ROOT

HOUSE = ROOT / "tracker"
FILES = sorted(HOUSE.rglob("*.py"))
PURE = ("domain/", "sources/", "projections/", "errors.py")
CLOCK = "domain/clock.py"
"""The one module of the pure packages that reads a clock; the others get the time from their callers."""
CLOCKS_AND_IO = {
    "asyncio", "aiohttp", "aiosqlite", "http", "io", "logging", "os", "pathlib", "random", "secrets", "select", "socket",
    "sqlite3", "structlog", "subprocess", "threading", "time", "tracker.domain.clock", "urllib.request", "uuid",
}  # fmt: skip
TASKS_OF_THEIR_OWN = {
    "log/group_commit.py": "close() has to outlive whatever ended the service: what was accepted is recorded or refused",
    "log/jetstream/log.py": "the same: what was accepted while the service ends is still published, applied and answered",
    "log/jetstream/stream.py": "a request is given up when the connection breaks; both its tasks are over when it returns",
    "log/sqlite/dictionaries.py": "a training is the log's own and ends with it; appending must not wait for it",
}
"""Files that may start a task outside of a TaskGroup, each with its reason."""
GROUPS = {"group", "tasks"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return path.relative_to(HOUSE).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def pure() -> list[Path]:
    return [path for path in FILES if name_of(path).startswith(PURE) and name_of(path) != CLOCK]


def functions(path: Path) -> Iterator[Function]:
    return (node for node in ast.walk(tree_of(path)) if isinstance(node, Function))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, at any depth; of `from a import b` both `a` and `a.b`."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, each.name) for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or "."
            yield from ((node.lineno, f"{node.module}.{each.name}") for each in node.names)


def test_the_house_is_found() -> None:
    assert HOUSE / "errors.py" in FILES
    assert HOUSE / "sources" / "contract.py" in pure()


def test_every_file_has_a_sign_on_its_door() -> None:
    unsigned = []
    for path in FILES:
        sign = (ast.get_docstring(tree_of(path)) or "").split("\n", 1)[0].strip()
        if len(sign.split()) < 3 or sign[-1] not in ".:;…":
            unsigned.append(f"{name_of(path)}: {sign!r}")
    assert not unsigned


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=name_of)
def test_a_room_says_what_it_is_and_nothing_else(path: Path) -> None:
    body = tree_of(path).body
    assert len(body) == 1
    assert isinstance(body[0], ast.Expr)
    assert isinstance(body[0].value, ast.Constant)
    assert isinstance(body[0].value.value, str)


def test_tasks_are_started_in_a_task_group_only() -> None:
    loose = []
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.Attribute | ast.Name):
                continue
            name = node.attr if isinstance(node, ast.Attribute) else node.id
            if name not in {"create_task", "ensure_future"}:
                continue
            owner = node.value if isinstance(node, ast.Attribute) else None
            if name == "create_task" and isinstance(owner, ast.Name) and owner.id in GROUPS:
                continue
            loose.append((name_of(path), node.lineno))
    assert not [f"{name}:{line}" for name, line in loose if name not in TASKS_OF_THEIR_OWN]
    assert set(TASKS_OF_THEIR_OWN) <= {name for name, _ in loose}, "an exception that is not needed any more"


def test_pure_rooms_wait_for_nothing() -> None:
    waiting = ast.Await | ast.AsyncFor | ast.AsyncWith | ast.AsyncFunctionDef
    found = [
        f"{name_of(path)}:{node.lineno}"
        for path in pure()
        # A Protocol may say that somebody else waits; here nobody implements one.
        for node in ast.walk(tree_of(path))
        if isinstance(node, waiting)
    ]
    assert not found


def test_pure_rooms_know_no_clock_and_no_outside() -> None:
    outside = [
        f"{name_of(path)}:{line} {module}"
        for path in pure()
        for line, module in imported(path)
        if any(module == name or module.startswith(f"{name}.") for name in CLOCKS_AND_IO)
    ]
    assert not outside


def test_pure_rooms_never_ask_what_time_it_is() -> None:
    asked = [
        f"{name_of(path)}:{node.lineno} {ast.unparse(node)}"
        for path in pure()
        for node in ast.walk(tree_of(path))
        if (isinstance(node, ast.Attribute) and node.attr in {"now", "utcnow", "today", "time_ns", "monotonic"})
        or (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in {"open", "print", "input"}
        )
    ]
    assert not asked


def test_promises_to_fix_something_later_are_not_kept_in_the_code() -> None:
    marks = re.compile(r"#.*\b(TODO|FIXME|XXX|HACK)\b")
    assert not [name_of(path) for path in FILES if marks.search(path.read_text("utf-8"))]


def test_the_future_is_the_first_import_everywhere() -> None:
    late = []
    for path in FILES:
        code = tree_of(path).body[1:]
        if code and not (isinstance(code[0], ast.ImportFrom) and code[0].module == "__future__"):
            late.append(name_of(path))
    assert not late

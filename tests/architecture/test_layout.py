"""Rules for every file of `tracker/`: docstrings, the size of the top level, purity, tasks, imports."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tracker.sources import registry

TRACKER = ROOT / "tracker"
FILES = sorted(TRACKER.rglob("*.py"))
MAX_PACKAGES = 20
MAX_TOP_LEVEL_FILES = 3
PURE = ("domain/", "sources/", "projections/", "errors.py")
CLOCKS_AND_IO = {
    "asyncio", "aiohttp", "aiosqlite", "http", "io", "logging", "os", "pathlib", "random", "secrets", "select", "socket",
    "sqlite3", "structlog", "subprocess", "threading", "time", "urllib.request", "uuid",
}  # fmt: skip
CLOCK = "domain/clock.py"
"""The only pure file that may read the time. All others get the time from their caller."""
CLOCK_CALLS = {"now", "utcnow", "today", "time_ns", "monotonic"}
TASKS_OUTSIDE_A_GROUP = {
    "log/group_commit.py": "close() outlives whatever ended the server: accepted records are committed or refused",
    "log/jetstream/log.py": "the same: records accepted while the server ends are still published, applied and answered",
    "log/jetstream/stream.py": "a request is cancelled when the connection breaks; both its tasks end before it returns",
    "log/sqlite/dictionaries.py": "a training belongs to the log and ends with it; appends must not wait for it",
}
"""Files that may start a task outside of a TaskGroup → the reason."""
GROUPS = {"group", "tasks"}
"""Names of TaskGroups."""


def name_of(path: Path) -> str:
    return path.relative_to(TRACKER).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def pure_files() -> list[Path]:
    return [path for path in FILES if name_of(path).startswith(PURE) and name_of(path) != CLOCK]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, at any depth; for `from a import b` both `a` and `a.b`."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, each.name) for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or "."
            yield from ((node.lineno, f"{node.module}.{each.name}") for each in node.names)


def test_these_tests_find_the_files() -> None:
    assert TRACKER / "errors.py" in FILES
    assert TRACKER / "sources" / "contract.py" in pure_files()


def test_the_top_level_has_few_packages_and_almost_no_files() -> None:
    packages = [path.parent.name for path in TRACKER.glob("*/__init__.py")]
    files = [path.name for path in TRACKER.glob("*.py")]
    assert len(packages) <= MAX_PACKAGES, packages
    assert len(files) <= MAX_TOP_LEVEL_FILES, files


def test_the_first_line_of_every_file_says_what_it_is() -> None:
    missing = []
    for path in FILES:
        first_line = (ast.get_docstring(tree_of(path)) or "").split("\n", 1)[0].strip()
        if len(first_line.split()) < 3 or first_line[-1] not in ".:;…":
            missing.append(f"{name_of(path)}: {first_line!r}")
    assert not missing


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=name_of)
def test_the_init_of_a_package_has_only_a_docstring(path: Path) -> None:
    body = tree_of(path).body
    assert len(body) == 1
    assert isinstance(body[0], ast.Expr)
    assert isinstance(body[0].value, ast.Constant)
    assert isinstance(body[0].value.value, str)


def test_tasks_are_started_only_in_a_task_group() -> None:
    found = []
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
            found.append((name_of(path), node.lineno))
    assert not [f"{name}:{line}" for name, line in found if name not in TASKS_OUTSIDE_A_GROUP]
    assert set(TASKS_OUTSIDE_A_GROUP) <= {name for name, _ in found}, "an exception is no longer needed: remove it"


def test_pure_files_await_nothing() -> None:
    waits = ast.Await | ast.AsyncFor | ast.AsyncWith | ast.AsyncFunctionDef
    found = [
        f"{name_of(path)}:{node.lineno}"
        for path in pure_files()
        for node in ast.walk(tree_of(path))
        if isinstance(node, waits)
    ]
    assert not found


def test_pure_files_import_no_clock_and_no_io() -> None:
    found = [
        f"{name_of(path)}:{line} {module}"
        for path in pure_files()
        for line, module in imports(path)
        if any(module == name or module.startswith(f"{name}.") for name in CLOCKS_AND_IO)
    ]
    assert not found


def test_pure_files_never_ask_for_the_time_nor_open_or_print_anything() -> None:
    found = [
        f"{name_of(path)}:{node.lineno} {ast.unparse(node)}"
        for path in pure_files()
        for node in ast.walk(tree_of(path))
        if (isinstance(node, ast.Attribute) and node.attr in CLOCK_CALLS)
        or (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in {"open", "print", "input"}
        )
    ]
    assert not found


VENDOR_NAME = re.compile(r"openvidu|livekit|plugnmeet|streamrec|eyeson|bigbluebutton|jitsi|jaas", re.IGNORECASE)
MAY_NAME_VENDORS = {
    "tracker/sources/registry.py": "lists the vendors' folders",
    "tracker/sources/livekit_protocol.py": "the objects of livekit/protocol, which two vendors send",
    "tracker/sources/webhook_jwt.py": "the token of livekit/protocol, which two vendors send",
    "tracker/config/example.toml": "an example of every vendor's table",
}
"""Files outside of the vendors' folders, each with its reason."""


def test_only_its_own_folder_names_a_vendor() -> None:
    folders = [TRACKER / "sources" / folder for folder in registry.FOLDERS]
    files = [
        path
        for root in (TRACKER, ROOT / "tests" / "support")
        for path in root.rglob("*")
        if path.is_file() and path.suffix not in {".pyc", ".zdict"} and not any(map(path.is_relative_to, folders))
    ]
    naming = {
        path.relative_to(ROOT).as_posix()
        for path in files
        if VENDOR_NAME.search(path.name) or VENDOR_NAME.search(path.read_text("utf-8", "replace"))
    }
    # `declared` stands for any vendor, and is an ordinary word.
    assert {name for name in registry.FOLDERS if not VENDOR_NAME.search(name)} == {"declared"}
    assert sorted(naming - set(MAY_NAME_VENDORS)) == []
    assert set(MAY_NAME_VENDORS) <= naming, "an exception is no longer needed: remove it"


@pytest.mark.parametrize("folder", registry.FOLDERS)
def test_a_vendor_imports_no_other_vendor(folder: str) -> None:
    others = {f"tracker.sources.{other}" for other in registry.FOLDERS} - {f"tracker.sources.{folder}"}
    found = [
        f"{name_of(path)}:{line} {module}"
        for path in (TRACKER / "sources" / folder).rglob("*.py")
        for line, module in imports(path)
        if any(module == other or module.startswith(f"{other}.") for other in others)
    ]
    assert not found


def test_no_comment_promises_to_fix_something_later() -> None:
    marks = re.compile(r"#.*\b(TODO|FIXME|XXX|HACK)\b")
    assert not [name_of(path) for path in FILES if marks.search(path.read_text("utf-8"))]


def test_every_file_first_imports_annotations_from_future() -> None:
    late = []
    for path in FILES:
        code = tree_of(path).body[1:]
        if code and not (isinstance(code[0], ast.ImportFrom) and code[0].module == "__future__"):
            late.append(name_of(path))
    assert not late

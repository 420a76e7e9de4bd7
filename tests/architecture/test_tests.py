"""Rules for the tests: each is at its module's path, and uses only the public parts of Tracker."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support.paths import ROOT, TESTS

TRACKER = ROOT / "tracker"
FILES = sorted([*TESTS.rglob("*.py"), *(ROOT / "bench").rglob("*.py")])
MIRRORS = ("unit", "flows")
"""Folders of tests/ that mirror tracker/."""
TESTED_ELSEWHERE = {
    "log/keys": "keys are tested by what they encrypt: log/sqlite/test_encryption*, log/jetstream/test_*keys*",
    "views": "every engine passes contracts/test_views; answers and presenters are tested by api/ and evidence/bundle/",
}
"""Packages without their own tests → where their tests are."""
OWN = {"self", "cls"}
PUBLIC = {"_replace", "_asdict", "_exit"}
"""Names that begin with an underscore and are public: of `NamedTuple` and of `os`."""
PRIVATE_ALLOWED = {
    "tests/docs/test_configuration.py": "checks keys of snippets without the values that a whole configuration needs",
    "tests/flows/log/jetstream/test_encryption.py": "publishes frames of a node that died between two steps",
    "tests/flows/log/jetstream/test_log.py": "puts a node into states that real servers reach only after minutes",
    "tests/flows/log/jetstream/test_orphan_keys.py": "publishes keys and frames of a node that died between the two",
    "tests/unit/log/sqlite/test_log.py": "a pragma is a property of the connection: nothing else shows or sets it",
}
"""Tests that use private attributes → the reason."""


def modules() -> set[str]:
    """Modules and packages of tracker/ as paths: `log/sqlite/log`, `log/sqlite`."""
    files = {path.relative_to(TRACKER) for path in TRACKER.rglob("*.py")}
    return {path.with_suffix("").as_posix() for path in files} | {path.parent.as_posix() for path in files}


def test_the_path_of_a_test_mirrors_the_path_of_its_module() -> None:
    """tests/unit/a/test_b.py and tests/unit/a/test_b_aspect.py test tracker/a/b.py or the package tracker/a/b."""
    known = modules()
    strays = []
    for mirror in MIRRORS:
        for path in (TESTS / mirror).rglob("test_*.py"):
            words = path.relative_to(TESTS / mirror).with_name(path.stem.removeprefix("test_")).as_posix().split("_")
            if not any("_".join(words[:end]) in known for end in range(1, len(words) + 1)):
                strays.append(path.relative_to(ROOT).as_posix())
    assert not strays


def test_every_package_has_a_test() -> None:
    packages = {path.parent.relative_to(TRACKER).as_posix() for path in TRACKER.rglob("*.py")} - {"."}
    tested = {
        path.parent.relative_to(TESTS / mirror).as_posix()
        for mirror in MIRRORS
        for path in (TESTS / mirror).rglob("test_*.py")
    }
    assert packages - tested == set(TESTED_ELSEWHERE)


def private_names(path: Path) -> Iterator[tuple[int, str]]:
    """(line, expression) of every `x._name` where x is neither `self` nor `cls`."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
        if not isinstance(node, ast.Attribute) or not node.attr.startswith("_") or node.attr.endswith("__"):
            continue
        if node.attr in PUBLIC or (isinstance(node.value, ast.Name) and node.value.id in OWN):
            continue
        yield node.lineno, ast.unparse(node)


def test_no_test_uses_a_private_attribute() -> None:
    found: dict[str, list[str]] = {}
    for path in FILES:
        for line, expression in private_names(path):
            found.setdefault(path.relative_to(ROOT).as_posix(), []).append(f"{line}: {expression}")
    assert not {name: lines for name, lines in found.items() if name not in PRIVATE_ALLOWED}
    assert set(PRIVATE_ALLOWED) <= set(found), "an exception is no longer needed: remove it"


def test_no_test_sets_an_attribute_that_does_not_exist() -> None:
    """`monkeypatch.setattr(…, raising=False)` would still pass after a rename."""
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
            if isinstance(node, ast.keyword) and node.arg == "raising":
                found.append(f"{path.relative_to(ROOT).as_posix()}:{node.value.lineno}")
    assert not found

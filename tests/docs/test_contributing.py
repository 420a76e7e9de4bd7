"""CONTRIBUTING's table leads to files that exist, and no page names a file of the repository that does not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.paths import DOCS, ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.partition("\n## ")[0].splitlines()
    if line.startswith("|")
][2:]
PATH = re.compile(r"`([\w./<>-]+/[\w./<>-]*)`")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
FOLDERS = ("tracker", "tests", "bench", "docs", "deploy", "migrations")
PACKAGES = {path.name for path in (ROOT / "tracker").iterdir() if path.is_dir()}


def found(name: str) -> bool:
    """Whether a path of the repository exists; `<vendor>` stands for any one name."""
    return any(ROOT.glob(re.sub(r"<\w+>", "*", name.rstrip("/"))))


def test_the_page_opens_with_the_table() -> None:
    assert len(ROWS) >= 12
    assert PAGE.partition("\n| I want to")[0].count("\n") < 8


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_row_names_code_and_its_tests_and_both_exist(row: list[str]) -> None:
    task, code, tests = row
    assert task
    for cell in (code, tests):
        assert PATH.findall(cell), cell
        assert not [name for name in PATH.findall(cell) if not found(name)]
    assert all(name.startswith("tests/") for name in PATH.findall(tests))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_named_on_a_page_exists(page: Path) -> None:
    """Paths in `code` that begin with a folder of the repository, or with a package of tracker/."""
    missing: list[str] = []
    for name in PATH.findall(page.read_text("utf-8")):
        first = name.split("/", 1)[0]
        if first in FOLDERS and not found(name):
            missing.append(name)
        elif first in PACKAGES and name.endswith((".py", "/")) and not found(f"tracker/{name}"):
            missing.append(name)
    assert not missing

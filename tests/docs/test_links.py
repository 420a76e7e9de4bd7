"""Every internal link of the README, CONTRIBUTING, CHANGELOG and docs leads to a file, and to a heading in it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from tests.support.paths import DOCS, ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")
WIDTH = 100


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text("utf-8"))


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs both make them."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text).strip().lower().replace(" ", "-")
        assert "--" not in slug, f"{page.name}: GitHub and MkDocs give the heading {heading!r} different anchors"
        assert slug not in found, f"{page.name}: two headings have the anchor {slug}"
        found.add(slug)
    return found


def links(page: Path) -> list[str]:
    found = [first or second for first, second in LINK.findall(prose(page))]
    return [target for target in found if "://" not in target]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    wrong: list[str] = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(target)
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_wrap_at_a_hundred_columns(page: Path) -> None:
    """Tables, code, HTML and single words (addresses, inline code) are excepted."""
    word = re.compile(r"(?:`[^`]*`|\S)+")
    long = [
        line
        for line in prose(page).splitlines()
        if len(line) > WIDTH and line.lstrip()[0] not in "|<" and len(word.findall(line.strip().removeprefix("- "))) > 1
    ]
    assert not long


def test_a_page_has_one_title() -> None:
    for page in PAGES:
        assert len(re.findall(r"^# ", prose(page), re.MULTILINE)) == 1, page


def test_every_page_is_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md" or not page.is_file():
            continue
        reached.add(page)
        waiting += [(page.parent / target.partition("#")[0]).resolve() for target in links(page) if target[0] != "#"]
    assert set(PAGES) <= reached


CODE = [
    path
    for folder in ("tracker", "tests", "bench", "deploy", "migrations")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".toml", ".yaml", ".service", ".conf", ".html", ".sql", ".example"}
    and "samples" not in path.parts
]


def test_every_page_named_in_the_code_exists() -> None:
    pattern = re.compile(r"(?<![\w/.])docs/[\w./-]+?\.(?:md|svg|png)\b")
    named = {
        (str(path.relative_to(ROOT)), name)
        for path in [*CODE, ROOT / "config.toml"]
        if path.exists()  # another test may write a file of its own and remove it again
        for name in pattern.findall(path.read_text("utf-8"))
    }
    assert named
    assert not [(file, name) for file, name in sorted(named) if not (ROOT / name).is_file()]

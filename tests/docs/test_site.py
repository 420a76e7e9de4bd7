"""The static site: every page is in its navigation, and it builds without warnings and loads nothing from elsewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import DOCS, ROOT

CONFIG = ROOT / "mkdocs.yml"
ELSEWHERE = re.compile(
    r"""<(?:script|img|iframe|source)[^>]+src=["'](?:https?:)?//|<link[^>]+rel=["'](?:stylesheet|preconnect|preload)["'][^>]*href=["'](?:https?:)?//"""
    r"""|https?://fonts|unpkg\.com|cdn\.jsdelivr|cdnjs\.""",
    re.IGNORECASE,
)


def test_every_page_is_in_the_navigation_once() -> None:
    named = re.findall(r"^ +- .+: ([\w./-]+\.md)$", CONFIG.read_text("utf-8"), re.MULTILINE)
    assert sorted(named) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def test_the_site_is_not_committed() -> None:
    assert "/site/" in (ROOT / ".gitignore").read_text("utf-8").split()


@pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None and not os.environ.get("TRACKER_REQUIRE_CHECKERS"),
    reason="needs the extra: pip install '.[docs]'",
)
def test_the_site_builds_strictly_and_loads_nothing_from_another_host(tmp_path: Path) -> None:
    site = tmp_path / "site"
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--config-file",
        str(CONFIG),
        "--site-dir",
        str(site),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > len(list(DOCS.rglob("*.md")))
    for page in pages:
        assert not ELSEWHERE.search(page.read_text("utf-8")), page.name

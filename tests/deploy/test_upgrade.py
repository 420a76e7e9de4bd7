"""A log that the version before wrote opens, verifies and rebuilds with the code of today.

`tests/samples/logs/<commit>/` holds what that commit wrote: calls of every vendor, a server's log with two copies of each
event, CDR files of three nights; once in clear, once encrypted; and the sessions it showed. Add a folder for each release.
"""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest

from tests.support.paths import SAMPLES
from tracker.cli.main import main

LOGS = sorted(path for path in (SAMPLES / "logs").glob("*/*") if path.is_dir())
FIELD = SAMPLES / "field"


@pytest.fixture(params=LOGS, ids=lambda path: f"{path.parent.name}-{path.name}")
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The log as it was left."""
    given: Path = request.param
    for file in given.iterdir():
        if file.suffix == ".gz":
            (tmp_path / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
        else:
            shutil.copy(file, tmp_path)
    (tmp_path / "checkpoint.key").chmod(0o600)
    return tmp_path


def run(folder: Path, capsys: pytest.CaptureFixture[str], name: str, *arguments: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main([name, "--config", str(folder / "config.toml"), *arguments])
    return code, capsys.readouterr().out


def test_it_verifies_with_its_proofs_and_its_checkpoint(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(folder, capsys, "verify", "--proofs", "--json")
    found = json.loads(out)
    assert (code, found["faults"]) == (0, [])
    assert found["checkpoints"] >= 1
    assert found["records"] > 90


def test_it_is_rebuilt_and_shows_the_sessions_it_showed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, capsys, "rebuild")[0] == 0
    assert run(folder, capsys, "rebuild", "--check")[0] == 0
    items = json.loads(run(folder, capsys, "sessions", "--json", "--limit", "1000")[1])["items"]
    before = json.loads((folder / "sessions.json").read_text())
    now = [{name: each[name] for name in before[0]} for each in items]
    assert sorted(now, key=lambda each: str(each["id"])) == before


def test_importing_again_may_add_records_and_adds_no_entry(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def shown() -> int:
        assert run(folder, capsys, "rebuild")[0] == 0
        items = json.loads(run(folder, capsys, "sessions", "--source", "ov", "--json", "--limit", "1000")[1])["items"]
        timelines = [json.loads(run(folder, capsys, "timeline", each["id"], "--json")[1])["items"] for each in items]
        return sum(map(len, timelines))

    before = shown()
    again = [FIELD / "openvidu-04" / "a-openvidu-server.log", FIELD / "openvidu-03" / "webhooks-latin1.txt"]
    again += sorted((FIELD / "openvidu-10" / "b").iterdir())
    code, out = run(folder, capsys, "import", "ov", "--json", *map(str, again))
    assert code == 0, out
    assert shown() == before


def test_what_the_version_before_recorded_twice_is_one_entry(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, capsys, "rebuild")[0] == 0
    entries = json.loads(run(folder, capsys, "timeline", "ov:897_1616601461172", "--json")[1])["items"]
    assert len(entries) == 6


def test_its_nightly_restarts_are_known_from_the_names_of_its_files(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, capsys, "rebuild")[0] == 0
    (ward,) = json.loads(run(folder, capsys, "sessions", "--room", "ward", "--json")[1])["items"]
    assert (ward["state"], ward["end"]["reason"]) == ("ended", "server_shutdown")

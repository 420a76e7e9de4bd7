"""`tracker import`: dry runs, contents of folders, and restarts that CDR files show."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.paths import SAMPLES
from tests.support.server import READ_KEY, SECRETS
from tracker.cli.main import main
from tracker.demo.show import config_text

FIELD = SAMPLES / "field"
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    config = tmp_path / "config.toml"
    config.write_text(config_text(tmp_path, SECRETS, READ_KEY, 0), "utf-8")
    assert main(["init", "--config", str(config)]) == 0

    def command(name: str, *arguments: str | Path) -> tuple[int, str]:
        capsys.readouterr()
        code = main([name, "--config", str(config), *map(str, arguments)])
        return code, capsys.readouterr().out

    return command


def content(folder: Path) -> dict[str, str]:
    """Every file below a folder with the hash of its content."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_dry_run_reports_what_an_import_would_do_and_writes_nothing(run: Run, tmp_path: Path) -> None:
    log = FIELD / "openvidu-05" / "b-container-json.log"
    run("import", "ov", FIELD / "openvidu-18" / "spring.log")
    before = content(tmp_path)
    code, out = run("import", "ov", log, FIELD / "openvidu-18" / "spring.log", "--dry-run", "--json")
    first, second = json.loads(out)
    assert (code, first["new"], second["known"], second["skipped"]) == (0, 4, 2, 2)
    assert content(tmp_path) == before
    assert [each["outcome"] for each in first["examples"]].count("new") == 3
    assert {each["outcome"] for each in second["examples"]} == {"known", "skipped"}
    assert all(each["why"] for each in second["examples"] if each["outcome"] == "skipped")
    _, out = run("import", "ov", log, FIELD / "openvidu-18" / "spring.log", "--json")
    assert [(each["new"], each["known"]) for each in json.loads(out)] == [(4, 0), (0, 2)]


def test_a_dry_run_counts_a_repeated_event_of_its_own_files_once(run: Run, tmp_path: Path) -> None:
    code, out = run("import", "ov", FIELD / "openvidu-04" / "a-openvidu-server.log", "--dry-run", "--json")
    (report,) = json.loads(out)
    assert (code, report["new"], report["known"]) == (0, 6, 6)


def test_a_dry_run_adds_nothing_to_the_wal_of_an_open_log(run: Run, tmp_path: Path) -> None:
    run("import", "ov", FIELD / "openvidu-18" / "spring.log")
    (log,) = tmp_path.rglob("log.db")
    held = open_log(log)
    try:
        before = {path.name: path.stat().st_size for path in log.parent.iterdir()}
        code, out = run("import", "ov", FIELD / "openvidu-18" / "spring.log", "--dry-run", "--json")
        assert (code, json.loads(out)[0]["known"]) == (0, 2)
        assert {path.name: path.stat().st_size for path in log.parent.iterdir()} == before
    finally:
        held.close()


def open_log(path: Path) -> sqlite3.Connection:
    held = sqlite3.connect(path, isolation_level=None)
    held.execute("BEGIN IMMEDIATE")
    held.execute("ROLLBACK")
    return held


def test_a_dry_run_prints_tables_of_reasons_and_examples(run: Run) -> None:
    _, out = run("import", "ov", FIELD / "openvidu-18" / "spring.log", "--dry-run")
    assert "Would be imported" in out
    assert "it has no timestamp" in out
    assert "SessionQ" in out


def test_files_of_a_folder_that_were_not_read_are_listed(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "cdr"
    folder.mkdir()
    (folder / "CDR.2024-05-01_03-00-04.log.1").write_bytes(
        (FIELD / "openvidu-10" / "d" / "CDR.2024-05-01_03-00-04.log.1").read_bytes()
    )
    (folder / "notes.txt").write_text("x")
    _, out = run("import", "ov", folder, "--json")
    read, left = json.loads(out)
    assert (read["new"], left["new"], Path(left["file"]).name) == (4, 0, "notes.txt")
    assert "name it" in left["not_read"]
    assert "notes.txt" in run("import", "ov", folder)[1]


def sessions(run: Run) -> dict[str, dict[str, dict[str, str]]]:
    assert run("rebuild")[0] == 0
    return {each["room"]["id"]: each for each in json.loads(run("sessions", "--json")[1])["items"]}


@pytest.mark.parametrize("case", ["a", "b"])
def test_a_call_that_a_nightly_restart_ended_is_over_at_any_second_of_the_restarts(case: str, run: Run) -> None:
    run("import", "ov", FIELD / "openvidu-10" / case)
    ward = sessions(run)["ward"]
    assert (ward["state"], ward["end"]["provenance"], ward["end"]["reason"]) == (
        "ended", "inferred", "server_shutdown",
    )  # fmt: skip
    # The third process wrote its first event at 10:00 UTC.
    assert str(ward["ended_at"]).startswith("2024-05-03T10:00:04")


def test_a_call_before_the_repeated_hour_in_autumn_is_over(run: Run) -> None:
    run("import", "ov", FIELD / "openvidu-10" / "c")
    night = sessions(run)["night"]
    assert (night["state"], night["end"]["reason"]) == ("ended", "server_shutdown")

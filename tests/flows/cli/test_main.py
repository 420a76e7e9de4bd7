"""The command line as an operator uses it: real files, real exit codes."""

from __future__ import annotations

import argparse
import importlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import structlog

from tests.support.server import READ_KEY, SECRETS
from tests.support.samples import SAMPLES
from tests.support.tampering import Tampered
from tracker.cli.main import COMMANDS, main
from tracker.demo.show import config_text
from tracker.demo.calls import whole_call

START = 1_700_000_000_000_000
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    config = tmp_path / "config.toml"
    config.write_text(config_text(tmp_path, SECRETS, READ_KEY, 0), "utf-8")

    def command(name: str, *arguments: str) -> tuple[int, str, str]:
        try:
            code = main([name, "--config", str(config), *arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, stderr = capsys.readouterr()
        return code, out, stderr

    return command


@pytest.fixture
def filled(run: Run, tmp_path: Path) -> Run:
    """A log with one whole LiveKit call and one OpenVidu call, and its views."""
    assert run("init")[0] == 0
    for vendor, source in (("livekit", "lk"), ("openvidu", "ov")):
        path = tmp_path / f"{vendor}.jsonl"
        path.write_bytes(b"\n".join(sent.body for sent in whole_call(vendor, START)) + b"\n")
        code, _, stderr = run("import", source, str(path))
        assert code == 0, stderr
    assert run("rebuild")[0] == 0
    return run


def test_each_command_is_declared_by_the_module_that_the_table_names() -> None:
    for module, names in COMMANDS.items():
        top = argparse.ArgumentParser()
        subparsers = top.add_subparsers()
        importlib.import_module(f"tracker.cli.{module}").add_to(subparsers)
        assert tuple(subparsers.choices) == names


def test_a_command_imports_no_other_commands() -> None:
    program = "import sys\nfrom tracker.cli.main import parser\nparser(['init'])\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "tracker.cli.init" in loaded
    assert not {"tracker.cli.serve", "tracker.cli.verify", "aiohttp.web"} & set(loaded)


def test_init_creates_a_config_and_a_log_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "new" / "config.toml"
    assert main(["init", "--config", str(config)]) == 0
    assert (tmp_path / "new" / "data" / "log.db").exists()
    assert main(["init", "--config", str(config)]) == 1
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("import", "nobody", "x"), "nobody"),
        (("sessions", "--from", "yesterday"), "from"),
        (("timeline", "nothing"), "nothing"),
        (("token", "--scope", "everything"), "everything"),
        (("token", "--scope", "read:sessions", "--source", "nobody"), "nobody"),
        (("token", "--scope", "read:sessions", "--expires", "soon"), "--expires"),
        (("records", "--body", "99999"), "99999"),
        (("fly",), "fly"),
    ],
)
def test_wrong_arguments_exit_with_2_and_are_named(filled: Run, arguments: tuple[str, ...], word: str) -> None:
    code, _, stderr = filled(*arguments)
    assert code == 2
    assert word in stderr


def test_an_import_reports_every_line_and_a_second_one_adds_nothing(run: Run) -> None:
    run("init")
    file = str(SAMPLES / "openvidu2-cdr.jsonl")
    code, out, _ = run("import", "ov", file, "--json")
    (first,) = json.loads(out)
    assert (code, first["new"] + first["known"], first["unreadable"]) == (0, first["lines"], [])
    code, out, _ = run("import", "ov", file, "--json")
    (again,) = json.loads(out)
    assert (code, again["new"], again["known"]) == (0, 0, first["lines"])


def test_an_import_with_unreadable_lines_exits_with_1_and_lists_them(run: Run, tmp_path: Path) -> None:
    run("init")
    file = tmp_path / "bad.jsonl"
    file.write_bytes(b'{"event":"sessionCreated","sessionId":"s","timestamp":1714770057250}\nnonsense\n')
    code, out, _ = run("import", "ov", str(file), "--json")
    assert code == 1
    assert json.loads(out)[0]["unreadable"] == [2]


def test_sessions_and_timeline_print_tables_and_the_json_of_the_api(filled: Run) -> None:
    code, out, _ = filled("sessions", "--json")
    found = json.loads(out)
    assert code == 0
    assert {session["source"] for session in found["items"]} == {"lk", "ov"}
    assert "complete" in filled("sessions")[1]
    (livekit,) = json.loads(filled("sessions", "--source", "lk", "--json")[1])["items"]
    entries = json.loads(filled("timeline", livekit["id"], "--json")[1])["items"]
    assert entries[0]["kind"] == "session.started"
    assert entries == json.loads(filled("timeline", livekit["room"]["name"], "--json")[1])["items"]
    joined = json.loads(filled("timeline", livekit["id"], "--kind", "participant.joined", "--json")[1])["items"]
    assert {entry["kind"] for entry in joined} == {"participant.joined"}
    assert "participant.left" in filled("timeline", livekit["id"])[1]


def test_an_export_is_imported_byte_for_byte(filled: Run, tmp_path: Path) -> None:
    exported = tmp_path / "out.jsonl"
    assert filled("export", "--source", "lk", "--out", str(exported))[0] == 0
    assert filled("export", "--source", "lk", "--out", str(exported))[0] == 2
    lines = [json.loads(line) for line in exported.read_bytes().splitlines()]
    assert [line["body_text"].encode() for line in lines] == [sent.body for sent in whole_call("livekit", START)]
    code, out, _ = filled("import", "lk", str(exported), "--json")
    assert (code, json.loads(out)[0]["known"]) == (0, len(lines))
    session = json.loads(filled("sessions", "--source", "lk", "--json")[1])["items"][0]["id"]
    assert len(filled("export", session)[1].splitlines()) == len(lines)


def test_a_body_is_printed_unchanged(filled: Run, tmp_path: Path) -> None:
    assert filled("verify")[0] == 0
    command = [sys.executable, "-m", "tracker", "records", "--config", str(tmp_path / "config.toml"), "--body", "1"]
    printed = subprocess.run(command, capture_output=True, check=True).stdout
    assert printed == whole_call("livekit", START)[0].body


@pytest.mark.parametrize(
    "arguments", [("records", "--limit", "2"), ("records", "daily-standup", "--limit", "2", "--json"), ("export",)]
)
def test_a_command_ends_quietly_when_its_output_pipe_is_closed(
    filled: Run, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    command = [sys.executable, "-m", "tracker", *arguments, "--config", str(tmp_path / "config.toml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(20) == 0
        assert process.stderr.read() == b""


def test_verify_finds_a_changed_body(filled: Run, tmp_path: Path) -> None:
    assert filled("verify")[0] == 0
    with closing(Tampered(tmp_path / "log.db")) as log:
        log.run(
            "UPDATE records SET body = CAST(replace(CAST(body AS TEXT), 'sessionId', 'sessionid') AS BLOB) WHERE position = 20"
        )
    code, out, stderr = filled("verify")
    assert code == 1, out + stderr
    assert "position 20" in out


def test_check_names_the_rows_that_differ(filled: Run, tmp_path: Path) -> None:
    assert filled("rebuild", "--check")[0] == 0
    with closing(sqlite3.connect(tmp_path / "views.db", isolation_level=None)) as views:
        views.execute("DELETE FROM connections WHERE id = (SELECT min(id) FROM connections)")
    code, out, _ = filled("rebuild", "--check")
    assert code == 1
    assert "connection" in out
    assert filled("rebuild")[0] == 0
    assert filled("rebuild", "--check")[0] == 0
    assert not list(tmp_path.glob("views.db-rebuild*"))
    assert not list(tmp_path.glob("views.db-check*"))


def test_views_of_another_version_are_not_read_but_rebuilt(filled: Run, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "views.db", isolation_level=None)) as views:
        views.execute("UPDATE meta SET value = 'another' WHERE key = 'stamp'")
    code, _, stderr = filled("sessions")
    assert code == 1
    assert "tracker rebuild" in stderr
    assert filled("rebuild")[0] == 0
    assert filled("sessions")[0] == 0


def test_a_token_is_printed_alone(filled: Run) -> None:
    code, out, _ = filled(
        "token", "--scope", "read:sessions", "--scope", "read:records", "--source", "lk", "--expires", "2h"
    )
    assert code == 0
    assert out.count("\n") == 1
    assert out.count(".") == 2


def test_a_restart_shown_by_a_cdr_file_ends_open_sessions(run: Run, tmp_path: Path) -> None:
    run("init")
    created = (
        b'{"sessionCreated":{"sessionId":"lost","uniqueSessionId":"lost_1700000000000","timestamp":1700000000000}}\n'
    )
    joined = (
        b'{"participantJoined":{"sessionId":"lost","uniqueSessionId":"lost_1700000000000","timestamp":1700000001000,'
        b'"connectionId":"con_1","location":"unknown","ip":"10.0.0.1","platform":"x","clientData":"a","serverData":""}}\n'
    )
    later = b'{"sessionCreated":{"sessionId":"new","uniqueSessionId":"new_1700000100000","timestamp":1700000100000}}\n'
    (tmp_path / "CDR.2023-11-14_22-13-00.log").write_bytes(created + joined)
    (tmp_path / "CDR.2023-11-14_22-15-00.log").write_bytes(later)
    code, out, stderr = run("import", "ov", *(str(path) for path in sorted(tmp_path.glob("CDR*"))))
    assert code == 0, out + stderr
    assert run("rebuild")[0] == 0
    sessions = {each["room"]["id"]: each for each in json.loads(run("sessions", "--json")[1])["items"]}
    assert sessions["lost"]["end"]["provenance"] == "inferred"
    assert sessions["lost"]["end"]["reason"] == "server_shutdown"
    assert sessions["new"]["state"] == "open"


def test_log_lines_go_to_standard_error(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    structlog.reset_defaults()
    run("init")
    structlog.get_logger("a room").warning("a word")
    out, stderr = capsys.readouterr()
    assert (out, "a word" in stderr) == ("", True)

"""`tracker check` says whether a server could start, and changes nothing."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.server import READ_KEY, SECRETS
from tracker.cli.main import main
from tracker.config.version import tracker_version
from tracker.demo.show import config_text

Check = Callable[[], tuple[int, dict[str, tuple[str, str]]]]


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    config = tmp_path / "config.toml"
    config.write_text(config_text(tmp_path, SECRETS, READ_KEY, 0), "utf-8")

    def run() -> tuple[int, dict[str, tuple[str, str]]]:
        capsys.readouterr()
        before = {path.name for path in tmp_path.iterdir()}
        code = main(["check", "--config", str(config), "--json"])
        found = json.loads(capsys.readouterr().out)
        after = {path.name for path in tmp_path.iterdir()}
        assert {name for name in after - before if not name.endswith(("-wal", "-shm", "-lock"))} == set()
        return code, {each["name"]: (each["outcome"], each["detail"]) for each in found}

    return run


def test_a_server_cannot_start_before_init_and_can_after_it(check: Check, tmp_path: Path) -> None:
    code, found = check()
    assert (code, found["log"][0]) == (1, "problem")
    assert "tracker init" in found["log"][1]
    assert main(["init", "--config", str(tmp_path / "config.toml")]) == 0
    code, found = check()
    assert code == 0, found
    assert {outcome for outcome, _ in found.values()} <= {"ok", "note"}
    assert found["views"][0] == "note"
    assert main(["rebuild", "--config", str(tmp_path / "config.toml")]) == 0
    assert check()[1]["views"][0] == "ok"


def test_what_keeps_a_server_from_starting_is_a_problem_with_a_remedy(check: Check, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    assert main(["init", "--config", str(config)]) == 0
    log = (tmp_path / "log.db").read_bytes()
    (tmp_path / "log.db").write_bytes(b"no log at all" * 1000)
    code, found = check()
    assert (code, found["log"][0]) == (1, "problem")
    assert "check log.path" in found["log"][1]
    (tmp_path / "log.db").write_bytes(log)
    config.write_text(config.read_text("utf-8").replace("views.db", "nowhere/views.db"), "utf-8")
    code, found = check()
    assert (code, found["folder of the views"][0]) == (1, "problem")
    assert "create it" in found["folder of the views"][1]


def test_an_address_in_use_is_a_note(check: Check, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    assert main(["init", "--config", str(config)]) == 0
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config.write_text(config.read_text("utf-8").replace("port = 0", f"port = {port}"), "utf-8")
        code, found = check()
    assert (code, found["address"][0]) == (0, "note")
    assert "a server may be running there" in found["address"][1]


def test_a_folder_that_cannot_be_written_is_a_problem(check: Check, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    assert main(["init", "--config", str(tmp_path / "config.toml")]) == 0
    tmp_path.chmod(0o555)
    try:
        code, found = check()
    finally:
        tmp_path.chmod(0o755)
    assert (code, found["folder of the log"][0]) == (1, "problem")


def test_wrong_configuration_exits_with_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.toml").write_text("[server]\nprot = 1\n", "utf-8")
    assert main(["check", "--config", str(tmp_path / "config.toml")]) == 2
    assert "prot" in capsys.readouterr().err


def test_the_version_is_printed_and_config_may_stand_before_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"tracker {tracker_version()}\n")
    for words in (["--config", str(tmp_path / "a.toml"), "init"], [f"--config={tmp_path / 'b.toml'}", "init"]):
        assert main(words) in {0, 1}
    assert {path.name for path in tmp_path.glob("*.toml")} == {"a.toml", "b.toml"}
    assert main(["--config", str(tmp_path / "a.toml"), "sessions", "--json"]) in {0, 1}

"""An encrypted log is verified without its keys; an erasure invalidates no proof, and a forged erasure is reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.server import READ_KEY, SECRETS
from tests.support.tampering import Tampered
from tracker.cli.main import main
from tracker.demo.show import config_text
from tracker.demo.calls import whole_call

SEALING = '[sealing]\nkeys = [{ id = "main", secret = "' + "ab" * 32 + '" }]\n'
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command on an encrypted log that has one complete call of each of two vendors and a checkpoint."""
    config = tmp_path / "config.toml"
    config.write_text(config_text(tmp_path, SECRETS, READ_KEY, 0).replace("[access]", f"{SEALING}[access]"), "utf-8")

    def command(name: str, *arguments: str) -> tuple[int, str, str]:
        code = main([name, "--config", str(config), *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    assert command("init")[0] == 0
    for vendor, source in (("livekit", "lk"), ("openvidu", "ov")):
        path = tmp_path / f"{vendor}.jsonl"
        path.write_bytes(b"\n".join(sent.body for sent in whole_call(vendor, 1_700_000_000_000_000)) + b"\n")
        assert command("import", source, str(path))[0] == 0
    assert command("checkpoint")[0] == 0
    assert command("rebuild")[0] == 0
    return command


def remove_master_keys(tmp_path: Path) -> None:
    """Leave what an auditor has: no master key."""
    config = tmp_path / "config.toml"
    config.write_text(config.read_text("utf-8").replace(SEALING, ""), "utf-8")


def change(path: Path, *statements: str) -> None:
    with closing(Tampered(path)) as log:
        for each in statements:
            log.run(each)


def test_an_encrypted_log_verifies_with_views_and_proofs(run: Run) -> None:
    code, out, err = run("verify", "--views", "--proofs", "--json")
    assert code == 0, out + err
    result = json.loads(out)
    assert (result["checkpoints"], result["shipped"], result["views"], result["faults"]) == (1, 1, [], [])
    assert result["proofs"] == {"import": result["records"]}


def test_without_a_master_key_the_log_verifies_and_no_body_is_read(run: Run, tmp_path: Path) -> None:
    remove_master_keys(tmp_path)
    assert run("verify")[0] == 0
    assert run("proof", "inclusion", "3")[0] == 0
    code, _, err = run("verify", "--proofs")
    assert code == 1
    assert "records are encrypted, but no master key is configured" in err
    change(
        tmp_path / "log.db",
        "UPDATE records SET body = body || x'00' WHERE position = 3".replace(
            "body || x'00'", "CAST(body || x'00' AS BLOB)"
        ),
    )
    code, out, _ = run("verify")
    assert code == 1
    assert "position 3: the record does not match its leaf" in out


def test_after_an_erasure_every_checkpoint_still_holds(run: Run) -> None:
    session = json.loads(run("sessions", "--source", "lk", "--json")[1])["items"][0]["id"]
    code, out, err = run("erase", "--session", session, "--yes")
    assert code == 0, out + err
    code, out, err = run("verify", "--proofs", "--json")
    assert code == 0, out + err
    result = json.loads(out)
    assert result["checkpoints"] == 1
    assert result["proofs"]["erased"] > 0


def test_an_erasure_without_an_erasure_record_is_reported(run: Run, tmp_path: Path) -> None:
    change(
        tmp_path / "log.db",
        "INSERT INTO erasures (position, erased_by) VALUES (4, 9)",
        "INSERT INTO erasures (position, erased_by) VALUES (5, 900)",
    )
    code, out, _ = run("verify")
    assert code == 1
    assert "position 4: the log treats it as erased by the record at 9, which does not name it" in out
    assert "position 5: the log treats it as erased by the record at 900, which does not exist" in out


def test_a_hidden_erasure_is_reported(run: Run, tmp_path: Path) -> None:
    session = json.loads(run("sessions", "--json")[1])["items"][0]["id"]
    assert run("erase", "--session", session, "--yes")[0] == 0
    change(tmp_path / "log.db", "DELETE FROM erasures WHERE position = (SELECT min(position) FROM erasures)")
    code, out, _ = run("verify")
    assert code == 1
    assert "erased it, but the log does not treat it as erased" in out


def test_a_changed_erasure_record_is_reported_once(run: Run, tmp_path: Path) -> None:
    session = json.loads(run("sessions", "--json")[1])["items"][0]["id"]
    assert run("erase", "--session", session, "--yes")[0] == 0
    change(tmp_path / "log.db", "UPDATE records SET body = zeroblob(80) WHERE source = 'tracker'")
    code, out, err = run("verify")
    assert code == 1, err
    assert "does not decrypt" in out
    assert "the record does not match its leaf" in out
    assert "does not name it" not in out


def test_a_hash_of_records_that_do_not_exist_is_reported(run: Run, tmp_path: Path) -> None:
    change(tmp_path / "log.db", "INSERT INTO tiles (level, n, hash) VALUES (1, 7, zeroblob(32))")
    code, out, _ = run("verify")
    assert code == 1
    assert "hash 7 of level 1 of the stored tree is about records that do not exist" in out


def test_a_key_destroyed_without_an_erasure_record_is_reported(run: Run, tmp_path: Path) -> None:
    (keys,) = [path for path in tmp_path.rglob("keys.db")]
    change(keys, "DELETE FROM keys WHERE position = 6")
    assert run("verify")[0] == 0
    code, out, _ = run("verify", "--proofs")
    assert code == 1
    assert "position 6: its data key is missing, and no record says that it was erased" in out

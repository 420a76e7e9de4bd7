"""docs/explanation/evidence.md: its program, which imports nothing of Tracker, accepts a true record and no other."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import DOCS
from tracker.domain.record_json import record_to_json
from tracker.log.merkle.checkpoint import checkpoint_text
from tracker.log.merkle.note import Signer, sign_note
from tracker.log.merkle.tree import inclusion_proof
from tests.support.memory_log import MemoryLog
from tracker.domain.deliveries import Verified

PAGE = DOCS / "explanation" / "evidence.md"
PROGRAM = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)[0]
SIGNER = Signer.generate("tracker.test/log")
AT = 9


@pytest.fixture
async def files(tmp_path: Path) -> list[Path]:
    """Checkpoint, key, exported record and proof of position 9 of 21."""
    log = MemoryLog()
    for n in range(21):
        body = b"\xff\xfe not UTF-8" if n == 3 else '{"name":"Zoë"}'.encode()
        await log.append(
            Verified(
                source="lk", vendor="livekit", event="room_started", dedupe_key=f"kéy-{n}",
                received_at=1_700_000_000_123_456 + n, origin="webhook",
                proof='{"iss":"ä","sha256":"x","headers":{"a":[1,2]}}'.encode(), body=body,
            )
        )  # fmt: skip
    size, root = await log.tree_head()
    record = await log.record(AT)
    assert record is not None
    hashes = [base64.b64encode(each).decode() for each in await inclusion_proof(AT - 1, size, log.tile)]
    contents = {
        "checkpoint": sign_note(checkpoint_text(SIGNER.name, size, root), [Signer.generate("witness/w"), SIGNER]),
        "key": f"{SIGNER.verifier}\n",
        "record.json": json.dumps(record_to_json(record)),
        "proof.json": json.dumps({"hashes": hashes}),
    }
    for name, text in contents.items():
        (tmp_path / name).write_text(text, "utf-8")
    return [tmp_path / name for name in contents]


def run(files: list[Path]) -> tuple[int, str]:
    command = [sys.executable, "-X", "utf8", "-c", PROGRAM, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def change_record(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | fields), "utf-8")


def test_the_program_has_forty_lines_and_nothing_of_tracker() -> None:
    assert "import tracker" not in PROGRAM
    assert "from tracker" not in PROGRAM
    assert len([line for line in PROGRAM.splitlines() if line.strip()]) <= 42


def test_it_accepts_a_record_that_is_in_the_log(files: list[Path]) -> None:
    assert run(files) == (0, f"position {AT} is in tracker.test/log, signed at 21 records\n")


@pytest.mark.parametrize(
    "change",
    [{"body_text": '{"name":"Zoe"}'}, {"position": 8}, {"source": "ov"}, {"event": ""}, {"dedupe_key": "kéy-9"},
     {"received_at": "2023-11-14T22:13:20.123465Z"}, {"origin": "import"}, {"proof": {"iss": "a"}}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_it_rejects_any_other_record(files: list[Path], change: dict[str, Any]) -> None:
    change_record(files[2], **change)
    code, output = run(files)
    assert code != 0
    assert "the record is not in this log" in output


def test_it_rejects_any_other_checkpoint(files: list[Path]) -> None:
    files[0].write_text(files[0].read_text("utf-8").replace("\n21\n", "\n22\n"), "utf-8")
    code, output = run(files)
    assert (code != 0, "InvalidSignature" in output) == (True, True)

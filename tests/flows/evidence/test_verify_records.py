"""A log that an earlier version wrote verifies: its dedupe keys followed from other fields."""

from __future__ import annotations

import hashlib
import json

import msgspec
import pytest

from tests.support.memory_log import MemoryLog
from tests.support.paths import SAMPLES
from tracker.evidence.sources_in_force import SourcesInForce
from tracker.evidence.verify_log import Verification
from tracker.evidence.verify_records import check_proofs
from tracker.log.declaration_records import DeclarationHistory
from tracker.sources import registry
from tracker.sources.contract import SourceSettings

SOURCE = registry.build(SourceSettings(name="ov", vendor="openvidu"))
LINES = (SAMPLES / "field" / "openvidu-04" / "a-openvidu-server.log").read_text().splitlines()
LOGGED = [line[line.index("{") :].encode() for line in LINES if '"elastic_type":"cdr"' in line]
NAMED = json.dumps({
    "recordingStatusChanged": {"id": "r", "startTime": 1, "status": "ready", "timestamp": 2, "name": "سلام"}
}).encode()  # fmt: skip


async def faults(body: bytes, key: str | None) -> list[str]:
    log = MemoryLog()
    verified = SOURCE.verify_trusted(body, received_at=1, proof={})
    await log.append(verified if key is None else msgspec.structs.replace(verified, dedupe_key=key))
    found = Verification()
    await check_proofs(log, SourcesInForce({}, DeclarationHistory()), found)
    return [fault.what for fault in found.faults]


@pytest.mark.parametrize("body", [LOGGED[0], LOGGED[-1], NAMED])
async def test_a_record_verifies_under_its_key_of_today_and_of_before_and_no_other(body: bytes) -> None:
    (former,) = registry.VENDORS["openvidu"].former_keys(body)
    assert former != SOURCE.verify_trusted(body, received_at=1, proof={}).dedupe_key
    assert await faults(body, None) == []
    assert await faults(body, former) == []
    (fault,) = await faults(body, hashlib.sha256(b"another").hexdigest())
    assert "dedupe key" in fault

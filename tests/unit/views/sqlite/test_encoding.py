"""Encoded rows decode to the same rows, common ones and odd ones."""

from __future__ import annotations

from typing import Any

import pytest
from tracker.domain.rows import Anomaly, End, EntryRow, SessionRow
from tracker.views.sqlite import encoding

AT = 1_790_000_000_000_000


def entry(**more: Any) -> EntryRow:
    fields: dict[str, Any] = {
        "id": "7-1", "session_id": "ov:a", "position": 7, "n": 1, "at": AT, "received_at": AT + 5, "kind": "participant.left",
        "subject_type": "participant", "subject_id": "ann", "actor": "ann", "detail": {"reason": "left", "n": [1, None]},
        "source": "ov", "provenance": "reported", "clock": "server", "dedupe_key": "ab" * 32, "hidden": False,
    }  # fmt: skip
    return EntryRow(**{**fields, **more})


@pytest.mark.parametrize(
    "odd",
    [
        {}, {"dedupe_key": "AB" * 32}, {"dedupe_key": "a b" * 21 + "c"}, {"dedupe_key": "zz" * 32}, {"dedupe_key": ""},
        {"kind": "of.tomorrow"}, {"subject_type": "planet"}, {"clock": "receiver", "provenance": "inferred"},
        {"received_at": None}, {"received_at": AT - 9}, {"actor": None}, {"actor": "bob"}, {"subject_id": None, "actor": None},
        {"hidden": True}, {"session_id": None},
    ],
)  # fmt: skip
def test_an_entry_decodes_to_the_same_entry(odd: dict[str, Any]) -> None:
    row = entry(**odd)
    columns = (
        row.position,
        row.n,
        row.session_id,
        row.at,
        encoding.number_of_kind(row.kind),
        row.subject_id,
        row.source,
    )
    assert encoding.decode_entry((*columns, row.hidden, encoding.encode_entry(row))) == row


def test_a_common_key_takes_half_the_bytes_and_a_common_kind_is_a_number() -> None:
    assert len(encoding.encode_entry(entry())) < len(encoding.encode_entry(entry(dedupe_key="AB" * 32)))
    assert isinstance(encoding.number_of_kind("participant.left"), int)


@pytest.mark.parametrize("end", [None, End(reason="left", vendor_reason=None, provenance="derived")])
def test_a_session_decodes_from_its_columns_and_its_doc(end: End | None) -> None:
    row = SessionRow(
        id="ov:a", source="ov", vendor="openvidu", room_id="a", room_name=None, vendor_ids={"sessionId": ["a", "b"]},
        state="ended", created_at=1, started_at=2, ended_at=None, duration_ms=3, start_provenance="reported", end=end,
        participants=4, peak_participants=5, participant_ms=6, recordings=7, supervisors=8, completeness="repaired",
        anomalies=[Anomaly(kind="overlap", position=None, detail="x")], first_position=9, last_position=10,
        last_event_at=11, begins_at=12,
    )  # fmt: skip
    columns = [getattr(row, name) for name in encoding.SESSION_COLUMNS]
    assert encoding.sessions.decode(encoding.sessions.encode(row), columns) == row


def test_a_state_of_an_ended_session_is_compressed() -> None:
    state = b"the same words " * 50
    for is_open in (True, False):
        assert encoding.decompress_state(encoding.compress_state(state, is_open=is_open)) == state
    assert len(encoding.compress_state(state, is_open=False)) < len(state) // 4

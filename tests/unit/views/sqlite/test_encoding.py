"""What is packed comes back as it was, the usual and the odd."""

from __future__ import annotations

from typing import Any

import pytest
from tracker.domain.rows import Anomaly, End, EntryRow, SessionRow
from tracker.views.sqlite import encoding as packing

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
def test_an_entry_comes_back_as_it_was(odd: dict[str, Any]) -> None:
    row = entry(**odd)
    columns = (
        row.position,
        row.n,
        row.session_id,
        row.at,
        packing.number_of_kind(row.kind),
        row.subject_id,
        row.source,
    )
    assert packing.decode_entry((*columns, row.hidden, packing.encode_entry(row))) == row


def test_a_usual_entry_tells_its_key_in_half_and_its_kind_in_a_number() -> None:
    assert len(packing.encode_entry(entry())) < len(packing.encode_entry(entry(dedupe_key="AB" * 32)))
    assert isinstance(packing.number_of_kind("participant.left"), int)


@pytest.mark.parametrize("end", [None, End(reason="left", vendor_reason=None, provenance="derived")])
def test_a_session_comes_back_from_its_columns_and_the_rest(end: End | None) -> None:
    row = SessionRow(
        id="ov:a", source="ov", vendor="openvidu", room_id="a", room_name=None, vendor_ids={"sessionId": ["a", "b"]},
        state="ended", created_at=1, started_at=2, ended_at=None, duration_ms=3, start_provenance="reported", end=end,
        participants=4, peak_participants=5, participant_ms=6, recordings=7, supervisors=8, completeness="repaired",
        anomalies=[Anomaly(kind="overlap", position=None, detail="x")], first_position=9, last_position=10,
        last_event_at=11, begins_at=12,
    )  # fmt: skip
    columns = [getattr(row, name) for name in packing.SESSION_COLUMNS]
    assert packing.sessions.decode(packing.sessions.encode(row), columns) == row


def test_a_state_comes_back_and_is_smaller() -> None:
    state = b"the same words " * 50
    for is_open in (True, False):
        assert packing.decompress_state(packing.compress_state(state, is_open=is_open)) == state
    assert len(packing.compress_state(state, is_open=False)) < len(state) // 4

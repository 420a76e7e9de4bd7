"""Recordings: lengths without starts, uploads that failed and succeeded, and what each step leaves behind."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.support.cases import iso, lk, project, seconds, session_of, timeline_of
from tracker.domain import facts as f
from tracker.projections.folding import fold
from tracker.projections.rendering import RenderContext, render
from tracker.projections.sourced_fact import SourcedFact
from tracker.projections.state import SessionState

S = 1_000_000


def egress(event: str, at: float, **info: Any) -> dict[str, Any]:
    return lk(event, at, egressInfo={"egressId": "EG_1", "roomId": "RM_1", "roomName": "standup"} | info)


async def test_an_end_without_a_start_that_states_a_length_gives_start_and_length_derived() -> None:
    over = egress(
        "egress_ended", 700, status="EGRESS_COMPLETE", endedAt="@ns:651", fileResults=[{"duration": "600000000000"}]
    )
    (recording,) = (await session_of("lk", [over])).recordings
    assert (seconds(recording.started_at), seconds(recording.stopped_at), recording.duration_ms) == (51, 651, 600_000)
    assert (recording.start_provenance, recording.stop_provenance) == ("derived", "reported")


async def test_times_of_an_egress_are_also_read_from_its_file() -> None:
    made = {"startedAt": "@ns:51", "endedAt": "@ns:651", "duration": "599000000000"}
    over = egress("egress_ended", 700, status="EGRESS_COMPLETE", fileResults=[made])
    (recording,) = (await session_of("lk", [over])).recordings
    assert (seconds(recording.started_at), seconds(recording.stopped_at), recording.duration_ms) == (51, 651, 599_000)


async def test_an_end_that_states_only_a_length_is_over_with_its_event() -> None:
    over = egress("egress_ended", 700, status="EGRESS_COMPLETE", fileResults=[{"duration": "600000000000"}])
    (recording,) = (await session_of("lk", [over])).recordings
    assert (seconds(recording.started_at), recording.start_provenance, recording.duration_ms) == (
        100,
        "derived",
        600_000,
    )


async def test_a_meet_recording_that_states_no_start_begins_its_length_before_its_end() -> None:
    data = {"recordingId": "r--EG_1--x", "roomId": "r", "status": "complete", "endDate": f"@i:{700}000", "duration": 60}
    body = {"event": "recordingEnded", "creationDate": 1_790_000_710_000, "data": data | {"endDate": 1_790_000_700_000}}
    (recording,) = (await session_of("meet", [body | {"received": 710}])).recordings
    assert (seconds(recording.started_at), recording.start_provenance, recording.duration_ms) == (
        640,
        "derived",
        60_000,
    )


def uploaded(after: float, **more: Any) -> tuple[dict[str, Any], dict[str, str]]:
    body = {"status": "upload_ready", "rec_id": "R1", "client_id": "agent", "received": after}
    return body | {"recording_started_at": iso(10), "recording_stopped_at": iso(90)} | more, {"sid": "S1"}


def failed(after: float, code: int = 503) -> tuple[dict[str, Any], dict[str, str]]:
    body = {
        "status": "upload_failed",
        "rec_id": "R1",
        "client_id": "agent",
        "upload_status_code": code,
        "received": after,
    }
    return body, {"sid": "S1"}


async def test_a_streamrec_upload_whose_start_was_never_set_begins_its_length_before_its_stop() -> None:
    upload = uploaded(100, recording_started_at="0001-01-01T00:00:00Z", recording_file_duration_ms=80_000)
    (recording,) = (await session_of("rec", [upload])).recordings
    assert (seconds(recording.started_at), recording.start_provenance, recording.duration_ms) == (10, "derived", 80_000)


async def test_an_upload_that_succeeded_leaves_no_old_failure_beside_it_but_in_the_timeline() -> None:
    for order in ([failed(95), uploaded(120)], [uploaded(120), failed(95)]):
        (recording,) = (await session_of("rec", order)).recordings
        assert (recording.upload_status, recording.upload_http_status, recording.status) == (
            "uploaded",
            None,
            "uploaded",
        )
        entries = await timeline_of("rec", order)
        assert [each.detail["http_status"] for each in entries if each.kind == "recording.upload_failed"] == [503]


async def test_an_upload_that_only_failed_shows_the_answer_of_the_store() -> None:
    (recording,) = (await session_of("rec", [failed(95), failed(99, 500)])).recordings
    assert (recording.upload_status, recording.upload_http_status) == ("failed", 500)


async def test_a_measured_zero_is_a_length_and_a_size() -> None:
    (recording,) = (
        await session_of("rec", [uploaded(100, recording_file_duration_ms=0, recording_file_size_bytes=0)])
    ).recordings
    assert (recording.duration_ms, recording.size_bytes) == (0, 0)


MOMENTS = st.integers(1, 60).map(lambda second: second * S)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([f.RecordingStarted, f.RecordingStopped, f.RecordingReady, f.RecordingUploadFailed, f.RecordingUploaded]),
            MOMENTS,
            st.one_of(st.none(), MOMENTS),
            st.one_of(st.none(), st.integers(0, 90_000)),
            st.one_of(st.none(), st.sampled_from([200, 503])),
        ),
        min_size=1,
        max_size=6,
    )
)  # fmt: skip
def test_a_recording_with_an_end_and_a_length_has_a_start_and_a_failed_upload_alone_has_an_answer(
    steps: list[Any],
) -> None:
    state = SessionState(source="s", vendor="v", run="R")
    for n, (kind, at, stopped, lasted, code) in enumerate(steps):
        fact = kind(
            at=at, place=f.SessionRef(at=at, run="R"), recording="A", stopped_at=stopped, duration_ms=lasted,
            http_status=code if kind is f.RecordingUploadFailed else None,
        )  # fmt: skip
        fold(state, SourcedFact(fact, n + 1, 0, "s", "v", f"k{n}", 0))
    (row,) = render(state, RenderContext(rules=f.RunRules())).recordings
    if row.stopped_at is not None and row.duration_ms is not None and row.stopped_at > row.duration_ms * 1000:
        assert row.started_at is not None
    if row.upload_http_status is not None:
        assert row.upload_status == "failed"
    assert ("uploaded" in {each["status"] for each in row.history}) == (row.upload_status == "uploaded")


async def test_the_recordings_of_a_session_are_distinguished() -> None:
    views = await project("rec", [uploaded(100), uploaded(101, rec_id="R2")])
    assert [row.vendor_id for rows in views.sessions.values() for row in rows.recordings] == ["R1", "R2"]

"""A recording's step that is sent again, with other bytes and another time, is one entry of the timeline."""

from __future__ import annotations

import asyncio
from itertools import permutations
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.cases import START, Message, iso, lk, seconds, signed, source_of, to_send
from tests.support.memory_log import MemoryLog
from tracker.domain.rows import EntryRow
from tracker.projector.projector import Projector
from tracker.views.sqlite.views import SqliteViews


async def timeline(hook: str, session: str, messages: list[Message], folder: Path, batch: int = 3) -> list[EntryRow]:
    """The timeline of a session after these deliveries; the live stream shows the same entries."""
    source, log, path = source_of(hook), MemoryLog(), folder / "views.db"
    for message in messages:
        await log.append(source.verify(signed(hook, to_send(message))))
    path.unlink(missing_ok=True)
    await SqliteViews.create(path)
    views = await SqliteViews.open(path, writable=True)
    try:
        await Projector(log, views, batch_size=batch).catch_up()
        entries, _ = await views.timeline(session, kinds=(), subject=None, limit=100, cursor=None)
        live = await views.entries_after(0, 0, limit=1_000)
        shown = {entry.id for entry in live if entry.session_id == session}
        assert {entry.id for entry in entries if entry.received_at is not None} == shown
    finally:
        await views.close()
        await log.close()
    return entries


def kinds(entries: list[EntryRow]) -> list[str]:
    return [each.kind for each in entries if each.kind.startswith("recording.") and each.received_at is not None]


def uploaded(received: float, msg: str = "ok", **more: Any) -> Message:
    body = {"status": "upload_ready", "msg": msg, "rec_id": "R1", "client_id": "agent", "received": received}
    return body | {"recording_started_at": iso(10), "recording_stopped_at": iso(90)} | more, {"sid": "S1"}


def failed(received: float, code: int, msg: str = "store") -> Message:
    body = {"status": "upload_failed", "msg": msg, "rec_id": "R1", "client_id": "agent", "received": received}
    return body | {"upload_status_code": code}, {"sid": "S1"}


async def test_repeats_of_one_upload_are_one_entry_at_the_first_of_them_in_whatever_order(tmp_path: Path) -> None:
    sent = [uploaded(100), uploaded(130, "again"), uploaded(160, "and again")]
    for order in permutations(sent):
        entries = await timeline("rec", "rec:S1", list(order), tmp_path, batch=1)
        assert kinds(entries) == ["recording.stopped", "recording.uploaded"]
        assert [seconds(each.at) for each in entries if each.kind == "recording.uploaded"] == [100]


async def test_a_failed_attempt_and_the_upload_that_succeeded_are_both_shown_and_each_once(tmp_path: Path) -> None:
    sent = [failed(95, 503), failed(97, 503, "again"), failed(99, 500), uploaded(120), uploaded(140, "again")]
    entries = await timeline("rec", "rec:S1", sent, tmp_path)
    assert sorted(kinds(entries)) == [
        "recording.stopped", "recording.upload_failed", "recording.upload_failed", "recording.uploaded",
    ]  # fmt: skip
    assert [each.detail["http_status"] for each in entries if each.kind == "recording.upload_failed"] == [503, 500]


async def test_uploads_of_two_recordings_and_of_two_sessions_are_told_apart(tmp_path: Path) -> None:
    body, _ = uploaded(130, "other")
    sent = [
        uploaded(100),
        uploaded(101, rec_id="R2"),
        (body, {"sid": "S2"}),
        uploaded(140, recording_file_size_bytes=7),
    ]
    assert kinds(await timeline("rec", "rec:S1", sent, tmp_path)).count("recording.uploaded") == 3
    assert kinds(await timeline("rec", "rec:S2", sent, tmp_path)).count("recording.uploaded") == 1


async def test_a_step_that_meet_sends_again_with_another_date_is_one_entry(tmp_path: Path) -> None:
    def sent(event: str, after: float, **data: Any) -> dict[str, Any]:
        at = round((START + after) * 1000)
        return {"event": event, "creationDate": at, "data": {"roomId": "r"} | data, "received": after}

    about = {"recordingId": "r--EG_1--x", "startDate": (START + 10) * 1000}
    over = about | {"status": "complete", "endDate": (START + 90) * 1000}
    sent: list[Message] = [
        sent("meetingStarted", 0), sent("recordingStarted", 10, status="starting", **about),
        sent("recordingEnded", 95, **over), sent("recordingEnded", 99, **over), sent("recordingStarted", 12, status="starting", **about),
    ]  # fmt: skip
    entries = await timeline("meet", f"meet:r_{START}000", sent, tmp_path)
    assert kinds(entries) == ["recording.started", "recording.stopped", "recording.ready"]


def openvidu(event: str, after: float, **fields: Any) -> dict[str, Any]:
    return {"sessionId": "r", "timestamp": round((START + after) * 1000), **fields, "event": event, "received": after}


def openvidu_recording(status: str, after: float, **fields: Any) -> dict[str, Any]:
    about = {"id": "r", "name": "Olá?", "startTime": (START + 10) * 1000, "status": status}
    return openvidu("recordingStatusChanged", after, **about | fields)


async def test_a_failure_that_openvidu_reports_twice_is_one_entry_at_the_first_in_any_order(tmp_path: Path) -> None:
    steps = [
        openvidu_recording("started", 10), openvidu_recording("failed", 10.25),
        openvidu_recording("failed", 10.75, reason="automaticStop"), openvidu_recording("failed", 10.75, name="Ol\ufffd?"),
    ]  # fmt: skip
    for order in permutations(steps):
        entries = await timeline("ov", f"ov:r_{START}000", [openvidu("sessionCreated", 0), *order], tmp_path)
        assert kinds(entries) == ["recording.started", "recording.failed"]
        assert [seconds(each.at) for each in entries if each.kind == "recording.failed"] == [10.25]


async def test_each_status_of_each_recording_of_openvidu_is_an_entry(tmp_path: Path) -> None:
    sent: list[Message] = [
        openvidu("sessionCreated", 0), openvidu_recording("started", 10), openvidu_recording("stopped", 20),
        openvidu_recording("failed", 21), openvidu_recording("failed", 21, id="r~1"),
        openvidu_recording("failed", 31, startTime=(START + 30) * 1000),
        openvidu_recording("updating", 40), openvidu_recording("updating", 41),
    ]  # fmt: skip
    assert kinds(await timeline("ov", f"ov:r_{START}000", sent, tmp_path)) == [
        "recording.started", "recording.stopped", *["recording.failed"] * 3, *["recording.processing"] * 2,
    ]  # fmt: skip


async def test_which_of_two_uploads_that_differ_in_their_message_is_shown_does_not_depend_on_their_order(
    tmp_path: Path,
) -> None:
    sent = [
        uploaded(100, "one"),
        uploaded(100, "two"),
        uploaded(100, "three"),
        failed(95, 503, "a"),
        failed(95, 503, "b"),
    ]
    shown = set[str]()
    for order in permutations(sent):
        entries = await timeline("rec", "rec:S1", list(order), tmp_path)
        assert sorted(kinds(entries)) == ["recording.stopped", "recording.upload_failed", "recording.uploaded"]
        shown.add(str([(each.kind, each.detail) for each in entries if each.received_at is not None]))
    assert len(shown) == 1


async def test_an_end_of_an_egress_that_livekit_sends_again_is_one_entry(tmp_path: Path) -> None:
    def ended(at: float, **more: Any) -> dict[str, Any]:
        info = {
            "egressId": "EG_1",
            "roomId": "RM_1",
            "roomName": "standup",
            "status": "EGRESS_COMPLETE",
            "startedAt": "@ns:10",
        }
        return lk("egress_ended", at, egressInfo=info | {"endedAt": "@ns:90", "updatedAt": f"@ns:{at}"} | more)

    sent: list[Message] = [lk("room_started", 0), ended(91), ended(93), ended(94, details="another end")]
    entries = await timeline("lk", "lk:RM_1", sent, tmp_path)
    assert kinds(entries) == ["recording.stopped", "recording.stopped", "recording.ready", "recording.ready"]


MESSAGES = [uploaded(100 + n, f"attempt {n}") for n in range(3)] + [
    failed(80 + n, 503, f"attempt {n}") for n in range(3)
]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(MESSAGES), batch=st.integers(1, 4))
def test_any_order_and_any_batches_show_the_same_entries(order: list[Message], batch: int, tmp_path: Path) -> None:
    entries = asyncio.run(timeline("rec", "rec:S1", order, tmp_path, batch))
    assert [(each.kind, seconds(each.at)) for each in entries if each.received_at is not None] == [
        ("recording.upload_failed", 80), ("recording.stopped", 90), ("recording.uploaded", 100),
    ]  # fmt: skip

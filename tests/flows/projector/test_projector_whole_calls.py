"""A complete call of each vendor: in order, reversed, shuffled, repeated, and with every third delivery lost."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracker.demo.calls import VENDORS, SampleDelivery, delivery, whole_call
from tracker.demo.calls import settings as settings_of
from tests.support.memory_log import MemoryLog
from tracker.projector.projector import Projector
from tracker.sources import registry
from tests.support.memory_views import MemoryViews

START = 1_790_000_000_000_000
SECRET = "a-secret-of-at-least-thirty-two-bytes"
ARRIVAL = {"position", "first_position", "last_position", "id_of_entry", "received_at"}


def source_of(vendor: str) -> Any:
    return registry.build(settings_of(vendor, SECRET))


async def views_of(vendor: str, sent: list[SampleDelivery], *, batch: int = 2_000, deferred: int = 0) -> MemoryViews:
    source, log, views = source_of(vendor), MemoryLog(), MemoryViews()
    for one in sent:
        await log.append(source.verify(delivery(vendor, one, SECRET, received_at=one.at)))
    await Projector(log, views, batch_size=batch, deferred_sessions=deferred).catch_up()
    await log.close()
    return views


def content(views: MemoryViews) -> bytes:
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(inner) for name, inner in value.items() if name not in ARRIVAL}
        return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value

    rows: list[Any] = []
    for name in sorted(views.sessions):
        session = msgspec.to_builtins(views.sessions[name])
        del session["state"]
        for gap in session["gaps"]:
            del gap["id"]
        rows.append(plain(session))
    entries = []
    for saved in views.entries.values():
        entry = msgspec.to_builtins(saved.row)
        del entry["id"]
        entries.append(plain(entry))
    entries.sort(
        key=lambda entry: (entry["session_id"] or "", entry["at"], entry["kind"], entry["dedupe_key"], entry["n"])
    )
    return msgspec.json.encode([rows, entries], order="deterministic")


@pytest.mark.parametrize("vendor", VENDORS)
async def test_order_and_repeats_do_not_change_the_views(vendor: str) -> None:
    call = whole_call(vendor, START)
    expected = content(await views_of(vendor, call))
    shuffled = call.copy()
    random.Random(7).shuffle(shuffled)
    for changed in (call[::-1], shuffled, [one for one in call for _ in range(2)], call + call):
        assert content(await views_of(vendor, changed)) == expected


@pytest.mark.parametrize("vendor", VENDORS)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
async def test_any_permutation_with_repeats_in_any_batches_gives_the_same_views(
    vendor: str, data: st.DataObject
) -> None:
    call = whole_call(vendor, START) + whole_call(vendor, START + 3_600_000_000, seed=1)
    order = data.draw(st.permutations(range(len(call))))
    repeats = data.draw(st.lists(st.sampled_from(range(len(call))), max_size=5))
    batch, deferred = data.draw(st.integers(1, 9)), data.draw(st.integers(0, 2))
    changed = [call[n] for n in [*order, *repeats]]
    assert content(await views_of(vendor, changed, batch=batch, deferred=deferred)) == content(
        await views_of(vendor, call)
    )


@pytest.mark.parametrize("vendor", VENDORS)
async def test_a_complete_call_is_one_ended_session_with_its_participants(vendor: str) -> None:
    views = await views_of(vendor, whole_call(vendor, START))
    sessions = [rows.session for rows in views.sessions.values()]
    assert [session.state for session in sessions] == ["ended"]
    assert sessions[0].participants == (1 if vendor == "streamrec" else 2)
    assert sessions[0].recordings == (0 if vendor == "jitsi" else 1)  # event_sync reports no recordings
    assert [a for a in sessions[0].anomalies if a.kind in {"unreadable", "unknown_event"}] == []
    if vendor != "streamrec":
        assert (sessions[0].completeness, sessions[0].anomalies) == ("complete", [])


UNTRACEABLE = {
    ("openvidu_meet", 1): "one person's join and leave were lost, and Meet sends nothing else that names them",
    ("declared", 2): "one person's join and leave were lost, and Zoom sends nothing else that names them",
    ("jaas", 2): "one person's join and leave were lost, and the upload that lists the people",
    ("streamrec", 2): "the supervisor's join and leave were lost",
}
"""Losses that the rest of the call does not show: (vendor, first lost delivery) → reason."""


@pytest.mark.parametrize("first", range(3))
@pytest.mark.parametrize("vendor", VENDORS)
async def test_losses_are_repaired_or_left_open_and_reported(vendor: str, first: int) -> None:
    call = whole_call(vendor, START)
    received = [one for n, one in enumerate(call) if n % 3 != first]
    (session,) = [rows.session for rows in (await views_of(vendor, received)).sessions.values()]
    if (vendor, first) in UNTRACEABLE:
        assert session.completeness == "complete"
        return
    assert session.completeness in {"repaired", "open"}
    assert {anomaly.kind for anomaly in session.anomalies} & {"missing_start", "missing_end"}

"""Views made in two halves, parted anywhere, are those made in one, for any facts in any order."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.projector.test_batch import ROOMS, S, T
from tracker.domain import facts as f
from tracker.domain.deliveries import Record
from tracker.projector.batch import Batch, BatchCache
from tracker.projector.merge import PartMerger, merge_parts
from tracker.projections.sourced_fact import SourcedFact
from tracker.projections.runs import RoomState, merge_rooms
from tracker.projector.projector import compare_views
from tracker.views.contract import Changes
from tracker.views.sqlite.views import SqliteViews

Told = list[tuple[Record, SourcedFact]]


def as_told(vendor: str, told: Sequence[f.Fact]) -> Told:
    """Each fact as the only one of a record, in this order."""
    return [
        (
            Record(
                position=position, source="s", vendor=vendor, event="", dedupe_key=f"{position:03}", received_at=T,
                origin="webhook", proof=b"", body=b"",
            ),
            SourcedFact(fact, position, 0, "s", vendor, f"{position * 7919 % 1000:03}", T),
        )
        for position, fact in enumerate(told, start=1)
    ]  # fmt: skip


async def project(views: SqliteViews, told: Told, all_told: Told, size: int) -> None:
    memory = BatchCache()

    async def recall(positions: Sequence[int]) -> list[SourcedFact]:
        return [all_told[position - 1][1] for position in positions]

    for first in range(0, len(told), size):
        chunk = told[first : first + size]
        batch = Batch(views, memory, recall)
        await views.save(await batch.changes([record for record, _ in chunk], [item for _, item in chunk]))


async def compared(told: Told, middle: int, size: int) -> list[str]:
    async def recall(positions: Sequence[int]) -> list[SourcedFact]:
        return [told[position - 1][1] for position in positions]

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = await SqliteViews.build(folder / "whole")
        await project(whole, told, told, 1000)
        first, second = (
            await SqliteViews.build(folder / "first"),
            await SqliteViews.build(folder / "second", after=middle),
        )
        await project(first, told[:middle], told, size)
        await project(second, told[middle:], told, size)
        await second.close_partial()
        assert await merge_parts(first, folder / "second", recall) == len(told)
        for each in (whole, first):
            await each.finish()
        views = [await SqliteViews.open(folder / each, writable=False) for each in ("whole", "first")]
        found = await compare_views(*views)
        for each in views:
            await each.close()
        return found


@pytest.mark.parametrize("vendor", sorted(ROOMS))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_facts_parted_anywhere_give_the_views_of_all(vendor: str, data: st.DataObject) -> None:
    # Some are lost; a later one may be of a server that was started anew, and its room of the same name or another.
    facts = [
        msgspec.structs.replace(fact, server_run=data.draw(st.sampled_from([None, "a", "b"])))
        for fact in data.draw(st.permutations(ROOMS[vendor]))
        if data.draw(st.integers(0, 5))
    ] + [f.Test(at=T + data.draw(st.integers(0, 3000)) * S, place=None, subject_type="source", subject_id="s")]
    middle = data.draw(st.integers(1, max(1, len(facts) - 1)))
    assert asyncio.run(compared(as_told(vendor, facts), middle, data.draw(st.integers(1, 9)))) == []


def moments() -> st.SearchStrategy[f.SessionRef]:
    time = st.integers(0, 5)
    return st.builds(
        f.SessionRef, at=time, room=st.just("r"), run=st.sampled_from([None, "x", "y"]), starts_at=st.none() | time,
        ends_at=st.none() | time, anchor=st.sampled_from([None, "k"]),
    )  # fmt: skip


@given(st.lists(st.tuples(moments(), st.booleans())), st.integers(0, 20))
def test_what_two_halves_know_of_a_room_is_what_one_would(told: list[tuple[f.SessionRef, bool]], middle: int) -> None:
    def learned(places: list[tuple[f.SessionRef, bool]]) -> RoomState:
        state = RoomState()
        for place, timed in places:
            state.learn(place, is_sender_clock=timed)
        return state

    assert merge_rooms(learned(told[:middle]), learned(told[middle:])) == learned(told)


def test_without_mending_they_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    told = as_told("openvidu_meet", ROOMS["openvidu_meet"])
    assert asyncio.run(compared(told, 12, 3)) == []

    async def unmended(_: PartMerger, __: object, position: int) -> Changes:
        return Changes(position=position)

    for step in ("merge_rooms", "merge_sessions"):
        monkeypatch.setattr(PartMerger, step, unmended)
    assert asyncio.run(compared(told, 12, 3)) != []

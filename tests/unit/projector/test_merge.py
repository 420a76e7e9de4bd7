"""Views built in one to five parts and merged equal views built at once, for any facts, order and cuts."""

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
from tracker.projector.projector import compare_views
from tracker.views.contract import Changes
from tracker.views.sqlite.views import SqliteViews

SELECT_MARKS = """
SELECT source, rooms.room, kind, at, until, name FROM room_marks JOIN rooms ON rooms.number = room_marks.room"""

Items = list[tuple[Record, SourcedFact]]


def to_items(vendor: str, facts: Sequence[f.Fact]) -> Items:
    """Each fact as the only fact of a record of this vendor, in this order."""
    return to_items_of_vendors([(vendor, fact) for fact in facts])


def to_items_of_vendors(facts: Sequence[tuple[str, f.Fact]]) -> Items:
    return [
        (
            Record(
                position=position, source="s", vendor=vendor, event="", dedupe_key=f"{position:03}", received_at=T,
                origin="webhook", proof=b"", body=b"",
            ),
            SourcedFact(fact, position, 0, "s", vendor, f"{position * 7919 % 1000:03}", T),
        )
        for position, (vendor, fact) in enumerate(facts, start=1)
    ]  # fmt: skip


async def project(views: SqliteViews, items: Items, all_items: Items, size: int) -> None:
    cache = BatchCache()

    async def load_facts(positions: Sequence[int]) -> list[SourcedFact]:
        return [all_items[position - 1][1] for position in positions]

    for first in range(0, len(items), size):
        chunk = items[first : first + size]
        batch = Batch(views, cache, load_facts)
        await views.save(await batch.changes([record for record, _ in chunk], [item for _, item in chunk]))


async def differences(items: Items, cuts: Sequence[int], size: int) -> list[str]:
    async def load_facts(positions: Sequence[int]) -> list[SourcedFact]:
        return [items[position - 1][1] for position in positions]

    ends = [*sorted(cuts), len(items)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = await SqliteViews.build(folder / "whole")
        await project(whole, items, items, 1000)
        merged = await SqliteViews.build(folder / "merged")
        await project(merged, items[: ends[0]], items, size)
        for after, until in zip(ends, ends[1:], strict=False):
            part = await SqliteViews.build(folder / f"{after}", after=after)
            await project(part, items[after:until], items, size)
            await part.close_partial()
            assert await merge_parts(merged, folder / f"{after}", load_facts) == until
        for each in (whole, merged):
            await each.finish()
        views = [await SqliteViews.open(folder / each, writable=False) for each in ("whole", "merged")]
        found = await compare_views(*views)
        marks = [[tuple(row) for row in await each.rows(SELECT_MARKS)] for each in views]
        found += [f"marks: {row}" for row in {*marks[0]} ^ {*marks[1]}]
        for each in views:
            await each.close()
        return found


def cuts_of(count: int) -> st.SearchStrategy[list[int]]:
    """Where a log of `count` records is cut into at most five parts; a room's facts are then in all of them."""
    return st.lists(st.integers(1, max(1, count - 1)), max_size=min(4, count - 1), unique=True)


@pytest.mark.parametrize("vendor", sorted(ROOMS))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_merged_views_equal_views_built_at_once(vendor: str, data: st.DataObject) -> None:
    # Some facts are lost, and the server may have restarted between facts.
    facts = [
        msgspec.structs.replace(fact, server_run=data.draw(st.sampled_from([None, "a", "b"])))
        for fact in data.draw(st.permutations(ROOMS[vendor]))
        if data.draw(st.integers(0, 5))
    ] + [f.Test(at=T + data.draw(st.integers(0, 3000)) * S, place=None, subject_type="source", subject_id="s")]
    cuts = data.draw(cuts_of(len(facts)))
    assert asyncio.run(differences(to_items(vendor, facts), cuts, data.draw(st.integers(1, 9)))) == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_merged_views_equal_whole_ones_where_another_vendor_got_the_name_of_the_source(data: st.DataObject) -> None:
    vendors = data.draw(st.permutations(sorted(ROOMS)))[:2]
    facts = [
        (vendor, fact if fact.place is None else msgspec.structs.replace(fact, place=in_room(fact.place)))
        for vendor in vendors
        for fact in ROOMS[vendor]
    ]
    found = [each for each in data.draw(st.permutations(facts)) if data.draw(st.integers(0, 5))] or facts
    cuts = data.draw(cuts_of(len(found)))
    assert asyncio.run(differences(to_items_of_vendors(found), cuts, data.draw(st.integers(1, 9)))) == []


def in_room(place: f.SessionRef) -> f.SessionRef:
    return msgspec.structs.replace(place, room="room") if place.room else place


@pytest.mark.parametrize("cuts", [[1], [2], [3], [4], [1, 2, 3, 4]])
def test_a_room_that_only_a_later_part_knows_is_known_afterwards(cuts: list[int]) -> None:
    def client(moment: int, run: str) -> f.SessionRef:
        return f.SessionRef(at=moment, room="client", run=run, starts_at=moment)

    facts: list[f.Fact] = [
        f.SupervisorSessionStarted(activity="w", at=T + S, place=f.SessionRef(at=T + S, run="a"), agent_session="a"),
        f.SessionStarted(at=T, started_at=T, place=client(T, "a")),
        f.SessionStarted(at=T + 9 * S, started_at=T + 9 * S, place=client(T + 9 * S, "b")),
        f.SessionStarted(at=T + 5 * S, started_at=T + 5 * S, place=client(T + 5 * S, "c")),
        f.SessionStarted(at=T, started_at=T, place=f.SessionRef(at=T, room="other", run="d", starts_at=T)),
    ]
    assert asyncio.run(differences(to_items("streamrec", facts), cuts, 1)) == []


def test_without_the_corrections_they_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    items = to_items("openvidu_meet", ROOMS["openvidu_meet"])
    assert asyncio.run(differences(items, [12], 3)) == []

    async def uncorrected(_: PartMerger, __: object, position: int) -> Changes:
        return Changes(position=position)

    for step in ("merge_rooms", "merge_sessions"):
        monkeypatch.setattr(PartMerger, step, uncorrected)
    assert asyncio.run(differences(items, [12], 3)) != []

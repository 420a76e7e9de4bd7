"""The facts of a room give the same views in any order and any batches."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracker.domain import facts as f
from tracker.domain.deliveries import Record
from tracker.projector.batch import Batch, BatchCache
from tracker.projections.sourced_fact import SourcedFact
from tests.support.memory_views import MemoryViews

S = 1_000_000
T = 1_700_000_000 * S
ORDER = {"position", "first_position", "last_position"}


def at(moment: int, **known: Any) -> f.SessionRef:
    return f.SessionRef(at=moment, room="r", **known)


def meet_room() -> list[f.Fact]:
    """Three meetings of one room without any run key; joins are stamped before their meeting's start."""
    facts: list[f.Fact] = []
    for base in (T, T + 100 * S, T + 200 * S):
        early = {"connection": "a", "identity": "a", "keyed_by_join": True, "joined_at": base - 2 * S}
        later = {"connection": "b", "identity": "b", "keyed_by_join": True, "joined_at": base + 5 * S}
        recording = at(base + 6 * S, anchor=f"rec{base}")
        facts += [
            f.SessionStarted(at=base, started_at=base, place=at(base, starts_at=base)),
            f.SessionStarted(at=base + 3 * S, started_at=base + 3 * S, place=at(base + 3 * S, starts_at=base + 3 * S)),
            f.ParticipantJoined(at=base - 2 * S, place=at(base - 2 * S), **early),
            f.ParticipantJoined(at=base + 5 * S, place=at(base + 5 * S), **later),
            f.ParticipantLeft(at=base + 50 * S, place=at(base + 5 * S), reason="left", **later),
            f.RecordingStarted(at=base + 6 * S, recording=f"rec{base}", place=recording),
            f.RecordingStopped(
                at=base + 60 * S,
                recording=f"rec{base}",
                started_at=base + 6 * S,
                stopped_at=base + 60 * S,
                place=recording,
            ),
            f.ParticipantLeft(at=base + 70 * S, place=at(base - 2 * S), reason="left", **early),
            f.SessionEnded(at=base + 92 * S, reason="normal", place=at(base + 92 * S, ends_at=base + 92 * S)),
        ]
    return facts


def openvidu_room() -> list[f.Fact]:
    """Two runs of one session id: starts carry the run key, everything else only the room."""
    facts: list[f.Fact] = []
    for base in (T, T + 1000 * S):
        run = f"r_{base // 1000}"
        who = {"connection": "b", "identity": "b", "keyed_by_join": True, "joined_at": base + 5 * S}
        facts += [
            f.SessionCreated(at=base, started_at=base, place=at(base, run=run, starts_at=base)),
            f.ParticipantJoined(at=base + 5 * S, place=at(base + 5 * S), **who),
            f.StreamPublished(
                at=base + 6 * S, stream="st", connection="b", keyed_by_start=True, place=at(base + 6 * S)
            ),
            f.StreamUnpublished(
                at=base + 49 * S,
                stream="st",
                connection="b",
                keyed_by_start=True,
                started_at=base + 6 * S,
                place=at(base + 6 * S),
            ),
            f.ParticipantLeft(at=base + 50 * S, place=at(base + 5 * S), reason="left", **who),
            f.NodeCrashed(at=base + 55 * S, place=at(base + 55 * S)),
        ]
    return [
        *facts,
        f.SessionEnded(at=T + 60 * S, started_at=T, place=at(T, run=f"r_{T // 1000}", starts_at=T, ends_at=T + 60 * S)),
    ]


def streamrec_client() -> list[f.Fact]:
    """Two sessions of one client: one known by relayed start, both by an end event without a key."""
    facts: list[f.Fact] = []
    for n, base in enumerate((T, T + 1000 * S)):
        recording = at(base + 6 * S, anchor=f"rec{base}")
        facts += [
            f.SupervisorSessionEnded(
                activity=f"sup{n}",
                at=base + 50 * S,
                started_at=base + 20 * S,
                supervisor_client="x",
                agent_session=f"s{n}",
                place=at(base + 20 * S, run=f"s{n}"),
            ),  # fmt: skip
            f.RecordingStopped(
                at=base + 60 * S,
                recording=f"rec{base}",
                started_at=base + 6 * S,
                stopped_at=base + 60 * S,
                place=recording,
            ),
            f.RecordingUploadFailed(
                at=T + 5000 * S + n,
                clock="receiver",
                recording=f"rec{base}",
                place=at(T + 5000 * S + n, anchor=f"rec{base}"),
            ),
            f.SessionEnded(
                at=base + 100 * S,
                started_at=base,
                reason="normal",
                place=at(base, starts_at=base, ends_at=base + 100 * S),
            ),
        ]
    relayed = f.SessionStarted(at=T + S, clock="receiver", place=at(T + S, run="s0", starts_at=T + S))
    return [*facts, relayed]


ROOMS = {"openvidu_meet": meet_room(), "openvidu": openvidu_room(), "streamrec": streamrec_client()}


async def views_of(vendor: str, facts: list[f.Fact], order: list[int], sizes: list[int]) -> MemoryViews:
    views, cache = MemoryViews(), BatchCache()
    seen = [
        (
            Record(
                position=position, source="s", vendor=vendor, event="", dedupe_key=f"{n:03}", received_at=T, origin="webhook",
                proof=b"", body=b"",
            ),
            SourcedFact(fact=facts[n], position=position, n=0, source="s", vendor=vendor, key=f"{n:03}", received_at=T),
        )
        for position, n in enumerate(order, start=1)
    ]  # fmt: skip

    async def load_facts(positions: Sequence[int]) -> list[SourcedFact]:
        return [seen[position - 1][1] for position in positions]

    first, turn = 0, 0
    while first < len(seen):
        size = sizes[turn % len(sizes)]
        chunk = seen[first : first + size]
        if turn % 3 == 2:  # drop the cache now and then
            cache = BatchCache()
        batch = Batch(views, cache, load_facts)
        changes = await batch.changes([record for record, _ in chunk], [item for _, item in chunk])
        await views.save(changes)
        first, turn = first + size, turn + 1
    return views


def without_order(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_order(inner) for name, inner in value.items() if name not in ORDER}
    return [without_order(inner) for inner in value] if isinstance(value, list | tuple) else value


def content(views: MemoryViews) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for name, session in views.sessions.items():
        plain = msgspec.to_builtins(session)
        del plain["state"]
        for gap in plain["gaps"]:
            del gap["id"]
        rows[name] = without_order(plain)
    rows["entries"] = sorted(
        (saved.row.session_id or "", saved.row.at, saved.row.kind, saved.row.dedupe_key)
        for saved in views.entries.values()
    )
    return rows


@pytest.mark.parametrize("vendor", sorted(ROOMS))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_order_and_batching_gives_the_same_views(vendor: str, data: st.DataObject) -> None:
    facts = ROOMS[vendor]
    order = data.draw(st.permutations(range(len(facts))))
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    expected = asyncio.run(views_of(vendor, facts, list(range(len(facts))), [len(facts)]))
    shuffled = asyncio.run(views_of(vendor, facts, list(order), sizes))
    assert content(shuffled) == content(expected)


@pytest.mark.parametrize(("vendor", "sessions"), [("openvidu_meet", 3), ("openvidu", 2), ("streamrec", 2)])
def test_each_run_of_a_room_is_one_session(vendor: str, sessions: int) -> None:
    views = asyncio.run(views_of(vendor, ROOMS[vendor], list(range(len(ROOMS[vendor]))), [4]))
    assert len(views.sessions) == sessions


def test_the_end_of_a_run_on_a_crashed_node_is_inferred() -> None:
    views = asyncio.run(views_of("openvidu", ROOMS["openvidu"], list(range(13)), [4]))
    second = views.sessions[f"s:r_{(T + 1000 * S) // 1000}"].session
    assert second.end is not None
    assert (second.end.reason, second.end.provenance, second.completeness) == ("server_failure", "inferred", "repaired")


def plugnmeet(run: str | None, at_second: int, *, started: bool = True, **more: Any) -> f.Fact:
    place = at(T + at_second * S, run=run, starts_at=T, **more)
    if started:
        return f.SessionStarted(at=T + at_second * S, started_at=T, place=place)
    return f.SessionCreated(at=T + at_second * S, started_at=T, place=place)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_next_run_ends_both_of_two_runs_with_the_same_start(order: tuple[int, ...]) -> None:
    next_run = f.SessionStarted(
        at=T + 60 * S, started_at=T + 60 * S, place=at(T + 60 * S, run="c", starts_at=T + 60 * S)
    )
    facts = [plugnmeet("a", 0), plugnmeet("b", 1), next_run]
    live = content(asyncio.run(views_of("plugnmeet", facts, list(order), [1])))
    assert live == content(asyncio.run(views_of("plugnmeet", facts, [0, 1, 2], [3])))
    ended = [live[f"s:{run}"]["session"] for run in ("a", "b")]
    assert [session["ended_at"] for session in ended] == [T, T + S]  # the last signs of life
    assert [session["end"]["not_after"] for session in ended] == [T + 60 * S] * 2


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_streamrec_live_views_equal_rebuilt_ones_where_our_clock_went_back(order: tuple[int, ...]) -> None:
    # By the vendor's clock the first session began after the relayed start of the second one, by ours before it.
    def relayed(run: str, second: int) -> f.Fact:
        return f.SessionStarted(
            at=T + second * S, clock="receiver", place=at(T + second * S, run=run, starts_at=T + second * S)
        )

    began, ended = T + 310 * S, T + 900 * S
    end = f.SessionEnded(
        at=ended, started_at=began, reason="normal", place=at(began, run="one", starts_at=began, ends_at=ended)
    )
    facts = [relayed("one", 300), end, relayed("two", 305), relayed("three", 400)]
    live = content(asyncio.run(views_of("streamrec", facts, list(order), [1])))
    assert live == content(asyncio.run(views_of("streamrec", facts, [0, 1, 2, 3], [4])))

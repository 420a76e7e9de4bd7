"""Different things get different ids, whatever texts a vendor sends."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from tracker.domain.facts import (
    Fact, ParticipantJoined, RecordingReady, RecordingStarted, RunRules, SessionRef, SessionStarted, StreamPublished, SubscriptionStarted,
    SupervisorSessionStarted,
)  # fmt: skip
from tracker.projections.folding import fold
from tracker.projections.gaps import FIRST_N
from tracker.projections.ids import distinct_ids, distinct_run, interval_key, provisional_run
from tracker.projections.rendering import RenderContext, render
from tracker.projections.sourced_fact import SourcedFact
from tracker.projections.state import SessionState
from tracker.domain.rows import SessionRows
from tracker.sources.json_reading import given_id

T = 1_790_000_000_000_000
KEYS_OF_START = RunRules(runs_are_starts=True)
odd = st.text(alphabet="a2~@_</:1", max_size=6)
"""Texts of the characters that ids consist of."""


@given(st.lists(odd, max_size=8))
@example(["con_A", "con_A", "con_A~2"])
@example(["a~2", "a", "a", "a~2", "a~2~2", "a"])
def test_no_two_rows_have_one_id_and_a_given_id_stays(names: list[str]) -> None:
    found = distinct_ids(names)
    assert len(set(found)) == len(names)
    assert set(names) <= set(found)
    for name, identity in zip(names, found, strict=True):
        assert identity == name or identity.startswith(f"{name}~")


def test_a_repeated_id_gets_a_number() -> None:
    assert distinct_ids(["CAM", "SCR", "CAM", "CAM"]) == ["CAM", "SCR", "CAM~2", "CAM~3"]


@given(st.lists(odd, min_size=1, max_size=4), st.lists(odd, min_size=1, max_size=4))
@example(["a@b"], ["a", "b"])
@example(["a~", "b"], ["a", "~b"])
def test_keys_of_intervals_with_different_parts_differ(one: list[str], other: list[str]) -> None:
    assert (interval_key(*one) == interval_key(*other)) == (one == other)


def run_of(run: str, room: str | None = None, rules: RunRules = RunRules()) -> str | None:
    place = distinct_run(SessionStarted(at=T, place=SessionRef(at=T, run=run, room=room)), rules).place
    return None if place is None else place.run


made_up = st.builds(provisional_run, odd, st.integers(0, 4_000) | st.integers(T, T + 4_000))
given_keys = odd | made_up | st.builds(lambda run, tail: run + tail, made_up, st.sampled_from(["~", "~~", "_1", "1"]))


@given(given_keys, odd, odd, st.integers(0, 4_000) | st.integers(T, T + 4_000))
@example("a_1790000000000", "b", "a", T)
def test_a_run_key_of_the_vendor_never_equals_one_of_tracker(run: str, own: str, room: str, start: int) -> None:
    assert run_of(run) != provisional_run(room, start)
    if own != room:
        # This vendor makes its keys as Tracker does, of the same room and start.
        assert run_of(run, own, KEYS_OF_START) != provisional_run(room, start)


@given(given_keys, given_keys)
def test_different_run_keys_of_the_vendor_stay_different(one: str, other: str) -> None:
    for rules in (RunRules(), KEYS_OF_START):
        assert (run_of(one, "a", rules) == run_of(other, "a", rules)) == (one == other)


def test_ordinary_run_keys_stay_as_the_vendor_sends_them() -> None:
    for run in ("RM_8kQxA1fixt01", "2633650b-9e24-4872-aec5-b39cdfc65ebf", "session_42", "call-1790000000000"):
        assert run_of(run, "room") == run
    assert run_of("My_1614770057250", "My", KEYS_OF_START) == "My_1614770057250"
    assert provisional_run("My", 1_614_770_057_250_999) == "My_1614770057250"


@given(odd, odd)
def test_a_vendors_id_never_begins_with_trackers_prefix(one: str, other: str) -> None:
    assert not given_id(one, "a:").startswith("a:")
    assert (given_id(one, "a:") == given_id(other, "a:")) == (one == other)
    assert given_id("EG_1", "egress:") == "EG_1"


def rows_of(facts: list[Fact]) -> SessionRows:
    state = SessionState(source="s", vendor="v", run="r")
    for position, fact in enumerate(facts, 1):
        fold(state, SourcedFact(fact, position, 0, "s", "v", f"{position:03}", T))
    return render(state, RenderContext(rules=RunRules()))


def ids_of(rows: SessionRows) -> dict[str, list[str]]:
    return {
        table: [row.id for row in getattr(rows, table)]
        for table in ("participants", "connections", "streams", "recordings", "supervisor_sessions", "gaps")
    }


few_times = st.sampled_from([T, T + 1_000])
things = st.one_of(
    st.builds(lambda c, at, keyed: ParticipantJoined(at=at, connection=c, identity=c, joined_at=at, keyed_by_join=keyed), odd, few_times, st.just(value=True)),
    st.builds(lambda c, i: ParticipantJoined(at=T, connection=f"x{c}", identity=i or None), odd, odd),
    st.builds(lambda s, c, at: StreamPublished(at=at, stream=s, connection=c, identity=c, started_at=at, keyed_by_start=True), odd, odd, few_times),
    st.builds(lambda s, c, at: SubscriptionStarted(at=at, stream=s, connection=c, started_at=at), odd, odd, few_times),
    st.builds(lambda r, at, start: RecordingReady(at=at, recording=r, keyed_by_start=True, started_at=start), odd, few_times, st.none() | few_times),
    st.builds(lambda a: SupervisorSessionStarted(at=T, activity=a), odd),
)  # fmt: skip


@given(st.lists(things, max_size=10))
def test_the_rows_of_a_session_have_different_ids(facts: list[Fact]) -> None:
    for table, ids in ids_of(rows_of(facts)).items():
        assert len(set(ids)) == len(ids), table


@given(st.sets(st.tuples(odd, odd), max_size=6))
def test_every_subscription_is_a_separate_row(pairs: set[tuple[str, str]]) -> None:
    rows = rows_of([SubscriptionStarted(at=T, connection=c, stream=s, started_at=T) for c, s in sorted(pairs)])
    assert {(row.connection, row.stream) for row in rows.streams} == pairs
    assert len({row.id for row in rows.streams}) == len(pairs)


@given(st.sets(st.tuples(odd, st.sampled_from([None, 12, 123])), max_size=6))
def test_every_recording_with_a_start_is_a_separate_row(found: set[tuple[str, int | None]]) -> None:
    facts: list[Fact] = [
        RecordingReady(at=T, recording=r, keyed_by_start=True, started_at=start) for r, start in found if start
    ]
    facts += [RecordingReady(at=5, recording=r, keyed_by_start=True) for r, start in found if start is None]
    rows = rows_of(facts)
    assert {(row.vendor_id, row.started_at) for row in rows.recordings} == found
    assert len({row.id for row in rows.recordings}) == len(found)


def test_a_message_without_a_recording_id_never_matches_a_similar_recording_id() -> None:
    made_up = RecordingStarted(at=T, recording="c/1790000000000", nameless=True)
    named = RecordingStarted(at=T, recording="c/1790000000000")
    assert ids_of(rows_of([made_up, named]))["recordings"] == ["s:c/1790000000000", "s:c/1790000000000~2"]


def test_a_person_without_an_identity_never_matches_an_identity_like_their_connection() -> None:
    rows = rows_of(
        [
            ParticipantJoined(at=T, connection="PA_1", identity="Ana"),
            ParticipantJoined(at=T, connection="PA_2", identity="PA_3"),
            ParticipantJoined(at=T, connection="PA_3"),
        ]
    )
    assert sorted((row.id, row.participant) for row in rows.connections) == [
        ("PA_1", "Ana"), ("PA_2", "PA_3"), ("PA_3", "PA_3~2"),
    ]  # fmt: skip
    assert rows.session.participants == 3


def test_derived_entries_of_one_record_have_different_ids_in_each_session() -> None:
    found: set[str] = set()
    for n in range(3):
        state = SessionState(source="s", vendor="v", run=str(n))
        fold(state, SourcedFact(ParticipantJoined(at=T, connection="c"), 7, n, "s", "v", "k", T))
        found |= {gap.id for gap in render(state, RenderContext(rules=RunRules(), next_start=T + 1)).gaps}
    assert found == {f"7-{FIRST_N * n + i}" for n in (1, 2, 3) for i in range(2)}

"""The rules of folding: which claim is stronger, how intervals are merged, and how spans add up."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tracker.domain.facts import Clock, Provenance
from tracker.domain.ordering import causal_rank
from tracker.projections.claims import Claim, stronger_end, stronger_start
from tracker.projections.people import max_present, merge_spans
from tracker.projections.recording_match import match_nameless, merge_intervals
from tracker.projections.state import Interval

S = 1_000_000


def claims() -> st.SearchStrategy[Claim]:
    return st.builds(
        Claim,
        at=st.integers(0, 3),
        provenance=st.sampled_from(["reported", "derived", "inferred"]),
        clock=st.sampled_from(["server", "client", "receiver"]),
        key=st.sampled_from(["a", "b"]),
        n=st.just(0),
        position=st.just(1),
    )


def claim(at: int, provenance: Provenance = "reported", clock: Clock = "server", key: str = "k") -> Claim:
    return Claim(at * S, provenance, clock, key, 0, 1)


@given(claims(), claims(), claims())
def test_the_strongest_claim_does_not_depend_on_the_order(one: Claim, two: Claim, three: Claim) -> None:
    for stronger in (stronger_start, stronger_end):
        found = {
            (held.at, held.provenance, held.key)
            for a, b, c in itertools.permutations((one, two, three))
            if (held := stronger(stronger(stronger(None, a), b), c))
        }
        assert len(found) == 1


def test_the_senders_clock_beats_the_receivers_and_reported_beats_derived() -> None:
    assert stronger_start(claim(1, clock="receiver"), claim(9, "derived")) == claim(9, "derived")
    assert stronger_end(claim(1), claim(9, "derived")) == claim(1)
    assert stronger_start(claim(1), claim(9)) == claim(1)
    assert stronger_end(claim(1), claim(9)) == claim(9)


def test_a_merged_interval_keeps_the_name_of_the_first() -> None:
    first, second = Interval(), Interval()
    first.set_values(1, "a", id="rec-1", mode="composed")
    first.claim_start(claim(5, "derived"))
    second.set_values(2, "b", id="made-up", nameless=True, url="x")
    second.claim_start(claim(6))
    second.set_status("started", claim(6))
    merged = merge_intervals(first, second)
    assert [merged.value(name) for name in ("id", "mode", "url", "nameless")] == ["rec-1", "composed", "x", None]
    assert merged.start == claim(6)
    assert merged.start_reported
    assert list(merged.statuses) == ["started"]
    assert (first.value("url"), first.start_reported, first.statuses) == (None, False, {})


def test_a_nameless_start_is_merged_into_the_recording_that_began_then() -> None:
    named, other, nameless = Interval(), Interval(), Interval()
    named.claim_start(claim(10, "derived"))
    other.claim_start(claim(60, "derived"))
    nameless.set_values(1, "k", nameless=True)
    nameless.claim_start(claim(11))
    found = match_nameless({"named": named, "other": other, "made-up": nameless}, 5 * S)
    assert sorted(found) == ["named", "other"]
    assert found["named"].start_reported
    assert sorted(match_nameless({"other": other, "made-up": nameless}, 5 * S)) == ["made-up", "other"]


def test_overlapping_spans_are_merged_and_an_open_one_swallows_the_rest() -> None:
    assert merge_spans([(5, 9), (1, 3), (3, 4)]) == [(1, 4), (5, 9)]
    assert merge_spans([(1, None), (5, 9)]) == [(1, None)]
    assert max_present([[(0, 5)], [(5, 9)], [(1, 2)]]) == 2


def test_a_join_comes_before_the_leave_of_the_same_moment() -> None:
    kinds = ["session.created", "participant.joined", "signal.sent", "participant.left", "session.ended"]
    assert sorted(kinds, key=causal_rank) == kinds

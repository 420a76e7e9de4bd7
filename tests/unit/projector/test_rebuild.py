"""How a rebuild cuts the log into parts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tracker.projector.rebuild import MAX_JOBS, MIN_PART_RECORDS, cut


@given(head=st.integers(0, 10**8), jobs=st.integers(1, 300))
def test_parts_follow_each_other_and_a_small_log_has_fewer(head: int, jobs: int) -> None:
    ends = cut(head, jobs)
    assert ends[-1] == head
    assert len(ends) == max(1, min(jobs, MAX_JOBS, head // MIN_PART_RECORDS))
    assert ends == sorted(set(ends))


def test_later_parts_are_larger_because_they_are_merged_later_and_the_first_has_a_head_start() -> None:
    ends = cut(10_000_000, 4)
    sizes = [until - after for after, until in zip([0, *ends], ends, strict=False)]
    assert sizes[1] < sizes[0] < sizes[2] < sizes[3]

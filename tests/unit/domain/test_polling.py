"""How often stores are looked at."""

from __future__ import annotations

from tracker.domain.polling import IDLE_LOOK_SECONDS, LOOK_SECONDS, look_seconds


def test_a_store_that_changed_within_a_minute_is_looked_at_more_often_than_a_quiet_one() -> None:
    assert [look_seconds(quiet) for quiet in (0, 59, 60, float("inf"))] == [LOOK_SECONDS] * 2 + [IDLE_LOOK_SECONDS] * 2

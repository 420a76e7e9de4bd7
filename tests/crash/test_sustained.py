"""Views that keep up with a steady load, with many calls open at once."""

from __future__ import annotations

import pytest

from tests.support.programs import run_bench


@pytest.mark.long
@pytest.mark.alone  # it measures how late the views are
def test_the_views_are_less_than_two_seconds_late_under_1500_deliveries_a_second_with_18000_calls_open() -> None:
    assert "faults: none" in run_bench("bench.sustained", seconds=1_800)

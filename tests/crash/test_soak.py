"""A soak test: load, kills and stops. Every answered delivery is in the log, and the views follow."""

from __future__ import annotations

import pytest

from tests.support.programs import run_bench


@pytest.mark.alone  # it first measures how much the server can take, and sends half of that
@pytest.mark.parametrize("minutes", ["0.2", pytest.param("10", marks=pytest.mark.long)])
def test_under_load_with_kills_and_stops_every_answered_delivery_is_in_the_log_and_in_the_views(minutes: str) -> None:
    printed = run_bench("bench.soak", "--minutes", minutes, seconds=180 + 120 * float(minutes))
    assert "faults: none" in printed

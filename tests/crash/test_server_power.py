"""Power cuts under a whole server."""

from __future__ import annotations

import pytest

from tests.support.power_loss import missing_requirement
from tests.support.programs import run_bench


@pytest.mark.parametrize("cuts", [1, pytest.param(10, marks=pytest.mark.long)])
def test_a_server_loses_no_answered_delivery_in_a_power_cut_and_loses_some_without_syncs(cuts: int) -> None:
    if (reason := missing_requirement()) is not None:
        pytest.skip(reason)
    printed = run_bench("bench.faults.server_power", "--cuts", str(cuts), "--control", "1", seconds=200 * cuts)
    assert [line.split()[0] for line in printed.splitlines()] == ["synchronous", "FULL", "OFF", "faults:"]

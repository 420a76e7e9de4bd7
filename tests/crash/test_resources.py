"""Limits reached while a server runs, then lifted: it reports them, and recovers without a restart."""

from __future__ import annotations

import pytest

from tests.support.programs import run_bench


@pytest.mark.alone  # the program compares answers within seconds
@pytest.mark.parametrize("case", ["limits", "clock"])
def test_a_missing_resource_is_reported_and_the_server_recovers_without_a_restart(case: str) -> None:
    run_bench("bench.faults.resources", "--only", case, seconds=120)

"""Mutated samples of every vendor: `verify` raises only refusals, `interpret` nothing, and all views of them are equal."""

from __future__ import annotations

import pytest

from tests.support.programs import run_bench


@pytest.mark.parametrize(("inputs", "saved"), [(4_000, 400), pytest.param(100_000, 4_000, marks=pytest.mark.long)])
def test_no_mutated_delivery_breaks_verify_interpret_a_save_or_a_rebuild(inputs: int, saved: int) -> None:
    run_bench("bench.faults.fuzz", "--mutations", "--inputs", str(inputs), "--save", str(saved), seconds=600)

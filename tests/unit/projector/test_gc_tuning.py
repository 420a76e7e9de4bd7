"""The garbage collector is tuned inside the context manager and restored after it."""

from __future__ import annotations

import gc

import pytest

from tracker.projector import gc_tuning


@pytest.mark.parametrize("thresholds", [gc_tuning.SERVING, gc_tuning.REBUILDING])
def test_thresholds_and_freezing_are_restored(thresholds: tuple[int, int, int]) -> None:
    before = gc.get_threshold()
    with gc_tuning.collect_rarely(thresholds):
        assert gc.get_threshold() == thresholds
        assert gc.get_freeze_count() > 0
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


def test_thresholds_are_restored_after_an_error() -> None:
    before = gc.get_threshold()
    with pytest.raises(KeyError), gc_tuning.collect_rarely(gc_tuning.SERVING):
        raise KeyError
    assert gc.get_threshold() == before

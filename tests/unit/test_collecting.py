"""How often the garbage collector looks is changed for a while, never for good."""

from __future__ import annotations

import gc

import pytest

from tracker import collecting


@pytest.mark.parametrize("thresholds", [collecting.SERVING, collecting.REBUILDING])
def test_the_collector_is_as_it_was_afterwards(thresholds: tuple[int, int, int]) -> None:
    before = gc.get_threshold()
    with collecting.rarely(thresholds):
        assert gc.get_threshold() == thresholds
        assert gc.get_freeze_count() > 0
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


def test_also_after_an_error() -> None:
    before = gc.get_threshold()
    with pytest.raises(KeyError), collecting.rarely(collecting.SERVING):
        raise KeyError
    assert gc.get_threshold() == before

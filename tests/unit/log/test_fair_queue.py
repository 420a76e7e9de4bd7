"""Waiting deliveries: sources take turns, and no source can fill the whole queue."""

from __future__ import annotations

import msgspec
import pytest

from tests.contracts.log_contract import delivery
from tracker.domain.deliveries import Verified
from tracker.errors import LogBusy
from tracker.log.fair_queue import FairQueue


class Group(msgspec.Struct):
    records: list[Verified]
    size: int


def group(source: str, n: int = 0, *, records: int = 1, size: int = 10) -> Group:
    return Group([delivery(f"k{n}-{m}", source=source) for m in range(records)], size)


def test_sources_take_turns_and_each_keeps_its_order() -> None:
    lines: FairQueue[Group] = FairQueue(1000, 10**6)
    for n in range(100):
        lines.put(group("mad", n))
    lines.put(group("calm", 0))
    lines.put(group("calm", 1))
    taken = lines.take(10, 10**6)
    assert [each.records[0].source for each in taken[:4]] == ["mad", "calm", "mad", "calm"]
    assert [each.records[0].dedupe_key for each in taken if each.records[0].source == "mad"] == [
        f"k{n}-0" for n in range(8)
    ]
    assert (lines.records, lines.bytes) == (92, 920)


def test_a_source_that_sends_too_much_leaves_room_for_others() -> None:
    lines: FairQueue[Group] = FairQueue(80, 10**6)
    with pytest.raises(LogBusy, match="of this source"):
        for n in range(81):
            lines.put(group("mad", n))
    assert lines.records == 70
    for n in range(8):
        lines.put(group("calm", n))
    lines.take(60, 10**6)
    lines.put(group("mad", 100))


def test_the_whole_queue_is_bounded_in_records_and_bytes() -> None:
    lines: FairQueue[Group] = FairQueue(3, 100)
    lines.put(group("a", records=7))
    with pytest.raises(LogBusy, match="the bound is 3"):
        lines.put(group("b"))
    assert len(lines.take(1, 1)) == 1
    assert not lines
    lines.put(group("a", size=90))
    with pytest.raises(LogBusy, match="bytes"):
        lines.put(group("b", size=20))

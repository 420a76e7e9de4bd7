"""Complete calls sent to two nodes at once, split in any way and order, give the views of one server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support.cluster import Cluster
from tests.flows.projector.test_projector_whole_calls import SECRET, START, content, source_of
from tests.support.replicas import level, nodes
from tracker.domain.deliveries import Verified
from tracker.demo.calls import VENDORS, delivery, whole_call
from tracker.log.contract import Log
from tests.support.memory_log import MemoryLog
from tracker.projector.projector import Projector
from tests.support.memory_views import MemoryViews


def every_call() -> list[Verified]:
    """The deliveries of one call of each vendor, in order, with one source for each vendor."""
    return [
        msgspec.structs.replace(
            source_of(vendor).verify(delivery(vendor, sent, SECRET, received_at=sent.at)), source=vendor
        )
        for vendor in VENDORS
        for sent in whole_call(vendor, START)
    ]


async def views_on(log: Log, *, batch: int = 2_000) -> MemoryViews:
    views = MemoryViews()
    await Projector(log, views, batch_size=batch).catch_up()
    return views


async def content_on_one_server(calls: Sequence[Verified]) -> bytes:
    log = MemoryLog()
    for each in calls:
        await log.append(each)
    return content(await views_on(log))


def all_rows(views: MemoryViews) -> Any:
    """Every row, with positions, ids and states."""
    return msgspec.to_builtins([views.sessions, sorted(views.entries.items())])


async def expect_equal_views(
    cluster: Cluster, folder: Path, halves: Sequence[Sequence[Verified]], batches: Sequence[int]
) -> None:
    """Send both halves at the same time; both nodes' views must equal those of one server that got all in order."""
    calls = every_call()
    async with nodes(cluster, folder, "a", "b") as logs:
        answers = await asyncio.gather(
            *[log.append(each) for log, half in zip(logs, halves, strict=True) for each in half]
        )
        assert sorted(each.position for each in answers if not each.duplicate) == list(range(1, len(calls) + 1))
        await level(*logs)
        assert await logs[0].tree_head() == await logs[1].tree_head()
        first, second = [await views_on(log, batch=batch) for log, batch in zip(logs, batches, strict=True)]
    assert all_rows(first) == all_rows(second)
    assert content(first) == await content_on_one_server(calls)


@pytest.mark.asyncio(loop_scope="session")
async def test_nodes_that_get_everything_in_opposite_order_have_the_views_of_one_server(
    cluster: Cluster, tmp_path: Path
) -> None:
    calls = every_call()
    await expect_equal_views(cluster, tmp_path, (calls + calls[:9], calls[::-1]), (2_000, 7))


@pytest.mark.asyncio(loop_scope="session")
@settings(
    max_examples=25, deadline=None, phases=[Phase.explicit, Phase.generate],  # each example is a stream: not shrunk
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(data=st.data())
async def test_calls_split_over_two_nodes_in_any_order_with_repeats_give_the_views_of_one_server(
    cluster: Cluster, tmp_path: Path, data: st.DataObject
) -> None:
    calls = every_call()
    order = data.draw(st.permutations(range(len(calls))))
    repeats = data.draw(st.lists(st.sampled_from(range(len(calls))), max_size=20))
    turns = data.draw(st.lists(st.sampled_from((0, 1)), min_size=len(calls), max_size=len(calls)))
    halves = tuple([calls[n] for n, turn in zip(order, turns, strict=True) if turn == node] for node in (0, 1))
    for half in halves:
        half += [calls[n] for n in repeats]  # which the other node may have recorded already
    batches = data.draw(st.tuples(st.integers(1, 9), st.integers(10, 2_000)))
    await expect_equal_views(cluster, tmp_path, halves, batches)

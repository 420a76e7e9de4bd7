"""Closing a node's log closes its files even if the close is cancelled: open SQLite threads would keep the process alive."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.contracts.log_contract import delivery
from tests.support.replicas import opened, settings_of

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_cancelled_close_leaves_no_thread(cluster: Cluster, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    log = await opened(tmp_path / "a" / "log.db", settings_of(cluster))
    await log.append(delivery("1"))
    closing = asyncio.create_task(log.close())
    await asyncio.sleep(0)
    closing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await closing
    async with asyncio.timeout(5):
        while any(
            thread.name.endswith("(_connection_worker_thread)") for thread in set(threading.enumerate()) - before
        ):
            await asyncio.sleep(0.05)
    await log.close()  # closes the rest

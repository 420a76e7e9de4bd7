"""A running server, and a client, for the tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.support.server import Running


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    server = await Running(tmp_path).start(init=True)
    yield server
    await server.stop()


@pytest.fixture
async def web() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session

"""Bodies that have not arrived whole are counted from their first byte, and the slowest are given up at the bound."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol

from tracker.errors import LogBusy
from tracker.ingest.request_body import CONNECTION_BYTES, BodyReader


@pytest.fixture
async def connection() -> AsyncIterator[BaseProtocol]:
    """A connection as aiohttp has it."""
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_connection(lambda: BaseProtocol(loop), sock=ours)
    yield protocol
    transport.close()
    theirs.close()


def begun(connection: BaseProtocol, body: bytes) -> StreamReader:
    """A request body of which only this has arrived."""
    content = StreamReader(connection, 2**16)
    content.feed_data(body)
    return content


async def test_small_parts_of_many_bodies_count_and_the_slowest_of_the_largest_sender_are_given_up(
    connection: BaseProtocol,
) -> None:
    reader = BodyReader(10 * CONNECTION_BYTES)
    slow = [
        asyncio.create_task(reader.read(begun(connection, b"x"), 100, remote="192.0.2.1"), name=str(n))
        for n in range(20)
    ]
    await asyncio.sleep(0.01)
    assert [task.done() for task in slow] == [True] * 11 + [False] * 9
    assert reader.buffered_bytes == 9 * (CONNECTION_BYTES + 1)
    for task in slow[:11]:
        with pytest.raises(LogBusy, match="no more fit"):
            await task
    content = begun(connection, b"an authentic ")
    honest = asyncio.create_task(reader.read(content, 100, remote="198.51.100.7"))
    await asyncio.sleep(0.01)
    content.feed_data(b"delivery")
    content.feed_eof()
    assert await honest == b"an authentic delivery"
    for task in slow[11:]:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
    assert reader.buffered_bytes == 0


async def test_a_body_that_does_not_arrive_in_time_is_given_up_and_holds_nothing(connection: BaseProtocol) -> None:
    reader = BodyReader()
    with pytest.raises(TimeoutError):
        await reader.read(begun(connection, b"x"), 100, remote=None, seconds=0.01)
    assert reader.buffered_bytes == 0

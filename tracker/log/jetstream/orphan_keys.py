"""Sweep the key bucket: destroy the keys in entries whose frame never reached the stream.

    keys stored ─► the node died, or got no answer for 15 s ─► nobody would ever destroy these keys

Bodies encrypted with them may exist elsewhere: in the log that was copied, or in what a server had begun to write.

A node publishes a frame within seconds of its entry, and checks the entry before each attempt. An attempt over an old
connection, by a machine that was suspended, fails. So an entry that is older than ten minutes and has no frame is an
orphan. If we die here, the next sweep continues where the last one ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from tracker.errors import LogUnavailable
from tracker.log.jetstream.key_bucket import KeyBucket, Revision, parse_time
from tracker.log.jetstream.stream import Stream
from tracker.log.sqlite.replica import Replica
from tracker.log.keys.key_store import KeyStore

ORPHAN_SECONDS = 600.0
EVERY_SECONDS = 600.0
PAGE = 500
LEVEL_SECONDS = 30.0

Reached = Callable[[int], Awaitable[None]]
"""Returns once this node has applied the stream up to a message."""


async def sweep_orphan_keys(
    stream: Stream, replica: Replica, key_store: KeyStore, reached: Reached, *, older_than: float = ORPHAN_SECONDS
) -> int:
    """Empty the orphaned entries stored more than `older_than` s ago; returns how many. Raises `LogError`."""
    bucket = KeyBucket(stream)
    now, created = await bucket.server_clock()
    # An entry older than the stream belongs to an earlier stream of that name; it may hold the only copy of its keys.
    stream_created = parse_time((await stream.api_request(f"STREAM.INFO.{stream.name}", {}))["created"])
    after, count, is_over = await key_store.sweep_progress(created), 0, False
    while not is_over:
        page: list[Revision] = []
        while len(page) < PAGE and not is_over:
            found = await bucket.next_revision(after)
            if found is None or found.at > now - older_than:
                is_over = True
            else:
                page, after = [*page, found], found.sequence
        for each in await _find_orphans([each for each in page if each.at >= stream_created], stream, replica, reached):
            count += await bucket.empty(each)
        await key_store.save_sweep_progress(created, after)
    return count


async def _find_orphans(page: Sequence[Revision], stream: Stream, replica: Replica, reached: Reached) -> list[Revision]:
    known = await replica.applied_among([each.frame for each in page])
    left = [each for each in page if each.frame not in known]
    if left:
        try:
            async with asyncio.timeout(LEVEL_SECONDS):
                await reached((await stream.state()).last)
        except TimeoutError:
            raise LogUnavailable("this node is behind the stream: it cannot tell yet which keys are orphans") from None
        known = await replica.applied_among([each.frame for each in left])
    return [each for each in left if each.frame not in known]

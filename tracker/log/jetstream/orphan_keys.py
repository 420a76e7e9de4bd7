"""Sweep the bucket: take the keys out of entries whose frame never came into the stream.

    keys put ─► who put them died, or got no answer for 15 s ─► nobody would ever destroy these keys

Bodies sealed with them may be kept elsewhere: in the log that was copied, in what a server had begun to write.

A frame is published within seconds after its entry, with whoever puts it asking for the entry again at each attempt; an
attempt that a machine which stood still makes over its old connection fails. So what is older than ten minutes and has no
frame is left over. If we die here the next sweep goes on where the last one ended.
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
    stream: Stream, replica: Replica, vault: KeyStore, reached: Reached, *, older_than: float = ORPHAN_SECONDS
) -> int:
    """How many entries were given up; they were put more than `older_than` s ago. Raises `LogError`."""
    bucket = KeyBucket(stream)
    now, made = await bucket.server_clock()
    # What is older than the stream belongs to another one of that name: perhaps the only keys there are.
    began = parse_time((await stream.api_request(f"STREAM.INFO.{stream.name}", {}))["created"])
    after, count, is_over = await vault.sweep_progress(made), 0, False
    while not is_over:
        page: list[Revision] = []
        while len(page) < PAGE and not is_over:
            found = await bucket.next_revision(after)
            if found is None or found.at > now - older_than:
                is_over = True
            else:
                page, after = [*page, found], found.sequence
        for each in await _orphans([each for each in page if each.at >= began], stream, replica, reached):
            count += await bucket.empty(each)
        await vault.save_sweep_progress(made, after)
    return count


async def _orphans(page: Sequence[Revision], stream: Stream, replica: Replica, reached: Reached) -> list[Revision]:
    known = await replica.applied_among([each.frame for each in page])
    left = [each for each in page if each.frame not in known]
    if left:
        try:
            async with asyncio.timeout(LEVEL_SECONDS):
                await reached((await stream.state()).last)
        except TimeoutError:
            raise LogUnavailable("this node is behind the stream: it cannot tell which keys are left over") from None
        known = await replica.applied_among([each.frame for each in left])
    return [each for each in left if each.frame not in known]

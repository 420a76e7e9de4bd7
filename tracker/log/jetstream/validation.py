"""Whether a stream is the one that a replica follows, and keeps what it is given: asked before anything is taken."""

from __future__ import annotations

import hashlib

from tracker.errors import LogCorrupt, LogMissing, LogUnavailable
from tracker.log.frames import FRAME_BYTES
from tracker.log.jetstream.stream import (
    ASK_SECONDS,
    FORMAT,
    HEADER_BYTES,
    Stream,
    StreamSettings,
    StreamState,
    wrong_settings,
)
from tracker.log.sqlite.replica import Cursor

PROOF_BYTES = 64 * 1024
"""Room for what stands beside a body in a frame."""


async def check_stream(stream: Stream, cursor: Cursor, *, body_bytes: int, timeout: float = ASK_SECONDS) -> StreamState:
    """The stream's state. Raises `LogMissing`, or `LogUnavailable` and `LogCorrupt` that say what is not as it has to be."""
    state = await stream.state(timeout=timeout)
    check_config(state, stream.settings)
    name = stream.name
    if state.log_id != cursor.log_id:
        raise LogCorrupt(
            f"the stream {name} holds the log {state.log_id}, this replica follows the log {cursor.log_id}: check "
            "jetstream.servers, jetstream.stream and log.path"
        )
    if state.last < cursor.sequence:
        raise LogCorrupt(
            f"the stream {name} ends at message {state.last}, this replica has applied {cursor.sequence}: the stream has "
            "lost what was acknowledged, or is another one; nothing may be added to it (docs/guides/cluster-troubleshoot.md)"
        )
    if state.last > cursor.sequence and state.first > cursor.sequence + 1:
        raise LogCorrupt(
            f"the stream {name} begins at message {state.first}, this replica needs {cursor.sequence + 1}: copy the "
            "replica of a node that has applied it"
        )
    if cursor.sequence >= state.first and cursor.sequence > 0:
        there = await stream.message(cursor.sequence, timeout=timeout)
        if there is None or hashlib.sha256(there).digest() != cursor.digest:
            raise LogCorrupt(
                f"message {cursor.sequence} of the stream {name} is not the one that this replica has applied: its "
                "history is another one (docs/guides/cluster-troubleshoot.md)"
            )
    needed = body_bytes + PROOF_BYTES + FRAME_BYTES + HEADER_BYTES
    if body_bytes and stream.max_message_bytes + HEADER_BYTES < needed:
        raise LogUnavailable(
            f"NATS takes messages of {stream.max_message_bytes + HEADER_BYTES} bytes, server.max_body_bytes is {body_bytes}: "
            f'write "max_payload: {-(-needed // 2**20)}MB" in nats-server.conf of each server'
        )
    return state


def check_config(state: StreamState, settings: StreamSettings) -> None:
    """Raise `LogUnavailable` where the stream is none of ours or would not keep what it is given."""
    if not state.log_id:
        raise LogUnavailable(
            f"the stream {settings.stream} is not a log of Tracker: name another one under jetstream.stream"
        )
    if state.format != FORMAT:
        raise LogUnavailable(
            f"the stream {settings.stream} has the format {state.format!r}, this Tracker knows {FORMAT!r}: start the newer "
            "Tracker"
        )
    wrong = wrong_settings(state, settings)
    if wrong:
        raise LogUnavailable(
            f"the stream {settings.stream} would not keep a log: {'; '.join(wrong)}. Set it so with "
            f"`nats stream edit {settings.stream}`"
        )


async def join_stream(settings: StreamSettings, log_id: str) -> str:
    """The id of the log in the stream: that of the one there is, else `log_id` where one is made now.

    Raises `LogUnavailable` where it cannot be made, or the one there is would not keep a log.
    """
    stream = await Stream.open(settings)
    try:
        try:
            state = await stream.state()
        except LogMissing:
            state = await stream.create(log_id)
        check_config(state, settings)
        return state.log_id
    finally:
        await stream.close()

"""Checks before appending: the stream is the one that the replica follows, and its settings keep every message."""

from __future__ import annotations

import hashlib

from tracker.config.jetstream import JetstreamConfig
from tracker.errors import LogCorrupt, LogMissing, LogUnavailable
from tracker.log.frames import FRAME_BYTES
from tracker.log.jetstream.stream import REQUEST_SECONDS, FORMAT, HEADER_BYTES, Stream, StreamState, wrong_settings
from tracker.log.sqlite.replica import Cursor

PROOF_BYTES = 64 * 1024
"""Room for the proof and other fields beside a body in a frame."""


async def check_stream(
    stream: Stream, cursor: Cursor, *, body_bytes: int, timeout: float = REQUEST_SECONDS
) -> StreamState:
    """The stream's state. Raises `LogMissing`, `LogUnavailable` or `LogCorrupt` where the stream does not fit the replica.

    `body_bytes`: a body of this size must fit into a message; 0: not checked.
    """
    state = await stream.state(timeout=timeout)
    check_config(state, stream.config)
    name = stream.name
    if state.log_id != cursor.log_id:
        raise LogCorrupt(
            f"the stream {name} holds the log {state.log_id}, but this replica follows the log {cursor.log_id}: check "
            "jetstream.servers, jetstream.stream and log.path"
        )
    if state.last < cursor.sequence:
        raise LogCorrupt(
            f"the stream {name} ends at message {state.last}, but this replica has applied {cursor.sequence}: the stream "
            "lost acknowledged messages, or is another one; append nothing to it (docs/guides/cluster-troubleshoot.md)"
        )
    if state.last > cursor.sequence and state.first > cursor.sequence + 1:
        raise LogCorrupt(
            f"the stream {name} begins at message {state.first}, but this replica needs {cursor.sequence + 1}: copy the "
            "replica of a node that has applied it"
        )
    if cursor.sequence >= state.first and cursor.sequence > 0:
        message = await stream.message(cursor.sequence, timeout=timeout)
        if message is None or hashlib.sha256(message).digest() != cursor.digest:
            raise LogCorrupt(
                f"message {cursor.sequence} of the stream {name} is not the one that this replica has applied: their "
                "histories differ (docs/guides/cluster-troubleshoot.md)"
            )
    needed = body_bytes + PROOF_BYTES + FRAME_BYTES + HEADER_BYTES
    if body_bytes and stream.max_message_bytes + HEADER_BYTES < needed:
        raise LogUnavailable(
            f"NATS accepts messages of {stream.max_message_bytes + HEADER_BYTES} bytes, server.max_body_bytes is {body_bytes}: "
            f'write "max_payload: {-(-needed // 2**20)}MB" in nats-server.conf of each server'
        )
    return state


def check_config(state: StreamState, config: JetstreamConfig) -> None:
    """Raise `LogUnavailable` where the stream is not a log of Tracker, or its settings would lose messages."""
    if not state.log_id:
        raise LogUnavailable(
            f"the stream {config.stream} is not a log of Tracker: name another one as jetstream.stream"
        )
    if state.format != FORMAT:
        raise LogUnavailable(
            f"the stream {config.stream} has the format {state.format!r}, this Tracker knows {FORMAT!r}: start the newer "
            "Tracker"
        )
    wrong = wrong_settings(state, config)
    if wrong:
        raise LogUnavailable(
            f"the settings of stream {config.stream} would not keep a log: {'; '.join(wrong)}. Change them with "
            f"`nats stream edit {config.stream}`"
        )


async def join_stream(config: JetstreamConfig, log_id: str) -> str:
    """The id of the log in the stream. Creates the stream with `log_id` where there is none.

    Raises `LogUnavailable` where it cannot be created, or the existing one would not keep a log.
    """
    stream = await Stream.open(config)
    try:
        try:
            state = await stream.state()
        except LogMissing:
            state = await stream.create(log_id)
        check_config(state, config)
        return state.log_id
    finally:
        await stream.close()

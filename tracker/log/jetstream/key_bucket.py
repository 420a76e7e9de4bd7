"""The bucket of data keys: one entry per frame, in a NATS key-value bucket beside the stream, with as many replicas.

    $KV.<stream>-keys.<frame, hexadecimal>    the wrapped data keys of its records (`frame_keys.py`)
    $KV.<stream>-keys.names                   the dedupe secret, wrapped: {master: wrapped}
    $KV.<stream>-keys.restored                after a loss: entries of frames up to this message of the stream may be missing

An entry is acknowledged before its frame is published: a record without its key is lost. If we die in between, an entry
without a frame remains: a copy that runs again overwrites it, any other is swept (`log/jetstream/orphan_keys.py`).
Here, unlike in the stream, messages can be deleted. To destroy a key, a new revision of the entry without it is stored and
acknowledged; then every older revision is deleted, which overwrites it. If we die in between, running it again completes it.

LIMIT: the servers' Raft logs hold what was overwritten until the servers compact them (docs/guides/erase.md).
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from tracker.errors import LogCorrupt, LogMissing, LogUnavailable
from tracker.log.keys.frame_keys import EMPTY_ENTRY, decode, encode, without_keys
from tracker.log.jetstream.stream import (
    NO_MESSAGE,
    NO_STREAM,
    UNSET_CONFIG,
    WRONG_LAST,
    PublishRefused,
    Stream,
    read_reply,
    translated_errors,
    config_mismatch,
)

NAMES, RESTORED = "names", "restored"
REVISIONS = 5
PUT_SECONDS = 2.0
DELETE_FAILED = 10057
TRIES = 20

_NAMES = msgspec.msgpack.Decoder(dict[str, bytes])


class BucketUnfit(LogUnavailable):
    """The bucket exists, but its settings would lose keys or keep destroyed ones."""


class Revision(NamedTuple):
    """A revision of an entry: which message it is, and when a server stored it (s since 1970)."""

    sequence: int
    frame: bytes
    entry: bytes
    at: float


class _Message(NamedTuple):
    sequence: int
    subject: str
    data: bytes
    at: float


class KeyBucket:
    """The bucket beside one stream, over the stream's connection."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.name = f"{stream.name}-keys"

    async def create(self) -> None:
        """Create it where there is none. Raises `LogUnavailable` on failure, or where its settings are wrong."""
        if not await self.exists():
            # Another node that is quicker creates the same one.
            await self._stream.create_placed(f"KV_{self.name}", self._wanted())
            await self.exists()

    async def exists(self) -> bool:
        """Whether there is one. Raises `BucketUnfit` where its settings are wrong, `LogUnavailable`."""
        try:
            found = await self._stream.api_request(f"STREAM.INFO.KV_{self.name}", {})
        except PublishRefused as error:
            if error.code == NO_STREAM:
                return False
            raise
        wrong = config_mismatch(found["config"], UNSET_CONFIG | self._wanted() | {"max_msg_size": -1, "sealed": False})
        if wrong:
            raise BucketUnfit(
                f"the bucket {self.name} would lose data keys, or keep destroyed ones: {'; '.join(wrong)}. Change the settings with "
                f"`nats stream edit KV_{self.name}`"
            )
        return True

    def _wanted(self) -> dict[str, Any]:
        return {
            "name": f"KV_{self.name}", "subjects": [f"$KV.{self.name}.>"], "storage": "file",
            "num_replicas": self._stream.config.replicas, "retention": "limits", "discard": "new", "max_age": 0,
            "max_bytes": -1, "max_msgs": -1, "max_msgs_per_subject": REVISIONS, "deny_delete": False,
            "deny_purge": False, "allow_rollup_hdrs": True, "allow_direct": True,
        }  # fmt: skip

    async def dedupe_secret(self) -> Mapping[str, bytes] | None:
        """The dedupe secret, {master key: wrapped}; None before the first node published it."""
        found = await self._entry(NAMES)
        if found is None:
            return None
        try:
            return _NAMES.decode(found[1])
        except msgspec.MsgspecError as error:
            raise LogCorrupt(f"{NAMES} in the bucket {self.name} cannot be read: {error}") from None

    async def publish_dedupe_secret(self, names: Mapping[str, bytes]) -> bool:
        """Publish the dedupe secret as the first node; False where another node was quicker."""
        try:
            await self._put(NAMES, msgspec.msgpack.encode(dict(names)), after=0)
        except PublishRefused as error:
            if error.code == WRONG_LAST:
                return False
            raise
        return True

    async def rewrap_dedupe_secret(self, names: Mapping[str, bytes], master: str) -> None:
        """Replace the dedupe secret by one wrapped with this master key, unless it is already."""
        found = await self._entry(NAMES)
        if found is not None and set(_NAMES.decode(found[1])) != {master}:
            latest = await self._put(NAMES, msgspec.msgpack.encode(dict(names)), after=found[0])
            await self._delete_older(NAMES, latest)

    async def mark_restored(self, last: int) -> None:
        """Note that this bucket is being restored: entries of frames up to that message of the stream may be missing."""
        value = str(last).encode()
        if not await self._replace(RESTORED, 0, value):
            found = await self._entry(RESTORED)
            if found is not None and int(found[1]) < last:  # another node that is quicker notes about the same
                await self._replace(RESTORED, found[0], value)

    async def restored_until(self) -> int:
        """The bucket may lack keys of frames up to this message (see `mark_restored`); 0 if it was never restored."""
        found = await self._entry(RESTORED)
        return 0 if found is None else int(found[1])

    async def put(self, frame: bytes, entry: bytes, *, overwrite: bool = False) -> None:
        """Store the keys of a frame that is about to be published. Raises `LogUnavailable`; it may be stored all the same.

        An existing entry stays: it is our own, its acknowledgement was lost, and keys in it may be destroyed already. Two
        kinds are overwritten: one that was emptied by a sweep, and, with `overwrite`, one that a copy left when it died.
        """
        if await self._replace(frame, 0, entry):
            return
        for _ in range(TRIES):
            latest, held = await self._entry(frame.hex()) or (0, b"")
            if held and held != entry and not overwrite and decode(held).wrapped:
                return
            if held == entry or await self._replace(frame, latest, entry):
                await self._delete_older(frame.hex(), None)
                return
        raise LogUnavailable(
            f"the keys of frame {frame.hex()} are being changed by other nodes all the time: send it again"
        )

    async def find(self, frame: bytes) -> tuple[int, bytes] | None:
        """(sequence, entry) of a frame; None where there is none."""
        return await self._entry(frame.hex())

    async def replace(self, frame: bytes, latest: int, entry: bytes) -> bool:
        """Store an entry after its latest revision (0: there is none), and destroy the older ones.

        False where another node was quicker. Raises `LogUnavailable`; repeating it is harmless.
        """
        if not await self._replace(frame, latest, entry):
            return False
        if latest:
            await self._delete_older(frame.hex(), None)
        return True

    async def empty(self, found: Revision) -> bool:
        """Destroy all keys of an entry, unless it has changed since; False where it has.

        Its frame may still appear, from a machine that was suspended: then nodes find that its records have no keys.
        """
        latest = await self._entry(found.frame.hex())
        if latest is None:
            return False
        # It is empty already: the node that emptied it died before it deleted the older revisions.
        is_done = not decode(latest[1]).wrapped
        if not is_done and (
            latest[0] != found.sequence or not await self._replace(found.frame, latest[0], EMPTY_ENTRY)
        ):
            return False
        await self._delete_older(found.frame.hex(), None)
        return not is_done

    async def server_clock(self) -> tuple[float, str]:
        """The server's time, s since 1970, and when the bucket was created, as the server writes it."""
        try:
            info = await self._stream.api_request(f"STREAM.INFO.KV_{self.name}", {})
        except PublishRefused as error:
            if error.code == NO_STREAM:
                raise LogMissing(self.missing_message()) from None
            raise
        return parse_time(info["ts"]), info["created"]

    def missing_message(self) -> str:
        """The error message for a missing bucket."""
        return (
            f"there is no bucket {self.name} of data keys: create it with `tracker init`; if there was one, restore it "
            "with `tracker restore-keys` (docs/guides/cluster-troubleshoot.md)"
        )

    async def get(self, frame: bytes) -> bytes:
        """The entry of a frame, from the leader. Raises `LogCorrupt` where there is none."""
        found = await self._entry(frame.hex())
        if found is None:
            raise LogCorrupt(
                f"the bucket {self.name} has lost the data keys of frame {frame.hex()}: its records cannot be read; "
                "copy log and key store of a node that has them"
            )
        return found[1]

    async def destroy_keys(self, frame: bytes, destroyed: Collection[int]) -> None:
        """Destroy these keys of a frame. On return the bucket holds nothing of them. Repeating it is harmless."""
        for _ in range(TRIES):
            found = await self._entry(frame.hex())
            if found is None:
                return
            latest, entry = found
            left = without_keys(decode(entry), destroyed)
            if left is not None and not await self._replace(frame, latest, encode(left)):
                continue
            await self._delete_older(frame.hex(), latest if left is None else None)
            return
        raise LogUnavailable(
            f"the keys of frame {frame.hex()} are being changed by other nodes all the time: run it again"
        )

    async def rewrap(self, frame: bytes, entry: bytes, rewrapped: bytes) -> None:
        """Replace an entry by the same keys wrapped with another master key, unless it has changed meanwhile."""
        found = await self._entry(frame.hex())
        if found is not None and found[1] == entry and await self._replace(frame, found[0], rewrapped):
            await self._delete_older(frame.hex(), None)

    async def next_revision(self, after: int) -> Revision | None:
        """The next revision of any entry in the bucket, after a sequence."""
        while True:
            found = await self._message({"seq": after + 1, "next_by_subj": f"$KV.{self.name}.*"})
            if found is None:
                return None
            after, key = found.sequence, found.subject.rpartition(".")[2]
            if key not in {NAMES, RESTORED}:
                return Revision(after, bytes.fromhex(key), found.data, found.at)

    async def _replace(self, key: bytes | str, latest: int, entry: bytes) -> bool:
        """False where another node was quicker, or the acknowledgement was lost: read the entry again."""
        try:
            await self._put(key if isinstance(key, str) else key.hex(), entry, after=latest)
        except PublishRefused as error:
            if error.code == WRONG_LAST:
                return False
            raise
        return True

    async def _delete_older(self, key: str, latest: int | None) -> None:
        """Delete, and so overwrite, every revision of an entry older than the latest one."""
        if latest is None:
            found = await self._entry(key)
            latest = 0 if found is None else found[0]
        at = 1
        while (found := await self._message({"seq": at, "next_by_subj": self._subject(key)})) and found[0] < latest:
            try:
                await self._stream.api_request(f"STREAM.MSG.DELETE.KV_{self.name}", {"seq": found[0]})
            except PublishRefused as error:
                if error.code not in {NO_MESSAGE, DELETE_FAILED}:  # another node was quicker
                    raise
            at = found[0] + 1

    async def _put(self, key: str, value: bytes, *, after: int) -> int:
        headers = {"Nats-Expected-Stream": f"KV_{self.name}", "Nats-Expected-Last-Subject-Sequence": str(after)}
        try:
            with translated_errors("the bucket did not acknowledge"):
                answer = await self._stream.request(self._subject(key), value, PUT_SECONDS, headers)
        except LogUnavailable:
            if not await self.exists():
                raise LogUnavailable(self.missing_message()) from None
            raise
        return read_reply(answer, "the bucket refused the keys")["seq"]

    async def _entry(self, key: str) -> tuple[int, bytes] | None:
        found = await self._message({"last_by_subj": self._subject(key)})
        return None if found is None else (found.sequence, found.data)

    async def _message(self, query: dict[str, Any]) -> _Message | None:
        try:
            found = (await self._stream.api_request(f"STREAM.MSG.GET.KV_{self.name}", query))["message"]
        except PublishRefused as error:
            if error.code == NO_MESSAGE:
                return None
            if error.code == NO_STREAM:
                raise LogMissing(self.missing_message()) from None
            raise
        data = base64.b64decode(found.get("data", ""))
        return _Message(found["seq"], found["subject"], data, parse_time(found["time"]))

    def _subject(self, key: str) -> str:
        return f"$KV.{self.name}.{key}"


def parse_time(text: str) -> float:
    """A server's time, which has nanoseconds, in s since 1970."""
    return datetime.fromisoformat(text).timestamp()

"""The bucket of data keys: an entry a frame, in a key-value bucket beside the stream, as well replicated.

    $KV.<stream>-keys.<frame, hexadecimal>    the wrapped data keys of its records (`frame_keys.py`)
    $KV.<stream>-keys.names                   what dedupe keys are hashed with, wrapped: {master: wrapped}
    $KV.<stream>-keys.restored                of a bucket that was lost: up to which message of the stream entries may be missing

An entry is acknowledged before its frame is published: a record without its key is lost. Who dies in between leaves an entry
without a frame; a copy that is run again puts its own in the place of it, any other is swept (`log/jetstream/orphan_keys.py`).
Here, and only here, messages can be deleted. Destroying a key: a new revision of the entry without it, acknowledged, then
every older one is deleted, which overwrites it. If we die in between, doing it again does the rest.

LIMIT: the servers' Raft logs hold what was overwritten until the servers compact them by themselves (docs/guides/erase.md).
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
    """There is a bucket, which does not do what it has to."""


class Revision(NamedTuple):
    """An entry as it stands in the bucket, or stood: which message it is, and when a server took it (s since 1970)."""

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
    """The bucket beside one stream; over its connection."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.name = f"{stream.name}-keys"

    async def create(self) -> None:
        """Make it where there is none. Raises `LogUnavailable` where it cannot be, or would not keep keys."""
        if not await self.exists():
            # Whoever is quicker makes the same one.
            await self._stream.api_request(f"STREAM.CREATE.KV_{self.name}", self._wanted(), 10.0)
            await self.exists()

    async def exists(self) -> bool:
        """Whether there is one. Raises `Unfit` where it would not keep keys, or not let them go, `LogUnavailable`."""
        try:
            found = await self._stream.api_request(f"STREAM.INFO.KV_{self.name}", {})
        except PublishRefused as error:
            if error.code == NO_STREAM:
                return False
            raise
        wrong = config_mismatch(found["config"], UNSET_CONFIG | self._wanted() | {"max_msg_size": -1, "sealed": False})
        if wrong:
            raise BucketUnfit(
                f"the bucket {self.name} would not keep data keys, or not let them go: {'; '.join(wrong)}. Set it so with "
                f"`nats stream edit KV_{self.name}`"
            )
        return True

    def _wanted(self) -> dict[str, Any]:
        return {
            "name": f"KV_{self.name}", "subjects": [f"$KV.{self.name}.>"], "storage": "file",
            "num_replicas": self._stream.settings.replicas, "retention": "limits", "discard": "new", "max_age": 0,
            "max_bytes": -1, "max_msgs": -1, "max_msgs_per_subject": REVISIONS, "deny_delete": False,
            "deny_purge": False, "allow_rollup_hdrs": True, "allow_direct": True,
        }  # fmt: skip

    async def dedupe_secret(self) -> Mapping[str, bytes] | None:
        """What dedupe keys are hashed with, by the master key that wraps it; None before the first node said it."""
        found = await self._entry(NAMES)
        if found is None:
            return None
        try:
            return _NAMES.decode(found[1])
        except msgspec.MsgspecError as error:
            raise LogCorrupt(f"{NAMES} in the bucket {self.name} cannot be read: {error}") from None

    async def publish_dedupe_secret(self, names: Mapping[str, bytes]) -> bool:
        """Say it as the first node; False where another one was quicker."""
        try:
            await self._put(NAMES, msgspec.msgpack.encode(dict(names)), after=0)
        except PublishRefused as error:
            if error.code == WRONG_LAST:
                return False
            raise
        return True

    async def rewrap_dedupe_secret(self, names: Mapping[str, bytes], master: str) -> None:
        """Say it anew, wrapped by this master key, unless it is; what was said before goes."""
        found = await self._entry(NAMES)
        if found is not None and set(_NAMES.decode(found[1])) != {master}:
            latest = await self._put(NAMES, msgspec.msgpack.encode(dict(names)), after=found[0])
            await self._forget(NAMES, latest)

    async def mark_restored(self, last: int) -> None:
        """Say that this bucket is put back: entries of frames up to that message of the stream may be missing still."""
        told = str(last).encode()
        if not await self._replaced(RESTORED, 0, told):
            found = await self._entry(RESTORED)
            if found is not None and int(found[1]) < last:  # where another node is quicker, it says about the same
                await self._replaced(RESTORED, found[0], told)

    async def restored_until(self) -> int:
        """What was said so; 0 where the bucket was never lost."""
        found = await self._entry(RESTORED)
        return 0 if found is None else int(found[1])

    async def put(self, frame: bytes, entry: bytes, *, anew: bool = False) -> None:
        """Keep the keys of a frame that is about to be published. Raises `LogUnavailable`; it may be there then.

        An entry that is there is ours, its acknowledgement was lost, and stays: keys may be destroyed in it already. Not so
        one that was given up meanwhile; nor, with `anew`, what a copy that died has left for the same records.
        """
        if await self._replaced(frame, 0, entry):
            return
        for _ in range(TRIES):
            latest, held = await self._entry(frame.hex()) or (0, b"")
            if held and held != entry and not anew and decode(held).wrapped:
                return
            if held == entry or await self._replaced(frame, latest, entry):
                await self._forget(frame.hex(), None)
                return
        raise LogUnavailable(f"the keys of frame {frame.hex()} are changed by others again and again: send it again")

    async def find(self, frame: bytes) -> tuple[int, bytes] | None:
        """(its sequence, entry) of a frame; None where there is none."""
        return await self._entry(frame.hex())

    async def replace(self, frame: bytes, latest: int, entry: bytes) -> bool:
        """Put an entry behind its latest revision (0: there is none), and overwrite what was there.

        False where somebody else was quicker. Raises `LogUnavailable`; again is harmless.
        """
        if not await self._replaced(frame, latest, entry):
            return False
        if latest:
            await self._forget(frame.hex(), None)
        return True

    async def empty(self, found: Revision) -> bool:
        """Destroy all keys of an entry that nobody has changed since, and say so in its place; False where somebody has.

        Its frame may appear all the same, from a machine that stood still: then nodes find that its records have no keys.
        """
        latest = await self._entry(found.frame.hex())
        if latest is None:
            return False
        # Without keys already: whoever gave it up died before the older revisions were overwritten.
        is_done = not decode(latest[1]).wrapped
        if not is_done and (
            latest[0] != found.sequence or not await self._replaced(found.frame, latest[0], EMPTY_ENTRY)
        ):
            return False
        await self._forget(found.frame.hex(), None)
        return not is_done

    async def server_clock(self) -> tuple[float, str]:
        """What time it is where the bucket is, s since 1970, and when it was made, as the server says it."""
        try:
            told = await self._stream.api_request(f"STREAM.INFO.KV_{self.name}", {})
        except PublishRefused as error:
            if error.code == NO_STREAM:
                raise LogMissing(self.missing_message()) from None
            raise
        return parse_time(told["ts"]), told["created"]

    def missing_message(self) -> str:
        """What to tell whoever needs the bucket where there is none."""
        return (
            f"there is no bucket {self.name} of data keys: make it with `tracker init`; where there was one, put it back "
            "with `tracker restore-keys` (docs/guides/cluster-troubleshoot.md)"
        )

    async def get(self, frame: bytes) -> bytes:
        """The keys of a frame, as the leader has them. Raises `LogCorrupt` where there is no such entry."""
        found = await self._entry(frame.hex())
        if found is None:
            raise LogCorrupt(
                f"the bucket {self.name} has lost the data keys of frame {frame.hex()}: its records cannot be read; "
                "copy log and key store of a node that has them"
            )
        return found[1]

    async def destroy_keys(self, frame: bytes, gone: Collection[int]) -> None:
        """Destroy these keys of a frame. Nothing of them can be read from the bucket on return; again is harmless."""
        for _ in range(TRIES):
            found = await self._entry(frame.hex())
            if found is None:
                return
            latest, entry = found
            left = without_keys(decode(entry), gone)
            if left is not None and not await self._replaced(frame, latest, encode(left)):
                continue
            await self._forget(frame.hex(), latest if left is None else None)
            return
        raise LogUnavailable(f"the keys of frame {frame.hex()} are changed by others again and again: run it again")

    async def rewrap(self, frame: bytes, entry: bytes, anew: bytes) -> None:
        """Put the same keys, wrapped by another master key, in the place of an entry that nobody has changed meanwhile."""
        found = await self._entry(frame.hex())
        if found is not None and found[1] == entry and await self._replaced(frame, found[0], anew):
            await self._forget(frame.hex(), None)

    async def next_revision(self, after: int) -> Revision | None:
        """The next revision of an entry in the bucket after a sequence."""
        while True:
            found = await self._message({"seq": after + 1, "next_by_subj": f"$KV.{self.name}.*"})
            if found is None:
                return None
            after, key = found.sequence, found.subject.rpartition(".")[2]
            if key not in {NAMES, RESTORED}:
                return Revision(after, bytes.fromhex(key), found.data, found.at)

    async def _replaced(self, key: bytes | str, latest: int, entry: bytes) -> bool:
        """False where somebody else was quicker, or the acknowledgement was lost: look again."""
        try:
            await self._put(key if isinstance(key, str) else key.hex(), entry, after=latest)
        except PublishRefused as error:
            if error.code == WRONG_LAST:
                return False
            raise
        return True

    async def _forget(self, key: str, latest: int | None) -> None:
        """Delete and overwrite every older revision of an entry than the latest one."""
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
        return read_reply(answer, "the bucket did not take the keys")["seq"]

    async def _entry(self, key: str) -> tuple[int, bytes] | None:
        found = await self._message({"last_by_subj": self._subject(key)})
        return None if found is None else (found.sequence, found.data)

    async def _message(self, asked: dict[str, Any]) -> _Message | None:
        try:
            found = (await self._stream.api_request(f"STREAM.MSG.GET.KV_{self.name}", asked))["message"]
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


def parse_time(told: str) -> float:
    """A server's time, s since 1970; it has nanoseconds."""
    return datetime.fromisoformat(told).timestamp()

"""The bucket of data keys: an entry a frame, in a key-value bucket beside the stream, as well replicated.

    $KV.<stream>-keys.<frame, hexadecimal>    the wrapped data keys of its records (`frame_keys.py`)
    $KV.<stream>-keys.names                   what dedupe keys are hashed with, wrapped: {master: wrapped}

An entry is acknowledged before its frame is published: a key too many does no harm, a record without its key is lost.
Here, and only here, messages can be deleted. Destroying a key: a new revision of the entry without it, acknowledged, then
every older one is deleted, which overwrites it. If we die in between, doing it again does the rest.

LIMIT: the servers' Raft logs hold what was overwritten until the servers compact them by themselves (docs/evidence.md).
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from tracker.errors import LogCorrupt, LogMissing, LogUnavailable
from tracker.log.frame_keys import decode, encode, without
from tracker.log.jetstream_stream import NO_MESSAGE, NO_STREAM, WRONG_LAST, Refused, Stream, answered, ours

NAMES = "names"
REVISIONS = 5
PUT_SECONDS = 2.0
DELETE_FAILED = 10057
TRIES = 20

_NAMES = msgspec.msgpack.Decoder(dict[str, bytes])


class KeyBucket:
    """The bucket beside one stream; over its connection."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.name = f"{stream.name}-keys"

    async def make(self) -> None:
        """Make it where there is none. Raises `LogUnavailable` where it cannot be, or would not keep keys."""
        if not await self.is_there():
            # Whoever is quicker makes the same one.
            await self._stream.ask(f"STREAM.CREATE.KV_{self.name}", self._wanted(), 10.0)
            await self.is_there()

    async def is_there(self) -> bool:
        """Whether there is one. Raises `LogUnavailable` where it would not keep keys, or not let them go."""
        try:
            found = await self._stream.ask(f"STREAM.INFO.KV_{self.name}", {})
        except Refused as error:
            if error.code == NO_STREAM:
                return False
            raise
        config: Mapping[str, Any] = found["config"]
        wrong = [key for key, value in self._wanted().items() if config.get(key, False) != value]
        if wrong:
            raise LogUnavailable(
                f"the bucket {self.name} would not keep data keys, or not let them go: set {', '.join(sorted(wrong))} as "
                "`tracker init` does (docs/engines/jetstream.md)"
            )
        return True

    def _wanted(self) -> dict[str, Any]:
        return {
            "name": f"KV_{self.name}", "subjects": [f"$KV.{self.name}.>"], "storage": "file",
            "num_replicas": self._stream.settings.replicas, "retention": "limits", "discard": "new", "max_age": 0,
            "max_bytes": -1, "max_msgs": -1, "max_msgs_per_subject": REVISIONS, "deny_delete": False,
            "deny_purge": False, "allow_rollup_hdrs": True, "allow_direct": True,
        }  # fmt: skip

    async def names(self) -> Mapping[str, bytes] | None:
        """What dedupe keys are hashed with, by the master key that wraps it; None before the first node said it."""
        found = await self._entry(NAMES)
        if found is None:
            return None
        try:
            return _NAMES.decode(found[1])
        except msgspec.MsgspecError as error:
            raise LogCorrupt(f"{NAMES} in the bucket {self.name} cannot be read: {error}") from None

    async def say_names(self, names: Mapping[str, bytes]) -> bool:
        """Say it as the first node; False where another one was quicker."""
        try:
            await self._put(NAMES, msgspec.msgpack.encode(dict(names)), after=0)
        except Refused as error:
            if error.code == WRONG_LAST:
                return False
            raise
        return True

    async def rename(self, names: Mapping[str, bytes], master: str) -> None:
        """Say it anew, wrapped by this master key, unless it is; what was said before goes."""
        found = await self._entry(NAMES)
        if found is not None and set(_NAMES.decode(found[1])) != {master}:
            latest = await self._put(NAMES, msgspec.msgpack.encode(dict(names)), after=found[0])
            await self._forget(NAMES, latest)

    async def put(self, frame: bytes, entry: bytes) -> None:
        """Keep the keys of a frame that nobody has seen yet. Raises `LogUnavailable`; it may be there then."""
        try:
            await self._put(frame.hex(), entry, after=0)
        except Refused as error:
            if error.code != WRONG_LAST:  # ours, its acknowledgement was lost
                raise

    async def entry(self, frame: bytes) -> bytes:
        """The keys of a frame, as the leader has them. Raises `LogCorrupt` where there is no such entry."""
        found = await self._entry(frame.hex())
        if found is None:
            raise LogCorrupt(
                f"the bucket {self.name} has lost the data keys of frame {frame.hex()}: its records cannot be read; "
                "copy log and key store of a node that has them"
            )
        return found[1]

    async def withdraw(self, frame: bytes, gone: Collection[int]) -> None:
        """Destroy these keys of a frame. Nothing of them can be read from the bucket on return; again is harmless."""
        for _ in range(TRIES):
            found = await self._entry(frame.hex())
            if found is None:
                return
            latest, entry = found
            left = without(decode(entry), gone)
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

    async def frames(self, after: int) -> tuple[int, bytes, bytes] | None:
        """(its sequence, frame, entry) of the next revision in the bucket after a sequence."""
        while True:
            found = await self._message({"seq": after + 1, "next_by_subj": f"$KV.{self.name}.*"})
            if found is None:
                return None
            after, subject, entry = found
            key = subject.rpartition(".")[2]
            if key != NAMES:
                return after, bytes.fromhex(key), entry

    async def _replaced(self, frame: bytes, latest: int, entry: bytes) -> bool:
        """False where somebody else was quicker, or the acknowledgement was lost: look again."""
        try:
            await self._put(frame.hex(), entry, after=latest)
        except Refused as error:
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
                await self._stream.ask(f"STREAM.MSG.DELETE.KV_{self.name}", {"seq": found[0]})
            except Refused as error:
                if error.code not in {NO_MESSAGE, DELETE_FAILED}:  # another node was quicker
                    raise
            at = found[0] + 1

    async def _put(self, key: str, value: bytes, *, after: int) -> int:
        headers = {"Nats-Expected-Stream": f"KV_{self.name}", "Nats-Expected-Last-Subject-Sequence": str(after)}
        with ours("the bucket did not acknowledge"):
            answer = await self._stream.request(self._subject(key), value, PUT_SECONDS, headers)
        return answered(answer, "the bucket did not take the keys")["seq"]

    async def _entry(self, key: str) -> tuple[int, bytes] | None:
        found = await self._message({"last_by_subj": self._subject(key)})
        return None if found is None else (found[0], found[2])

    async def _message(self, asked: dict[str, Any]) -> tuple[int, str, bytes] | None:
        try:
            found = (await self._stream.ask(f"STREAM.MSG.GET.KV_{self.name}", asked))["message"]
        except Refused as error:
            if error.code == NO_MESSAGE:
                return None
            if error.code == NO_STREAM:
                raise LogMissing(f"there is no bucket {self.name}: make it with `tracker init`") from None
            raise
        return found["seq"], found["subject"], base64.b64decode(found.get("data", ""))

    def _subject(self, key: str) -> str:
        return f"$KV.{self.name}.{key}"

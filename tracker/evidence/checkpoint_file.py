"""The file of checkpoints, which the operator ships elsewhere: notes with an empty line after each, appended, synced.

If we die half-way through a note, the next append writes the rest of that same note: nothing that stands in the file is
ever changed or taken away, so that it can be shipped while it grows. One process appends at a time (`held`).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from tracker.errors import CheckpointUnwritten, NoteMalformed
from tracker.log.merkle.checkpoint import NOTE, split_checkpoint_file, read_checkpoint

TAIL_BYTES = 64 * 1024
LOCK_SECONDS = 10.0
POLL_SECONDS = 0.05


class Tail(NamedTuple):
    """How the file ends: its newest checkpoint, `size` of it (0: none), and the bytes after the last whole note."""

    note: str | None
    size: int
    rest: bytes


class ShippedNote(NamedTuple):
    """A piece of a file of checkpoints that begins in `line`; `size` is None where it is no checkpoint."""

    line: int
    text: str
    size: int | None


class LockedFile:
    """The file, ours alone while we look at it and append."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def tail(self) -> Tail:
        """How it ends now. Raises `CheckpointUnwritten`."""
        try:
            length = os.fstat(self._descriptor).st_size
            found = os.pread(self._descriptor, TAIL_BYTES, max(0, length - TAIL_BYTES))
        except OSError as error:
            raise _refused(self._path, error) from error
        text = found.decode("utf-8", "surrogateescape")
        newest, size, end = None, 0, 0
        for match in NOTE.finditer(text):
            end = match.end()
            said = _size_of(match[0])
            if said is not None and said >= size:
                newest, size = match[0], said
        return Tail(newest, size, text[end:].encode("utf-8", "surrogateescape") if end or length <= TAIL_BYTES else b"")

    def append(self, tail: Tail, notes: Iterable[str]) -> None:
        """Make the file end in these notes, after what `tail` found. On the disk on return.

        Raises `CheckpointUnwritten`; the next append goes on from whatever was written.
        """
        wanted = ("\n" if tail.note is not None else "") + "".join(f"{note}\n" for note in notes)
        missing = wanted.encode()
        if missing.startswith(tail.rest):
            missing = missing[len(tail.rest) :]
        elif missing != b"\n":
            # Somebody else's text stands there: it is left, and told by `tracker verify`.
            missing = b"\n\n" + missing.lstrip(b"\n")
        try:
            while missing:
                missing = missing[os.write(self._descriptor, missing) :]
            os.fsync(self._descriptor)
        except OSError as error:
            raise _refused(self._path, error) from error


@asynccontextmanager
async def locked(path: Path) -> AsyncGenerator[LockedFile]:
    """The file of checkpoints, made where there is none. Raises `CheckpointUnwritten`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _refused(path, error) from error
    try:
        await _lock(path, descriptor)
        yield LockedFile(path, descriptor)
    finally:
        os.close(descriptor)


def read_shipped(path: Path) -> list[ShippedNote]:
    """Everything in a file of checkpoints, in order. Raises `CheckpointUnwritten` when it cannot be read."""
    try:
        text = path.read_text("utf-8", errors="replace")
    except OSError as error:
        raise _refused(path, error) from error
    return [
        ShippedNote(piece.line, piece.text, _size_of(piece.text) if piece.is_note else None)
        for piece in split_checkpoint_file(text)
    ]


async def _lock(path: Path, descriptor: int) -> None:
    deadline = asyncio.get_running_loop().time() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if asyncio.get_running_loop().time() > deadline:
                raise CheckpointUnwritten(f"{path} is held by another process: try again") from None
            await asyncio.sleep(POLL_SECONDS)
        except OSError as error:
            raise _refused(path, error) from error
        else:
            return


def _size_of(note: str) -> int | None:
    try:
        return read_checkpoint(note).size
    except NoteMalformed:
        return None


def _refused(path: Path, error: OSError) -> CheckpointUnwritten:
    return CheckpointUnwritten(
        f"the file of checkpoints {path} cannot be read or written ({error.strerror}): make room, mend its "
        "permissions, or name another one as evidence.file"
    )

"""The checkpoint file, which the operator ships elsewhere: signed notes with an empty line after each, appended and synced.

What is in the file is never changed or removed, so it can be shipped while it grows. If we die in the middle of a note,
the next append writes the rest of that note. One process appends at a time (`locked`).
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
"""How long to wait for another process that holds the file."""
POLL_SECONDS = 0.05


class Tail(NamedTuple):
    """The end of the file: its newest checkpoint, the tree `size` that signs (0: none), and the bytes after the last whole note."""

    note: str | None
    size: int
    rest: bytes


class ShippedNote(NamedTuple):
    """One part of a checkpoint file, starting at `line`. `size` is the size of the signed tree, None if this is no checkpoint."""

    line: int
    text: str
    size: int | None


class LockedFile:
    """The checkpoint file while this process holds its lock."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def tail(self) -> Tail:
        """The end of the file now. Raises `CheckpointUnwritten`."""
        try:
            length = os.fstat(self._descriptor).st_size
            found = os.pread(self._descriptor, TAIL_BYTES, max(0, length - TAIL_BYTES))
        except OSError as error:
            raise _unwritten(self._path, error) from error
        text = found.decode("utf-8", "surrogateescape")
        newest, newest_size, end = None, 0, 0
        for match in NOTE.finditer(text):
            end = match.end()
            size = _size_of(match[0])
            if size is not None and size >= newest_size:
                newest, newest_size = match[0], size
        rest = text[end:].encode("utf-8", "surrogateescape") if end or length <= TAIL_BYTES else b""
        return Tail(newest, newest_size, rest)

    def append(self, tail: Tail, notes: Iterable[str]) -> None:
        """Append these notes after `tail`. They are on the disk on return.

        Raises `CheckpointUnwritten`; the next append continues after what was written.
        """
        wanted = ("\n" if tail.note is not None else "") + "".join(f"{note}\n" for note in notes)
        missing = wanted.encode()
        if missing.startswith(tail.rest):
            missing = missing[len(tail.rest) :]
        elif missing != b"\n":
            # The file ends in text that Tracker did not write: it stays, and `tracker verify` reports it.
            missing = b"\n\n" + missing.lstrip(b"\n")
        try:
            while missing:
                missing = missing[os.write(self._descriptor, missing) :]
            os.fsync(self._descriptor)
        except OSError as error:
            raise _unwritten(self._path, error) from error


@asynccontextmanager
async def locked(path: Path) -> AsyncGenerator[LockedFile]:
    """The locked checkpoint file, created if it does not exist. Raises `CheckpointUnwritten`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _unwritten(path, error) from error
    try:
        await _lock(path, descriptor)
        yield LockedFile(path, descriptor)
    finally:
        os.close(descriptor)


def read_shipped(path: Path) -> list[ShippedNote]:
    """Everything in a checkpoint file, in order. Raises `CheckpointUnwritten` when the file cannot be read."""
    try:
        text = path.read_text("utf-8", errors="replace")
    except OSError as error:
        raise _unwritten(path, error) from error
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
                raise CheckpointUnwritten(f"{path} is in use by another process: try again") from None
            await asyncio.sleep(POLL_SECONDS)
        except OSError as error:
            raise _unwritten(path, error) from error
        else:
            return


def _size_of(note: str) -> int | None:
    try:
        return read_checkpoint(note).size
    except NoteMalformed:
        return None


def _unwritten(path: Path, error: OSError) -> CheckpointUnwritten:
    return CheckpointUnwritten(
        f"the checkpoint file {path} cannot be read or written ({error.strerror}): free disk space, correct its "
        "permissions, or set evidence.file to another path"
    )

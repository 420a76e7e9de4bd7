"""One server per log: a lock file beside the log, released by the system when its holder dies.

Several processes may append to one SQLite log (positions are assigned under the write lock), so importers take no lock.
Two servers on one log are an operator's mistake, and the second is refused with the name of the first.

LIMIT: `flock` does not reach across machines on every network file system; a log belongs on a local disk anyway.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from tracker.errors import LogUnavailable


class FileLock:
    """A lock that is held until `close()`, or until the process is gone. Also a context manager."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor: int | None = descriptor
        self.path = path

    def close(self) -> None:
        """Release it. Idempotent.

        The lock file stays: if it were removed, two servers could each lock a different file with the same name.
        """
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def lock(log_path: str | Path) -> FileLock:
    """Lock `<log_path>.lock` for a server. Raises `LogUnavailable`; `reason` is "locked" where another process holds it."""
    real = Path(log_path).resolve()
    path = real.with_name(real.name + ".lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise LogUnavailable(
            f"{path} cannot be opened ({error.strerror}): check that the directory is writable"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
        os.close(descriptor)
        raise LogUnavailable(f"{real} is already served by {holder}: stop that server first", "locked") from error
    except OSError as error:
        os.close(descriptor)
        raise LogUnavailable(f"{path} cannot be locked ({error.strerror}): put the log on a local disk") from error
    if not _is_named(descriptor, path):
        # The last holder has just removed the file: the next server would lock another file of the same name.
        os.close(descriptor)
        return lock(log_path)
    # The holder's name is only a help for people; the lock itself is what counts, so a full disk here is no reason to refuse.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return FileLock(descriptor, path)


def _is_named(descriptor: int, path: Path) -> bool:
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    held = os.fstat(descriptor)
    return (named.st_ino, named.st_dev) == (held.st_ino, held.st_dev)

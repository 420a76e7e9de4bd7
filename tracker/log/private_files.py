"""Files that only their owner may read, whatever the umask: they hold personal data, or keys.

SQLite gives its -wal and -shm the mode of the file they belong to.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

OWNER_ONLY = 0o600
OTHERS = stat.S_IRWXG | stat.S_IRWXO


def create_private(path: Path) -> None:
    """Create an empty file. Raises `OSError`, also when there is one already."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, OWNER_ONLY))


def restrict_database(path: Path) -> None:
    """Take the rights of others away from a SQLite file that an earlier version created. Not ours to change: it stays."""
    for suffix in ("", "-wal", "-shm"):
        file = path.with_name(path.name + suffix)
        with contextlib.suppress(OSError):
            mode = stat.S_IMODE(file.stat().st_mode)
            if mode & OTHERS:
                os.chmod(file, mode & ~OTHERS)

"""How a views file is opened, and how another one takes its name without hurting whoever has it open.

What can go wrong: a WAL belongs to a *name*. SQLite applies whatever `views.db-wal` it finds to `views.db`, so a new
file under the old name must never meet the old file's WAL. Hence:

  1. The new file is closed first, its journal mode DELETE: it is whole in itself, with no -wal and no -shm.
  2. Under an exclusive flock on `views.db-lock` the old -wal and -shm are unlinked, then the new file is renamed over
     the old one. Every opening of ours takes that lock shared, so nobody opens the old file between the two steps
     (and would make a WAL that the new file then met).
  3. Who had the old file open keeps its inode, its WAL and its shared memory by descriptor: they read and write on,
     into files without a name. On closing, SQLite sees that its file was moved and deletes nothing by name.

LIMIT: tools that do not know the lock (the sqlite3 shell) must not open the file in the instant of a swap.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import uuid
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

from tracker.errors import ViewsMissing, ViewsOutdated, ViewsUnavailable
from tracker.views.sqlite.schema import APPLICATION_ID, FILL_COUNTS, FILL_TEXTS, INSERT_META, READER_INDICES, SAVE_STAMP, SCHEMA, SELECT_STAMP, SET_APPLICATION_ID, STAMP, UNFINISHED  # fmt: skip

BUSY_SECONDS = 5.0
BUILDING_CACHE_KIB = 16 * 1024
WRITING_CACHE_KIB = 32 * 1024
WAL_PAGES = 8_000
"""A save changes pages all over a large file, many of them again soon: with room for them (32 MB each, in memory and in the
WAL) a live event took a fifth less processor time at 700 MB of views."""

Inode = tuple[int, int]
"""(st_dev, st_ino): which file it is, whatever it is called."""


@contextmanager
def named_errors(path: Path) -> Generator[None]:
    """Let no sqlite3 or OS exception out: they become `ViewsUnavailable`."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise ViewsUnavailable(
            f"the views at {path} cannot be used: {error}. Check the disk and the permissions; "
            "if they are damaged, move the file away and run `tracker rebuild`"
        ) from error


def find_inode(path: Path) -> Inode | None:
    """Which file has that name now; None when none has."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def _locked(path: Path, operation: int) -> Generator[None]:
    """Hold the swap lock of `path` (`fcntl.LOCK_SH` or `LOCK_EX`). A read-only directory is opened without it."""
    try:
        descriptor = os.open(_beside(path, "-lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:
        if operation == fcntl.LOCK_EX:
            raise
        yield
        return
    try:
        fcntl.flock(descriptor, operation)
        yield
    finally:
        os.close(descriptor)


def connect(path: Path, *, writable: bool, building: bool = False) -> tuple[sqlite3.Connection, Inode]:
    """A checked connection and the file it is on. Blocks: call it in the connection's own thread.

    `building`: the file is one of `start_building`, not finished yet.
    Raises `ViewsMissing`, `ViewsOutdated`, `ViewsUnavailable`; nothing stays open then.
    """
    with named_errors(path), _locked(path, fcntl.LOCK_SH):
        inode = find_inode(path)
        if inode is None:
            raise ViewsMissing(f"there are no views at {path}: run `tracker rebuild`")
        # A URI with mode=rw: a plain path would make an empty file where there is none.
        # Closed, and on a read-only file system: nobody can change it, and SQLite could make no WAL to read by.
        still = bool(os.statvfs(path).f_flag & os.ST_RDONLY) and not _beside(path, "-wal").exists()
        how = "mode=ro&immutable=1" if still else "mode=rw"
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?{how}", uri=True, timeout=BUSY_SECONDS, isolation_level=None
        )
        try:
            _expect_stamp(connection, path, UNFINISHED if building else STAMP)
            if building:
                _without_safety(connection)
            elif writable:
                connection.execute("PRAGMA journal_mode = WAL").fetchone()
                # A lost tail is lost with its checkpoint, and projected again from the log: NORMAL is enough here.
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute(f"PRAGMA cache_size = -{WRITING_CACHE_KIB}")
                connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}").fetchone()
            else:
                connection.execute("PRAGMA query_only = ON")
            # Read once under the lock: SQLite opens the WAL with the first read, and must not do so after a swap.
            connection.execute(SELECT_STAMP).fetchone()
        except BaseException:
            connection.close()
            raise
        return connection, inode


def create_file(path: Path) -> None:
    """Make an empty views file at `path`, with its parent directories; views that were there are swapped out."""
    with named_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = _beside(path, f"-{uuid.uuid4().hex[:12]}")
        try:
            start_building(fresh)
            finish_building(fresh)
            swap_in(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)


def start_building(path: Path, after: int = 0) -> None:
    """Make an empty, unfinished views file at `path`, where there is none: ours alone until `finish_building`.

    `after`: the position its first record follows.
    """
    with named_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            # Nothing is lost if we die here: the file has its name only after the swap, which makes it durable.
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("BEGIN")
            connection.execute(SET_APPLICATION_ID)
            for statement in SCHEMA:
                connection.execute(statement)
            connection.executemany(INSERT_META, [("stamp", UNFINISHED), ("checkpoint", after)])
            connection.execute("COMMIT")


def finish_building(path: Path) -> None:
    """Make an unfinished views file whole: the indices readers need, what `q` searches, then the stamp. Nobody else has it open."""
    with named_errors(path), closing(sqlite3.connect(path, isolation_level=None)) as connection:
        _without_safety(connection)
        for statement in (*READER_INDICES, *FILL_TEXTS, *FILL_COUNTS):
            connection.execute(statement)
        connection.execute(SAVE_STAMP, [STAMP])


def _without_safety(connection: sqlite3.Connection) -> None:
    """Whatever happens to an unfinished file, it is thrown away: what would undo a step is not kept.

    In memory it was hundreds of MB at ten million events, most of it for the index of three-letter pieces, which is written twice.
    """
    connection.execute("PRAGMA journal_mode = OFF").fetchone()
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute(f"PRAGMA cache_size = -{BUILDING_CACHE_KIB}")


def swap_in(new_path: Path, path: Path) -> None:
    """Give the closed views file `new_path` the name `path`, atomically; a running server goes on and may `refresh`.

    Both paths are in one file system. On return the new file is durable under that name and `new_path` is gone.
    Raises `ViewsMissing` / `ViewsOutdated` for a new file that is none of ours, `ViewsUnavailable` when somebody still
    has it open or when what is at `path` is not a views file; then `path` is as it was.
    """
    with named_errors(path):
        _finish(new_path)
        with _locked(path, fcntl.LOCK_EX):
            if path.exists():
                _expect_ours(path)
            # If we die between these, the old views are still there, whole up to what was just checkpointed.
            _beside(path, "-wal").unlink(missing_ok=True)
            _beside(path, "-shm").unlink(missing_ok=True)
            os.replace(new_path, path)
            _sync(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        _beside(new_path, "-lock").unlink(missing_ok=True)


def copy_file(path: Path, to: Path) -> None:
    """Copy the views as they are at one moment to a new file `to`; a running server goes on meanwhile.

    Raises `ViewsMissing`, `ViewsOutdated`, `ViewsUnavailable`.
    """
    with named_errors(path):
        held, _ = connect(path, writable=False)
        with closing(held), closing(sqlite3.connect(to, isolation_level=None)) as fresh:
            # All pages in one step: in several, a writer of another process would make it begin again for ever.
            held.backup(fresh)


def _finish(new_path: Path) -> None:
    """Fold the new file's WAL into it and leave WAL mode: SQLite refuses that while anyone else has it open."""
    if not new_path.exists():
        raise ViewsMissing(f"there is no views file at {new_path} to swap in")
    with closing(sqlite3.connect(new_path, timeout=0.2, isolation_level=None)) as connection:
        _expect_stamp(connection, new_path)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        mode = connection.execute("PRAGMA journal_mode = DELETE").fetchone()[0]
    if mode != "delete" or _beside(new_path, "-wal").exists():
        raise ViewsUnavailable(f"{new_path} is still open somewhere; close it before it is swapped in")
    _sync(new_path, os.O_RDONLY)


def _expect_ours(path: Path) -> None:
    """Refuse to overwrite what is not a views file (a mistyped path may be the log), and empty the old WAL."""
    with closing(sqlite3.connect(path, timeout=0.2, isolation_level=None)) as connection:
        try:
            ours = connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
        except sqlite3.DatabaseError:
            ours = False
        if not ours:
            raise ViewsUnavailable(
                f"{path} is not a views file and is not replaced: correct `views.path`, or move it away"
            )
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


def _expect_stamp(connection: sqlite3.Connection, path: Path, stamp: str = STAMP) -> None:
    """Raise `ViewsOutdated` unless this version of Tracker wrote the file, to its end."""
    try:
        found = connection.execute(SELECT_STAMP).fetchone()
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError) and "no such table" not in str(error):
            raise
        found = None
    if found is None or found[0] != stamp:
        raise ViewsOutdated(f"the views at {path} were not written by this version of Tracker: run `tracker rebuild`")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

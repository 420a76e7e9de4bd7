"""The SQLite file of a log: creating, opening and recognising it, and noticing when it is gone.

Only SQLite itself ever opens the file: closing any other descriptor of it would drop the locks that SQLite's
connections in this process hold (POSIX locks belong to the process). So even the check for a foreign file uses SQLite.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiosqlite

from tracker.errors import LogCorrupt, LogMissing, LogUnavailable
from tracker.log.private_files import create_private, restrict_database
from tracker.log.sqlite.bulk import run_in_thread
from tracker.log.sqlite.migrate import APPLICATION_ID, migrate, schema_guard


async def create_file(path: Path, finish: Callable[[aiosqlite.Connection], Awaitable[None]] | None = None) -> None:
    """Create an empty log at `path`, and its directory. Raises `LogUnavailable` when something is there already.

    `finish`: writes what else a log of this kind needs.
    The file appears under its name only when it is complete: if we die half-way, only a stray `.new` file is left.
    """
    if path.exists() or path.is_symlink():
        raise LogUnavailable(f"{path} exists already; it was not changed. Name another path to begin a new log")
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        create_private(draft)
        connection = await aiosqlite.connect(draft, isolation_level=None)
        try:
            await connection.execute("PRAGMA synchronous = FULL")
            await migrate(connection)
            if finish is not None:
                await finish(connection)
        finally:
            await connection.close()
        publish_file(draft, path)
    except FileExistsError as error:
        raise LogUnavailable(f"{path} was created by another process at the same time") from error
    except (OSError, sqlite3.Error) as error:
        raise LogUnavailable(f"{path} cannot be created: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def publish_file(draft: Path, path: Path) -> None:
    """Give a complete file its name, durably, if the name is free. Raises `FileExistsError`, `OSError`; the draft may stay."""
    try:
        os.link(draft, path)  # unlike a rename it never replaces a file
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        draft.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


async def open_writer(
    path: Path, *, busy_timeout: float, synchronous: str = "FULL", check_schema: bool = True
) -> aiosqlite.Connection:
    """A connection that appends: WAL, schema up to date and, with `check_schema`, exactly as Tracker makes it.

    Raises `LogMissing`, `LogCorrupt` when the file is not a log of Tracker, `LogUnavailable` when it cannot be used now.
    """
    if not path.exists():
        raise _missing(path)
    connection = await _connect(path, "rw", busy_timeout)
    try:
        await recognise(connection, path)
        if not _is_immutable(path):
            restrict_database(path)
            await connection.execute("PRAGMA journal_mode = WAL")
        await connection.execute(f"PRAGMA synchronous = {synchronous}")
        # Dedupe keys go to random places of their index: SQLite's default of 2 MiB costs a fifth more CPU at 100,000 records.
        await connection.execute("PRAGMA cache_size = -32768")
        await connection.execute("PRAGMA recursive_triggers = ON")
        await migrate(connection)
        if check_schema:
            await run_in_thread(connection, schema_guard(path).check)
        # Statement journals in memory: by default a file is created and removed for every commit. After the migrations,
        # which may sort more than fits into memory.
        await connection.execute("PRAGMA temp_store = MEMORY")
    except sqlite3.Error as error:
        await connection.close()
        raise LogUnavailable(f"{path}: {error}") from error
    except BaseException:
        await connection.close()
        raise
    return connection


async def open_reader(path: Path, *, busy_timeout: float) -> aiosqlite.Connection:
    """A connection that can only read. Raises `LogMissing`, `LogCorrupt`, `LogUnavailable` as `open_writer` does."""
    if not path.exists():
        raise _missing(path)
    connection = await _connect(path, "ro", busy_timeout)
    try:
        await recognise(connection, path)
        await connection.execute("PRAGMA query_only = ON")
        # The first read opens the WAL: from here on its file exists and can be watched.
        await connection.execute_fetchall("SELECT count(*) FROM sqlite_schema")
    except sqlite3.Error as error:
        await connection.close()
        raise LogUnavailable(f"{path}: {error}") from error
    except BaseException:
        await connection.close()
        raise
    return connection


def _missing(path: Path) -> LogMissing:
    return LogMissing(f"there is no log at {path}: check log.path, or create one with `tracker init`")


def unwritten_uri(path: Path) -> str:
    """The address of a file of SQLite to look into while nothing at all is written: no lock, no WAL, no index of a WAL.

    Without a WAL nobody has the file open for writing, and SQLite would create one even to read.
    """
    wal, index = (path.with_name(path.name + end) for end in ("-wal", "-shm"))
    is_alone = not wal.exists() or (wal.stat().st_size == 0 and not index.exists())
    return f"{path.absolute().as_uri()}?mode=ro" + ("&immutable=1" if is_alone else "")


async def _connect(path: Path, mode: str, busy_timeout: float) -> aiosqlite.Connection:
    how = "mode=ro&immutable=1" if _is_immutable(path) else f"mode={mode}"
    uri = f"{path.absolute().as_uri()}?{how}"
    try:
        return await aiosqlite.connect(uri, uri=True, isolation_level=None, timeout=busy_timeout)
    except sqlite3.Error as error:
        raise LogUnavailable(
            f"{path} cannot be opened ({error}): check that the file and its directory are writable"
        ) from error


def _is_immutable(path: Path) -> bool:
    """Whether nobody can change the file: it has no WAL, and is on a read-only file system, where SQLite can create none."""
    try:
        wal = _identity(path.with_name(path.name + "-wal"))
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY) and wal is None
    except OSError:
        return False


async def recognise(connection: aiosqlite.Connection, path: Path) -> None:
    """Raise `LogCorrupt` where the opened file is no log of Tracker, `LogUnavailable` where it cannot be read now."""
    try:
        ((found,),) = await connection.execute_fetchall("PRAGMA application_id")
        ((version,),) = await connection.execute_fetchall("PRAGMA user_version")
        ((tables,),) = await connection.execute_fetchall("SELECT count(*) FROM sqlite_schema WHERE name = 'records'")
    except sqlite3.OperationalError as error:  # locked, or unreadable now: that does not tell what it is
        raise LogUnavailable(f"{path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise LogCorrupt(f"{path} is not a SQLite database ({error}): check log.path") from error
    if found != APPLICATION_ID or not tables:
        raise LogCorrupt(f"{path} is not a log of Tracker: check log.path; it was not changed")
    if version <= 0:
        raise LogCorrupt(
            f"{path}: the version of its schema (user_version) was reset: find out who changed the file, and restore it from a copy"
        )


class FileIdentity:
    """Notices when the opened files are no longer the ones under their names.

    SQLite keeps writing into a file that was deleted or moved, and what is acknowledged then is lost.
    """

    def __init__(self, path: Path) -> None:
        self._files = [path, path.with_name(path.name + "-wal")]
        self._path = path
        self._seen = [_identity(file) for file in self._files]

    def check(self) -> None:
        """Raises `LogUnavailable` when the log or its WAL was deleted, moved or replaced since they were opened."""
        if [_identity(file) for file in self._files] != self._seen:
            message = (
                f"{self._path} or its -wal file was deleted, moved or replaced: put it back, or stop and start again"
            )
            raise LogUnavailable(message)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino)

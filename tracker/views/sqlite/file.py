"""Opens a views file, and swaps another file in under the same name while it is open.

The danger: a WAL belongs to a *name*. SQLite applies any `views.db-wal` it finds to `views.db`, so a new file under the old
name must never meet the old file's WAL. Therefore:

  1. The new file is closed first, in journal mode DELETE: it is complete by itself, with no -wal and no -shm.
  2. Under an exclusive flock on `views.db-lock` the old -wal and -shm are unlinked, then the new file is renamed over
     the old one. Tracker always opens the file under a shared lock, so nobody opens the old file between the two steps
     (and creates a WAL that the new file would then meet).
  3. Processes that have the old file open keep its inode, its WAL and its shared memory by descriptor. They continue to
     read and write files without a name. On closing, SQLite sees that its file was moved and deletes nothing by name.

A damaged file is moved aside with its -wal and -shm under the same lock, as `views.db.damaged-<time>`; so is a file that is no
views file, when a server or a rebuild needs the name. The log and the key store are never moved.

LIMIT: tools that ignore the lock (the sqlite3 shell) must not open the file in the instant of a swap.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import functools
import os
import re
import sqlite3
import stat
import uuid
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path

import aiosqlite

from tracker.domain.schema_comparison import SELECT_SCHEMA, Schema, find_problems, read_schema
from tracker.errors import ViewsDamaged, ViewsError, ViewsMissing, ViewsOutdated, ViewsPathWrong, ViewsUnavailable
from tracker.views.sqlite.schema import APPLICATION_ID, FILL_COUNTS, FILL_TEXTS, INSERT_META, READER_INDICES, SAVE_STAMP, SCHEMA, SELECT_STAMP, SET_APPLICATION_ID, STAMP, UNFINISHED, full_stamp  # fmt: skip

BUSY_SECONDS = 5.0
BUILDING_CACHE_KIB = 16 * 1024
WRITING_CACHE_KIB = 32 * 1024
WAL_PAGES = 8_000
"""A save changes pages all over a large file, and soon changes many of them again. Space for them (32 MB in memory, 32 MB in the
WAL) cut the CPU time of an event by a fifth (views of 700 MB)."""

CHUNK = 500
"""Rows that a dump fetches at once."""

DAMAGED = ".damaged-"
MAX_DAMAGED = 3
"""How many damaged views files are kept aside; then the oldest is deleted. Files that never were views are not deleted."""
DAMAGE_CODES = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
NEVER_MOVED = {0x54524B52: "log", 0x54524B4B: "key store"}
"""`application_id` of Tracker's other files, whose names `views.path` may hold by mistake."""
MAIN_SUFFIXES = ("", "-wal", "-shm")

Inode = tuple[int, int]
"""(st_dev, st_ino): identifies a file independent of its name."""


@contextmanager
def named_errors(path: Path) -> Generator[None]:
    """Turn sqlite3 and OS exceptions into `ViewsUnavailable`, or `ViewsDamaged`."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if _is_damage(error):
            raise damaged(path, str(error)) from error
        raise _unavailable(path, error) from error
    except (sqlite3.Error, OSError) as error:
        raise _unavailable(path, error) from error


def _unavailable(path: Path, error: Exception) -> ViewsUnavailable:
    return ViewsUnavailable(
        f"the views at {path} cannot be used: {error}. Check views.path, the disk and the permissions"
    )


def _is_damage(error: sqlite3.Error) -> bool:
    """Whether SQLite found the file itself to be wrong; a full disk, a lock or missing rights are no damage."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGE_CODES


def find_inode(path: Path) -> Inode | None:
    """The file that has this name now; None if there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def _locked(path: Path, operation: int) -> Generator[None]:
    """Hold the swap lock of `path` (`fcntl.LOCK_SH` or `LOCK_EX`). A read-only directory is opened without it."""
    try:
        descriptor = os.open(_sibling(path, "-lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
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


def connect(
    path: Path, *, writable: bool, building: bool = False, any_declarations: bool = False
) -> tuple[sqlite3.Connection, Inode]:
    """A connection to a file of this version, and which file it is. Blocks: call it in the connection's own thread.

    `building`: the file was made by `start_building` and is not finished. `any_declarations`: a writable one only reads rows.
    Raises `ViewsMissing`, `ViewsOutdated`, `ViewsUnavailable`; then nothing stays open.
    """
    with named_errors(path), _locked(path, fcntl.LOCK_SH):
        inode = find_inode(path)
        if inode is None:
            raise ViewsMissing(f"there are no views at {path}: run `tracker rebuild`")
        _expect_regular_file(path)
        # A URI with mode=rw: a plain path would create an empty file.
        # A closed file on a read-only file system cannot change, and SQLite cannot create the WAL it needs for reading.
        immutable = bool(os.statvfs(path).f_flag & os.ST_RDONLY) and not _sibling(path, "-wal").exists()
        mode = "mode=ro&immutable=1" if immutable else "mode=rw"
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=BUSY_SECONDS, isolation_level=None
        )
        try:
            _expect_stamp(connection, path, UNFINISHED if building else None, exactly=writable and not any_declarations)
            if building:
                _disable_durability(connection)
            elif writable:
                _restrict_open(path)
                connection.execute("PRAGMA journal_mode = WAL").fetchone()
                # If the last saves are lost, the projected position is lost with them, and they are projected again: NORMAL is enough.
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute(f"PRAGMA cache_size = -{WRITING_CACHE_KIB}")
                connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}").fetchone()
            else:
                connection.execute("PRAGMA query_only = ON")
            if not building:
                SchemaGuard(path).check(connection)
            # Read once under the lock: SQLite opens the WAL at the first read, which must not happen after a swap.
            connection.execute(SELECT_STAMP).fetchone()
        except BaseException:
            connection.close()
            raise
        return connection, inode


async def open_connection(opened: Callable[[], tuple[sqlite3.Connection, Inode]]) -> tuple[aiosqlite.Connection, Inode]:
    """The connection that `opened` makes in its own thread, and its file. Raises what `opened` raises."""
    found: list[Inode | Exception] = []

    def connector() -> sqlite3.Connection:
        # If a connector raises, aiosqlite's thread ends by itself, perhaps after the event loop.
        try:
            connection, inode = opened()
        except Exception as error:
            found.append(error)
            return sqlite3.connect(":memory:")
        found.append(inode)
        return connection

    connection = await aiosqlite.Connection(connector, CHUNK)
    if isinstance(found[0], Exception):
        await connection.close()
        raise found[0]
    return connection, found[0]


def create_file(path: Path) -> None:
    """Create an empty views file at `path`, with its parent directories. It replaces views that are already there."""
    with named_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = _sibling(path, f"-{uuid.uuid4().hex[:12]}")
        try:
            start_building(fresh)
            finish_building(fresh)
            swap_in(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)


def is_views_file(path: Path) -> bool:
    """Whether the file begins as a views file of any version. Raises `ViewsUnavailable` when it cannot be read now."""
    with named_errors(path):
        _expect_regular_file(path)
        return _application_id(path) == APPLICATION_ID


def move_aside(path: Path, inode: Inode | None = None) -> Path | None:
    """Rename a damaged file, or one that is no views file, with its WAL; returns its new name.

    `inode`: the damaged file; another one under its name stays, and None is returned. Raises `ViewsUnavailable` for what is
    no file, and `ViewsPathWrong` for a log or a key store of Tracker; then nothing was moved.
    """
    with named_errors(path), _locked(path, fcntl.LOCK_EX):
        found = find_inode(path)
        if found is None or inode not in {None, found}:
            return None
        _expect_regular_file(path)
        other = NEVER_MOVED.get(_application_id(path) or 0)
        if other is not None:
            raise ViewsPathWrong(f"views.path names a {other}: {path}. It was not touched: correct views.path")
        aside = _free_name(path)
        # The WAL first: if we die between, the damaged file is found again, and its WAL never meets another file.
        for suffix in reversed(MAIN_SUFFIXES):
            if _sibling(path, suffix).exists():
                os.replace(_sibling(path, suffix), _sibling(aside, suffix))
                os.chmod(_sibling(aside, suffix), 0o600)
        _sync(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        _delete_damaged(path, keep=MAX_DAMAGED)
    return aside


def remove_damaged(path: Path) -> None:
    """Delete the damaged views beside `path`: they may show what was erased."""
    with named_errors(path):
        _delete_damaged(path, keep=0)


def _free_name(path: Path) -> Path:
    now = dt.datetime.now(dt.UTC)
    while True:
        aside = _sibling(path, f"{DAMAGED}{now:%Y%m%dT%H%M%S.%fZ}")
        if not aside.exists():
            return aside
        now += dt.timedelta(microseconds=1)


def _delete_damaged(path: Path, *, keep: int) -> None:
    pattern = re.compile(re.escape(path.name + DAMAGED) + r"\d{8}T\d{6}\.\d{6}Z")
    aside = sorted(each for each in path.parent.iterdir() if pattern.fullmatch(each.name) and _began_as_views(each))
    for each in aside[: max(0, len(aside) - keep)]:
        for suffix in MAIN_SUFFIXES:
            _sibling(each, suffix).unlink(missing_ok=True)


def _began_as_views(path: Path) -> bool:
    """Whether the header of a file that nobody has open names it views: its other pages may be damaged."""
    with path.open("rb") as file:
        header = file.read(72)
    return header[68:72] == APPLICATION_ID.to_bytes(4, "big")


def _application_id(path: Path) -> int | None:
    """None where the file is no SQLite database, or too damaged to tell."""
    uri = f"{path.absolute().as_uri()}?mode=rw"
    with closing(sqlite3.connect(uri, uri=True, timeout=0.2, isolation_level=None)) as connection:
        try:
            found: int = connection.execute("PRAGMA application_id").fetchone()[0]
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.DatabaseError as error:
            if _is_damage(error):
                return None
            raise
        return found


def start_building(path: Path, after: int = 0) -> None:
    """Create an empty, unfinished views file at a new `path`. Nobody else opens it before `finish_building`.

    `after`: the position before its first record.
    """
    with named_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _restrict(path, os.O_CREAT)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            # Nothing is lost if we die here: the file gets its name in the swap, which makes it durable.
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("BEGIN")
            connection.execute(SET_APPLICATION_ID)
            for statement in SCHEMA:
                connection.execute(statement)
            connection.executemany(INSERT_META, [("stamp", UNFINISHED), ("position", after)])
            connection.execute("COMMIT")


def finish_building(path: Path) -> None:
    """Complete an unfinished views file that nobody has open: readers' indices, the search index, statistics, then the stamp."""
    with named_errors(path), closing(sqlite3.connect(path, isolation_level=None)) as connection:
        _disable_durability(connection)
        for statement in (*READER_INDICES, *FILL_TEXTS, *FILL_COUNTS):
            connection.execute(statement)
        connection.execute(SAVE_STAMP, [full_stamp()])


def _disable_durability(connection: sqlite3.Connection) -> None:
    """Turn off the rollback journal and syncs: after a failure an unfinished file is deleted anyway.

    A journal in memory took hundreds of MB at ten million events, most of it for the trigram index, which is written twice.
    """
    connection.execute("PRAGMA journal_mode = OFF").fetchone()
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute(f"PRAGMA cache_size = -{BUILDING_CACHE_KIB}")


def swap_in(new_path: Path, path: Path) -> None:
    """Rename the closed views file `new_path` to `path`, atomically. A running server continues and may `refresh`.

    Both paths must be in one file system. On return the new file is durable under its name and `new_path` is gone.
    Raises `ViewsMissing` or `ViewsOutdated` for a new file that is not a views file of this version, and
    `ViewsUnavailable` if it is still open or if the file at `path` is not a views file; then `path` is unchanged.
    """
    with named_errors(path):
        _finish(new_path)
        with _locked(path, fcntl.LOCK_EX):
            if path.exists():
                _expect_regular_file(path)
                _expect_views_file(path)
            # If we die between these, the old views are still there, complete: their WAL was just folded into the file.
            _sibling(path, "-wal").unlink(missing_ok=True)
            _sibling(path, "-shm").unlink(missing_ok=True)
            os.replace(new_path, path)
            _sync(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        _sibling(new_path, "-lock").unlink(missing_ok=True)


def copy_file(path: Path, to: Path) -> None:
    """Copy the views of one moment to a new file `to`. A running server may continue.

    Raises `ViewsMissing`, `ViewsOutdated`, `ViewsUnavailable`.
    """
    with named_errors(path):
        _restrict(to, os.O_CREAT)
        held, _ = connect(path, writable=False)
        with closing(held), closing(sqlite3.connect(to, isolation_level=None)) as fresh:
            # All pages in one step: with several steps, a writer in another process would make it start over for ever.
            held.backup(fresh)


def _finish(new_path: Path) -> None:
    """Fold the new file's WAL into it and leave WAL mode. SQLite refuses that while the file is open elsewhere."""
    if not new_path.exists():
        raise ViewsMissing(f"there is no views file at {new_path} to swap in: run `tracker rebuild`")
    with closing(sqlite3.connect(new_path, timeout=0.2, isolation_level=None)) as connection:
        _expect_stamp(connection, new_path)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        mode = connection.execute("PRAGMA journal_mode = DELETE").fetchone()[0]
    if mode != "delete" or _sibling(new_path, "-wal").exists():
        raise ViewsUnavailable(f"{new_path} is still open: close it before it is swapped in")
    _sync(new_path, os.O_RDONLY)


def _expect_regular_file(path: Path) -> None:
    """Raise `ViewsUnavailable` for a directory, a pipe, a device: SQLite may wait for ever to open it."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kind = "directory" if stat.S_ISDIR(mode) else "pipe, socket or device"
        raise ViewsUnavailable(
            f"views.path names a {kind}: {path}. It was not touched: move it away, or correct views.path and start again"
        )


def _expect_views_file(path: Path) -> None:
    """Raise `ViewsUnavailable` unless the file is a views file (a mistyped path may be the log), and fold its WAL into it."""
    with closing(sqlite3.connect(path, timeout=0.2, isolation_level=None)) as connection:
        try:
            is_views_file = connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
        except sqlite3.DatabaseError:
            is_views_file = False
        if not is_views_file:
            raise ViewsUnavailable(
                f"{path} is not a views file and was not replaced: correct `views.path`, or move the file away"
            )
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


def _expect_stamp(
    connection: sqlite3.Connection, path: Path, stamp: str | None = None, *, exactly: bool = True
) -> None:
    """Raise `ViewsOutdated` unless this version of Tracker wrote the file and finished it.

    `exactly`: by the declarations of this process, too. Readers show views of other declarations until they are replaced.
    """
    try:
        found = connection.execute(SELECT_STAMP).fetchone()
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError) and "no such table" not in str(error):
            raise
        found = None
    seen = "" if found is None else str(found[0])
    expected = stamp or (full_stamp() if exactly else STAMP)
    if (seen if exactly else seen.partition("+")[0]) != expected:
        raise ViewsOutdated(f"the views at {path} were not written by this version of Tracker: run `tracker rebuild`")


class SchemaGuard:
    """Checks that the tables, indexes and triggers of a views file are those that Tracker makes, again after each change.

    Queries name columns and indexes, and would fail for ever; a trigger can swallow rows. Call it in the connection's thread.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._checked: tuple[sqlite3.Connection, int, int] | None = None

    def check(self, connection: sqlite3.Connection) -> None:
        """Raise `ViewsDamaged` where the schema is another. Within a transaction it cannot change afterwards."""
        ((version,),) = connection.execute("PRAGMA schema_version")
        ((writes,),) = connection.execute("PRAGMA data_version")
        if self._checked is not None and self._checked[0] is connection and self._checked[1:] == (version, writes):
            return
        self._checked = None
        problems = find_problems(_read_schema(connection), _made_schema())
        if problems:
            raise damaged(self._path, problems[0])
        self._checked = connection, version, writes


def damaged(path: Path, reason: str) -> ViewsDamaged:
    """The error that says why views are damaged."""
    return ViewsDamaged(f"the views at {path} are damaged ({reason}): run `tracker rebuild`")


def schema_problem(path: Path) -> ViewsDamaged | None:
    """The error if the schema of the file is not the one that Tracker makes, or None: then it has another reason."""
    try:
        connection, _ = connect(path, writable=False)
    except ViewsDamaged as error:
        return error
    except ViewsError:
        return None
    connection.close()
    return None


def _read_schema(connection: sqlite3.Connection) -> Schema:
    found = read_schema(connection.execute(SELECT_SCHEMA))
    # Only SQLite's own module makes these tables, each version as it likes.
    hidden = {key: ("", "") for key in found.objects if key[1].startswith("session_pieces_")}
    # A rebuild makes indexes in a file with free pages: they may have any order.
    return found._replace(objects={**found.objects, **hidden}, orders=frozenset())


@functools.cache
def _made_schema() -> Schema:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        for statement in (*SCHEMA, *READER_INDICES, *FILL_TEXTS):
            connection.execute(statement)
        return _read_schema(connection)


def _sibling(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _restrict(path: Path, flags: int) -> None:
    """Create a file that only its owner may read, whatever the umask, or make it one. Nobody may have it open."""
    descriptor = os.open(path, flags | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def _restrict_open(path: Path) -> None:
    """Take the rights of others away from views that an earlier version created. SQLite gives a new -wal the same mode."""
    for suffix in MAIN_SUFFIXES:
        with contextlib.suppress(OSError):
            mode = stat.S_IMODE(os.stat(_sibling(path, suffix)).st_mode)
            if mode & 0o077:
                os.chmod(_sibling(path, suffix), mode & 0o700)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""What SQLite refuses to store: finds the sessions and entries of a save that it refuses, and puts others in their place.

Rows are encoded while SQLite asks for them, so a refusal shows only in the middle of a save, and views that are being built
have no journal to undo it. No undoing is needed: the save is executed again as a whole, and it deletes the rows of each of
its sessions first. Which session is refused is found out in a scratch database in memory, one session at a time.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing

import msgspec

from tracker.domain.rows import SessionRows
from tracker.domain.set_aside import describe_error, refused_rows, stand_in_entry
from tracker.views.contract import Changes, SavedEntry
from tracker.views.sqlite.schema import INSERT_META, SCHEMA
from tracker.views.sqlite.writer import begin_save, collect_names, execute_save

OF_THE_ROWS = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, sqlite3.InterfaceError)
"""The errors of SQLite that the rows cause. The others are about the file, the disk or another process."""


def is_refusal(error: Exception) -> bool:
    """Whether the rows caused the error, not the file."""
    return isinstance(error, OF_THE_ROWS) or not isinstance(error, (sqlite3.Error, OSError, MemoryError))


def replace_refused(changes: Changes, error: Exception) -> Changes:
    """The changes that can be saved. Raises the error of the save if nothing in them is refused."""
    if not is_refusal(error):
        raise error
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as scratch:
        for statement in SCHEMA:
            scratch.execute(statement)
        scratch.execute(INSERT_META, ("position", 0))
        lost = {name for name in changes.removed if not _is_storable(name)}
        sessions: list[SessionRows] = []
        for rows in changes.sessions:
            kept = _try_session(scratch, rows)
            if kept is None:
                lost.add(rows.session.id)
            else:
                sessions.append(kept)
        entries = [_try_entry(scratch, saved, lost) for saved in changes.entries]
    is_same = all(a is b for a, b in zip((*sessions, *entries), (*changes.sessions, *changes.entries), strict=False))
    if not lost and is_same:
        raise error
    removed = [name for name in changes.removed if name not in lost]
    return msgspec.structs.replace(changes, sessions=sessions, entries=entries, removed=removed)


def _try_session(scratch: sqlite3.Connection, rows: SessionRows) -> SessionRows | None:
    """The rows, or what stands for them; None if not even their id can be stored."""
    why = _refusal(scratch, Changes(position=0, sessions=[rows]))
    if why is None:
        return rows
    found = refused_rows(rows, f"the views cannot store its rows ({why})")
    return found if _refusal(scratch, Changes(position=0, sessions=[found])) is None else None


def _try_entry(scratch: sqlite3.Connection, saved: SavedEntry, lost: set[str]) -> SavedEntry:
    """The entry, or what stands for it."""
    row = saved.row
    why = "the id of its session" if row.session_id in lost else _refusal(scratch, Changes(position=0, entries=[saved]))
    if why is None:
        return saved
    found = stand_in_entry(
        row.position, row.n, None if row.session_id in lost else row.session_id, at=row.at,
        received_at=row.received_at, source=row.source, clock=row.clock, key=row.dedupe_key,
        reason=f"the views cannot store this event ({why})",
    )  # fmt: skip
    same_place = msgspec.structs.replace(saved, row=found)
    is_storable = _refusal(scratch, Changes(position=0, entries=[same_place])) is None
    return same_place if is_storable else SavedEntry(found, None, row.at)


def _refusal(scratch: sqlite3.Connection, changes: Changes) -> str | None:
    """Why these changes cannot be saved; None if they can."""
    try:
        numbers, fresh = begin_save(scratch, collect_names(changes))
        execute_save(scratch, changes, numbers, fresh)
    except Exception as error:
        if not is_refusal(error):
            raise
        return str(error) if isinstance(error, sqlite3.Error) else describe_error(error)
    finally:
        scratch.rollback()
    return None


def _is_storable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True

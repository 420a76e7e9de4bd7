"""Keeping the tables of `sqlite_counts` true with every save.

A save asks what the sessions it touches counted for before, and afterwards corrects the sums of those days and works
out again the ten seconds in which one of them began or ended. A session that goes on costs next to nothing here.
Everything runs in the connection's own thread.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from tracker.domain.facts import Micros
from tracker.domain.rows import SessionRow
from tracker.views.sqlite import counts as sql
from tracker.views.contract import Changes, SessionRows
from tracker.views.sqlite.row_diff import over_at_of
from tracker.views.sqlite.writer import Numbers, as_list


class Counted(NamedTuple):
    """What one session counts for."""

    source: str
    begins_at: Micros
    over_at: Micros | None
    participants: int
    participant_ms: int
    recordings: int


Key = tuple[int, Micros, str]


def counted(
    connection: sqlite3.Connection, changes: Changes, numbers: Numbers, kept: Mapping[str, SessionRows]
) -> list[Counted]:
    """What the sessions that are saved, or go, count for now. In the transaction of the save, before anything else.

    `kept`: what the file is known to hold of them; the others are asked for.
    """
    names = (*changes.gone, *(rows.session.id for rows in changes.sessions))
    touched = [numbers[name] for name in names if name not in kept]
    found = [_counted(kept[name].session) for name in names if name in kept]
    if touched:
        found += [Counted(*row) for row in connection.execute(sql.SELECT_COUNTED, [as_list(touched)])]
    return found


def save_counts(connection: sqlite3.Connection, before: Sequence[Counted], changes: Changes) -> None:
    """Bring the tables up to date. In the transaction of the save, when the sessions are written."""
    after = [_counted(rows.session) for rows in changes.sessions]
    _save_sums(connection, before, after)
    leaves = _touched(before, after)
    if leaves:
        _save_levels(connection, leaves)


def _counted(row: SessionRow) -> Counted:
    return Counted(row.source, row.begins_at, over_at_of(row), row.participants, row.participant_ms, row.recordings)


def _save_sums(connection: sqlite3.Connection, before: Sequence[Counted], after: Sequence[Counted]) -> None:
    sums: dict[Key, list[int]] = {}
    for sign, sessions in ((-1, before), (1, after)):
        for each in sessions:
            for span in (sql.BRANCH, sql.DAY):
                total = sums.setdefault((span, each.begins_at // span * span, each.source), [0, 0, 0, 0])
                counts = (1, each.participants, each.participant_ms, each.recordings)
                total[:] = [was + sign * count for was, count in zip(total, counts, strict=True)]
    changed = {key: total for key, total in sums.items() if any(total)}
    if changed:
        connection.executemany(sql.ADD_COUNTS, [(*key, *total) for key, total in changed.items()])
    fewer = [key for key, total in changed.items() if total[0] < 0]
    if fewer:
        connection.executemany(sql.DELETE_EMPTY_COUNTS, fewer)


def _touched(before: Iterable[Counted], after: Iterable[Counted]) -> set[tuple[str, Micros]]:
    """(source, leaf) wherever another number of sessions begins or ends than before."""
    edges = Counter(edge for each in after for edge in _edges(each))
    edges.subtract(edge for each in before for edge in _edges(each))
    touched = {(source, at // sql.LEAF * sql.LEAF) for (source, at, _), change in edges.items() if change}
    return touched | {("", leaf) for _, leaf in touched}


def _edges(each: Counted) -> Iterator[tuple[str, Micros, int]]:
    if each.over_at is None or each.over_at > each.begins_at:
        yield each.source, each.begins_at, 1
        if each.over_at is not None:
            yield each.source, each.over_at, -1


def _save_levels(connection: sqlite3.Connection, leaves: set[tuple[str, Micros]]) -> None:
    """Work out again these leaves, then what is above them."""
    for span, statement in ((sql.LEAF, sql.SAVE_LEAVES), (sql.BRANCH, sql.SAVE_BRANCHES), (sql.DAY, sql.SAVE_DAYS)):
        asked = sorted({(source, leaf // span * span) for source, leaf in leaves})
        connection.executemany(sql.DELETE_LEVELS, [(source, span, at) for source, at in asked])
        connection.execute(statement, [as_list(asked)])

"""The search index of `q`: texts with the words that find a session, and how saves update them.

The key of a text is its `place`: the source (13 bits), the minute in which the session began (26), and a counter (24). So the
trigram index (FTS5) returns the newest first, and a source or a window of time is a range of keys.
If a session gains words, a text with only the new words is added. If it loses words, or begins in another minute, its texts are
rewritten. A rebuild writes all texts at its end. LIMIT: deleted words stay in the index until SQLite merges it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet

from tracker.domain.rows import SessionRows
from tracker.domain.facts import Micros
from tracker.views.contract import Changes
from tracker.views.sqlite.row_diff import has_same_words
from tracker.views.sqlite.schema import MINUTE, PLACE_BITS, SEPARATOR
from tracker.views.sqlite.writer import Numbers, json_list

LAST_MINUTE = 2**26 - 1
MAX_SOURCES = 2**13
"""Further sources share keys; their hits are still filtered by source."""

SELECT_TEXTS = """
SELECT session, place, text FROM json_each(?) AS asked CROSS JOIN session_texts ON session = asked.value"""
SELECT_SOURCE_NUMBERS = "SELECT source, number FROM text_sources"
SAVE_SOURCE_NUMBERS = "INSERT OR IGNORE INTO text_sources (source) SELECT value FROM json_each(?)"
SELECT_LAST_PLACE = "SELECT max(place) FROM session_texts WHERE place BETWEEN ? AND ?"
DELETE_PIECES = "INSERT INTO session_pieces (session_pieces, rowid, text) VALUES ('delete', ?, ?)"
DELETE_TEXTS = "DELETE FROM session_texts WHERE place = ?"
SAVE_TEXTS = "INSERT INTO session_texts (place, session, text) VALUES (?, ?, ?)"
SAVE_PIECES = "INSERT INTO session_pieces (rowid, text) VALUES (?, ?)"

Text = tuple[int, str]
"""A place and its text."""


def minute_of(at: Micros) -> int:
    """The minute of a time, as places count it. Times out of range are in the first or the last minute."""
    return min(max(at // MINUTE, 0), LAST_MINUTE)


def update_texts(
    connection: sqlite3.Connection,
    changes: Changes,
    numbers: Numbers,
    fresh: AbstractSet[str],
    known: Mapping[str, SessionRows],
) -> None:
    """Update the texts of all saved and removed sessions, in the transaction of the save and the connection's thread.

    `fresh`: names that are new in the file. `known`: rows that the file is known to hold; a session whose words did not
    change is skipped.
    """
    reworded = [
        rows
        for rows in changes.sessions
        if (before := known.get(rows.session.id)) is None or not has_same_words(before, rows)
    ]
    existing = [
        numbers[name] for name in (*changes.removed, *(rows.session.id for rows in reworded)) if name not in fresh
    ]
    held: dict[int, list[Text]] = {}
    if existing:
        for session, place, text in connection.execute(SELECT_TEXTS, [json_list(existing)]):
            held.setdefault(session, []).append((place, text))
    stale = [text for name in changes.removed if name not in fresh for text in held.pop(numbers[name], ())]
    sources = _source_numbers(connection, {rows.session.source for rows in reworded}) if reworded else {}
    added: list[tuple[int, int, str]] = []
    for rows in reworded:
        number = numbers[rows.session.id]
        group = (sources[rows.session.source] % MAX_SOURCES << 26) + minute_of(rows.session.begins_at)
        dropped, words = _difference(rows, group, held.get(number, ()))
        stale += dropped
        if words:
            added.append((group, number, _text(words)))
    if stale:
        connection.executemany(DELETE_PIECES, stale)
        connection.executemany(DELETE_TEXTS, [(place,) for place, _ in stale])
    if added:
        placed = list(_assign_places(connection, added))
        connection.executemany(SAVE_TEXTS, placed)
        connection.executemany(SAVE_PIECES, ((place, text) for place, _, text in placed))


def _difference(rows: SessionRows, group: int, held: Sequence[Text]) -> tuple[Sequence[Text], list[str]]:
    """The texts to delete, and the words to add."""
    words = dict.fromkeys(_words(rows))
    present = {word for _, text in held for word in text.split(SEPARATOR) if word}
    if not present <= words.keys() or any(place >> PLACE_BITS != group for place, _ in held):
        return held, _missing_words(rows, words, set())
    return (), _missing_words(rows, words, present)


def _words(rows: SessionRows) -> Iterator[str]:
    """The words that find a session, its id first."""
    session = rows.session
    yield session.id
    found = [session.room_id, session.room_name, *rows.lookups]
    for person in rows.participants:
        found += (person.identity, person.name)
    for word in found:
        if word:
            # A separator inside a name splits it: nobody searches for one.
            yield from (part for part in word.split(SEPARATOR) if part)


def _missing_words(rows: SessionRows, words: dict[str, None], present: set[str]) -> list[str]:
    """The words that are not present yet, except those that are part of the id."""
    own = rows.session.id
    return [word for word in words if word not in present and (word == own or word not in own)]


def _text(words: Sequence[str]) -> str:
    # Two separators at the end, so that every letter begins a trigram.
    return SEPARATOR.join(words) + SEPARATOR * 2


def _source_numbers(connection: sqlite3.Connection, sources: set[str]) -> dict[str, int]:
    connection.execute(SAVE_SOURCE_NUMBERS, [json_list(sorted(sources))])
    return dict(connection.execute(SELECT_SOURCE_NUMBERS))


def _assign_places(
    connection: sqlite3.Connection, added: Sequence[tuple[int, int, str]]
) -> Iterator[tuple[int, int, str]]:
    """The texts with the next free place of their group."""
    last: dict[int, int] = {}
    for group, number, text in added:
        if group not in last:
            first = group << PLACE_BITS
            bounds = [first, first + (1 << PLACE_BITS) - 1]
            (found,) = connection.execute(SELECT_LAST_PLACE, bounds).fetchone()
            last[group] = first - 1 if found is None else found
        last[group] += 1
        yield last[group], number, text

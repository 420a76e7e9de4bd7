"""What `q` searches: one text a session with every word that finds it, and which saves change it.

A text is put under a `place`: its source (13 bits), the minute the session began (26), and a count (24). So the index of
three-letter pieces (FTS5's trigram) gives the newest first by itself, and a source or a window of time is a range.
A session that gains words gains a text more with only those; one that loses any, or begins at another minute, is
written anew. A rebuild writes all texts at its end. LIMIT: what was deleted stays in the index until SQLite merges it.
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
"""More share places; what they find is still narrowed by source."""

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
"""A place and the text there."""


def minute_of(at: Micros) -> int:
    """The minute a time lies in, as places count it; what is beyond them is in the first or the last."""
    return min(max(at // MINUTE, 0), LAST_MINUTE)


def update_texts(
    connection: sqlite3.Connection,
    changes: Changes,
    numbers: Numbers,
    fresh: AbstractSet[str],
    kept: Mapping[str, SessionRows],
) -> None:
    """Bring the texts of every saved or gone session up to date; in the transaction of the save, in the connection's thread.

    `kept`: what the file is known to hold: where the same words find a session as before, its texts are not asked for.
    """
    reworded = [
        rows
        for rows in changes.sessions
        if (before := kept.get(rows.session.id)) is None or not has_same_words(before, rows)
    ]
    known = [numbers[name] for name in (*changes.removed, *(rows.session.id for rows in reworded)) if name not in fresh]
    held: dict[int, list[Text]] = {}
    if known:
        for session, place, text in connection.execute(SELECT_TEXTS, [json_list(known)]):
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
        placed = list(_placed(connection, added))
        connection.executemany(SAVE_TEXTS, placed)
        connection.executemany(SAVE_PIECES, ((place, text) for place, _, text in placed))


def _difference(rows: SessionRows, group: int, held: Sequence[Text]) -> tuple[Sequence[Text], list[str]]:
    """The texts that must go, and the words that must come."""
    words = dict.fromkeys(_words(rows))
    there = {word for _, text in held for word in text.split(SEPARATOR) if word}
    if not there <= words.keys() or any(place >> PLACE_BITS != group for place, _ in held):
        return held, _needed(rows, words, set())
    return (), _needed(rows, words, there)


def _words(rows: SessionRows) -> Iterator[str]:
    """Every word that finds a session, its id first."""
    session = rows.session
    yield session.id
    found = [session.room_id, session.room_name, *rows.lookups]
    for person in rows.participants:
        found += (person.identity, person.name)
    for word in found:
        if word:
            # A separator inside a name parts it: nobody searches for one.
            yield from (part for part in word.split(SEPARATOR) if part)


def _needed(rows: SessionRows, words: dict[str, None], there: set[str]) -> list[str]:
    """The words not there yet; what is part of the id is found by it."""
    own = rows.session.id
    return [word for word in words if word not in there and (word == own or word not in own)]


def _text(words: Sequence[str]) -> str:
    # Two separators at the end: so every letter begins a piece of three.
    return SEPARATOR.join(words) + SEPARATOR * 2


def _source_numbers(connection: sqlite3.Connection, sources: set[str]) -> dict[str, int]:
    connection.execute(SAVE_SOURCE_NUMBERS, [json_list(sorted(sources))])
    return dict(connection.execute(SELECT_SOURCE_NUMBERS))


def _placed(connection: sqlite3.Connection, added: Sequence[tuple[int, int, str]]) -> Iterator[tuple[int, int, str]]:
    """Each text with the next free place of its group."""
    last: dict[int, int] = {}
    for group, number, text in added:
        if group not in last:
            first = group << PLACE_BITS
            bounds = [first, first + (1 << PLACE_BITS) - 1]
            (found,) = connection.execute(SELECT_LAST_PLACE, bounds).fetchone()
            last[group] = first - 1 if found is None else found
        last[group] += 1
        yield last[group], number, text

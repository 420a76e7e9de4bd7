"""Find which deliveries a SQLite log has already, and assign positions to the others, under the write lock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import aiosqlite

from tracker.domain.deliveries import Appended, Verified
from tracker.log.sqlite.bulk import value_chunks

# The first row is the head; each other row is a duplicate. Unused pairs are NULL and match nothing. CROSS JOIN keeps the
# wanted keys on the left: each is one search of the index (with IN (VALUES …) SQLite scans all of it). The index is of
# the ends of keys; without the + SQLite puts the wanted key into substr() too, and does not see that it fits.
SELECT_HEAD_AND_DUPLICATES = """
WITH wanted (source, dedupe_key) AS (VALUES {})
SELECT NULL, NULL, coalesce(max(position), 0) FROM records
UNION ALL
SELECT records.source, records.dedupe_key, records.position
FROM wanted CROSS JOIN records ON substr(records.dedupe_key, -12) = substr(wanted.dedupe_key, -12)
    AND records.source = wanted.source AND +records.dedupe_key = wanted.dedupe_key
"""
"""With `(?, ?)` put in for each key, and a few more."""


async def assign_positions(
    connection: aiosqlite.Connection, batch: Sequence[Verified], keys_of: Callable[[Verified], tuple[str, ...]]
) -> tuple[list[Appended], list[tuple[Any, ...]]]:
    """The answer to each delivery of the batch, and the rows to insert. The write lock must be held."""
    named = [(verified, keys_of(verified)) for verified in batch]
    wanted = [(verified.source, name) for verified, names in named for name in names]
    head, positions = await known_positions(connection, wanted)
    answers: list[Appended] = []
    rows: list[tuple[Any, ...]] = []
    for verified, names in named:
        first = next((positions[verified.source, name] for name in names if (verified.source, name) in positions), None)
        key = (verified.source, names[0])
        if first is None:
            head += 1
            positions[key] = head
            rows.append((
                head, verified.source, verified.vendor, verified.event, names[0],
                verified.received_at, verified.origin, verified.proof, verified.body,
            ))  # fmt: skip
        answers.append(Appended(positions[key] if first is None else first, duplicate=first is not None))
    return answers, rows


async def known_positions(
    connection: aiosqlite.Connection, wanted: Sequence[tuple[str, str]]
) -> tuple[int, dict[tuple[str, str], int]]:
    """The last position (0 where nothing is wanted), and the positions of the wanted (source, dedupe key) that exist."""
    positions: dict[tuple[str, str], int] = {}
    head = 0
    for places, values in value_chunks(wanted):
        rows = await connection.execute_fetchall(SELECT_HEAD_AND_DUPLICATES.format(places), values)
        positions.update({(source, key): position for source, key, position in rows})
        head = positions.pop((None, None))  # pyright: ignore[reportArgumentType] - the first row
    return head, positions


def place_rows(
    head: int, positions: dict[tuple[str, str], int], rows: Sequence[tuple[Any, ...]]
) -> tuple[list[Appended], list[tuple[Any, ...]]]:
    """As `assign_positions`, for the rows of one frame. The caller passes the known positions.

    New rows get the positions after `head`, and are added to `positions`.
    """
    answers: list[Appended] = []
    inserted: list[tuple[Any, ...]] = []
    for row in rows:
        key = (row[0], row[3])
        first = positions.get(key)
        if first is None:
            head += 1
            positions[key] = head
            inserted.append((head, *row[:8]))
        answers.append(Appended(head if first is None else first, duplicate=first is not None))
    return answers, inserted

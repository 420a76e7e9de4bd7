"""`q` finds the same sessions as a scan of all sessions, in views saved live or rebuilt."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.contracts.test_views import T0, session_rows
from tracker.domain.rows import SessionRows
from tracker.errors import ParameterInvalid
from tracker.views.contract import Changes, SessionFilter
from tracker.views.cursors import encode_cursor
from tracker.views.sqlite.views import SqliteViews
from tracker.views.sqlite.schema import HAS_TRIGRAMS
from tracker.views.sqlite.session_search import (
    MAX_TERMS,
    TRIGRAM,
    all_hits_statement,
    count_hits_statement,
    match_phrase,
    newest_hits_statement,
    sessions_statement,
)

pytestmark = pytest.mark.skipif(not HAS_TRIGRAMS, reason="this SQLite has no trigrams")

QUERIES = ("a", "b_", "%", "7", "ov:", "lk", "Ro", "room", "ROOM 1", "ann", "Ann Å", "ng", "m", "x9", "guest-4", "zzz", "王伟", "伟",
         'say "hi"', "hi", '"', "'", "-", "*", "ov:s1", "s12", "room-3 NOT", "(", "\x1f", "OR", "a-name-that-is-long-1", "A-NAME-THAT-IS-LONG-1 and more", "g-1 and MORE \"than",
           "ong-2 and more \"than\" that", "long-1 and more \"than\" that" * 9, "a" * 17, "a" * 1024, "Ann Ångström")  # fmt: skip


def sessions(count: int, chance: random.Random) -> list[SessionRows]:
    """Sessions of two sources. Many begin in the same minute or at the same moment."""
    made: list[SessionRows] = []
    for i in range(count):
        rows = session_rows(
            f"s{i}", source=chance.choice(("ov", "lk")), begins_at=T0 + chance.choice((0, 1, 7, 59, 60, 61, 4_000)) * 1_000_000,
            room_id=f"room-{chance.randrange(9)}", room_name=chance.choice((None, "Room 1", 'say "hi"', "b_%")),
            ended_at=chance.choice((None, T0 + 9_000_000_000)),
        )  # fmt: skip
        people = tuple(
            msgspec.structs.replace(
                rows.participants[0], id=f"p{n}", identity=f"guest-{chance.randrange(50)}", name=chance.choice((None, "王伟", "Ann Ångström"))
            )
            for n in range(chance.randrange(3))
        )  # fmt: skip
        made.append(
            msgspec.structs.replace(
                rows,
                participants=people,
                lookups=(
                    f"s{i}",
                    f"x{i % 20}",
                    f'a-name-that-is-long-{i % 5} and more "than" that',
                    "a" * (i % 40 + 1),
                ),
            )
        )
    return made


async def found(views: SqliteViews, limit: int, **filters: Any) -> list[str]:
    """The ids on all pages."""
    ids: list[str] = []
    cursor = None
    while True:
        rows, cursor = await views.find_sessions(SessionFilter(**filters), limit=limit, cursor=cursor)
        ids += [row.id for row in rows]
        if cursor is None:
            return ids


async def scanned(views: SqliteViews, **filters: Any) -> list[str]:
    """The ids, from a scan of all sessions."""
    rows = await views.rows(*sessions_statement(SessionFilter(**filters), limit=10_000, cursor=None))
    return [row[2] for row in rows]


async def expect_all(views: SqliteViews) -> None:
    for q in QUERIES:
        await expect_newest_hits(views, q)
        for filters in (
            {}, {"source": "ov"}, {"source": "none"}, {"sources": ("lk",)}, {"sources": ()}, {"state": "open"}, {"state": "ended"},
            {"from_at": T0 + 1, "to_at": T0 + 60_000_000}, {"room": "room-1"}, {"has": ("recording",)},
        ):  # fmt: skip
            assert await found(views, 7, q=q, **filters) == await scanned(views, q=q, **filters), (q, filters)


async def expect_newest_hits(views: SqliteViews, q: str) -> None:
    """Hits newest first, source by source and page by page, as if there were many hits."""
    expression = match_phrase(q)
    if len(q) < TRIGRAM or expression is None:
        return
    for source in ("lk", "ov"):
        ids: list[str] = []
        cursor = None
        while True:
            statement = newest_hits_statement(SessionFilter(q=q), expression, source, limit=5, cursor=cursor)
            rows = await views.rows(*statement)
            ids += [row[2] for row in rows[:5]]
            if len(rows) <= 5:
                break
            cursor = encode_cursor("sessions", rows[4][1:3])
        assert ids == await scanned(views, q=q, source=source), q


async def expect_consistent(path: Path) -> list[tuple[int, str]]:
    """The index agrees with the texts. Returns (session, words) of each session."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO session_pieces (session_pieces, rank) VALUES ('integrity-check', 1)")
        texts = connection.execute(
            "SELECT id, group_concat(text, char(31)) FROM session_texts JOIN sessions ON number = session GROUP BY id"
        )
        return sorted((name, " ".join(sorted({word for word in text.split("\x1f") if word}))) for name, text in texts)


async def test_a_search_finds_the_same_as_a_scan(tmp_path: Path) -> None:
    chance = random.Random(5)
    await SqliteViews.create(tmp_path / "live.db")
    live = await SqliteViews.open(tmp_path / "live.db", writable=True)
    made = sessions(120, chance)
    current: dict[str, SessionRows] = {}
    for position in range(1, 9):
        # The same sessions repeatedly: with more people, other people, another start, or removed.
        part = [rows for rows in made if chance.random() < 0.3]
        changed = [msgspec.structs.replace(rows, participants=chance.choice(made).participants) for rows in part]
        moved = [
            msgspec.structs.replace(rows, session=msgspec.structs.replace(rows.session, begins_at=T0 + chance.randrange(200) * 1_000_000))
            for rows in changed
        ]  # fmt: skip
        gone = [name for name in current if chance.random() < 0.05 and name not in {rows.session.id for rows in moved}]
        await live.save(Changes(position=position, sessions=moved, removed=gone))
        current |= {rows.session.id: rows for rows in moved}
        for name in gone:
            del current[name]
    await expect_all(live)
    await live.close()
    rebuilt = await SqliteViews.build(tmp_path / "rebuilt.db")
    await rebuilt.save(Changes(position=8, sessions=list(current.values())))
    await rebuilt.finish()
    rebuilt = await SqliteViews.open(tmp_path / "rebuilt.db", writable=True)
    await expect_all(rebuilt)
    first = await expect_consistent(tmp_path / "rebuilt.db")
    # A rebuild writes the same texts as saves, so this save changes nothing.
    await rebuilt.save(Changes(position=9, sessions=list(current.values())))
    await expect_all(rebuilt)
    await rebuilt.close()
    assert first == await expect_consistent(tmp_path / "live.db") == await expect_consistent(tmp_path / "rebuilt.db")


async def test_no_text_contains_removed_people(tmp_path: Path) -> None:
    path = tmp_path / "views.db"
    await SqliteViews.create(path)
    views = await SqliteViews.open(path, writable=True)
    await views.save(Changes(position=1, sessions=[session_rows("a"), session_rows("b")]))
    assert await found(views, 9, q="ngström") == ["ov:b", "ov:a"]
    nobody = msgspec.structs.replace(session_rows("a"), participants=())
    await views.save(Changes(position=2, sessions=[nobody], removed=["ov:b"]))
    assert await found(views, 9, q="ngström") == await found(views, 9, q="b") == []
    assert await found(views, 9, q="ROOM") == ["ov:a"]
    await views.close()
    assert [name for name, _ in await expect_consistent(path)] == ["ov:a"]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM session_texts WHERE text LIKE '%ann%'").fetchone() == (0,)


async def test_a_search_reads_the_index_in_its_order_and_scans_no_table(tmp_path: Path) -> None:
    await SqliteViews.create(tmp_path / "views.db")
    for wanted in (
        SessionFilter(),
        SessionFilter(state="open"),
        SessionFilter(from_at=1),
        SessionFilter(source="ov", to_at=9),
    ):
        statement, bound = newest_hits_statement(wanted, '"abc"', "ov", limit=5, cursor=None)
        with closing(sqlite3.connect(tmp_path / "views.db")) as connection:
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", bound)]
        assert not [step for step in plan if step.split()[:2] in (["SCAN", "s"], ["SCAN", "t"])], plan
        for narrowed, values in (
            count_hits_statement(wanted, '"abc"', limit=9, cursor=None),
            all_hits_statement(wanted, '"abc"', limit=5, cursor=None),
        ):
            with closing(sqlite3.connect(tmp_path / "views.db")) as connection:
                also = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {narrowed}", values)]
            assert not [step for step in also if step.split()[:2] in (["SCAN", "s"], ["SCAN", "t"])], also
        # Only the sessions of one minute are sorted.
        assert len([step for step in plan if step == "USE TEMP B-TREE FOR ORDER BY"]) == 1, plan


async def test_the_work_of_a_search_is_bounded_by_the_terms_it_searches(tmp_path: Path) -> None:
    """A phrase of n trigrams is compared with each place of each text n times."""
    for q in ("a" * 1024, "ab" * 512, "x" * 500 + "y" * 500, "0123456789" * 102):
        expression = match_phrase(q)
        assert expression is not None
        assert expression.count('"') <= 2 * MAX_TERMS
        assert max(len(term) for term in expression.split(" AND ")) <= TRIGRAM + 2
    with pytest.raises(ParameterInvalid, match="q: has letters beyond ASCII"):
        match_phrase("é" * 33)


async def test_a_scan_finds_what_holds_the_text_and_knows_no_wildcards(tmp_path: Path) -> None:
    await SqliteViews.create(tmp_path / "views.db")
    views = await SqliteViews.open(tmp_path / "views.db", writable=True)
    made = sessions(60, random.Random(7))
    await views.save(Changes(position=1, sessions=made))

    def holds(rows: SessionRows, q: str) -> bool:
        session = rows.session
        people = [word for person in rows.participants for word in (person.identity, person.name)]
        return any(
            q in word.lower()
            for word in (session.id, session.room_id, session.room_name, *rows.lookups, *people)
            if word
        )

    for q in ("%", "_", "\\", "b_%", "%b", "[a-z]", "*", "room 1", "a" * 30, "a" * 1024, "guest-4", 'say "hi"'):
        assert set(await scanned(views, q=q)) == {rows.session.id for rows in made if holds(rows, q)}, q
    await views.close()

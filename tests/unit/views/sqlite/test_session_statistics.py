"""Statistics from prepared sums equal a scan of all sessions, whether rows were saved live in any order or rebuilt."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from tests.contracts.test_views import DAY, SECOND, T0, session_rows
from tracker.domain.rows import SessionRows
from tracker.views.sqlite import queries as sql
from tracker.views.contract import Changes
from tracker.views.sqlite.views import SqliteViews
from tracker.views.sqlite.session_statistics import plan_stats, statements, split_range

FIELDS = ("sessions", "participants", "participant_ms", "recordings")
LAST = T0 + 3 * DAY


def some_sessions(count: int, chance: random.Random) -> list[SessionRows]:
    """Sessions of three sources with equal start and end times, around the edges of ten seconds, ten minutes and days."""
    moments = [
        T0 + step + shift
        for step in (0, 10 * SECOND, 600 * SECOND, DAY, DAY + 7_777_777, 2 * DAY)
        for shift in (-1, 0, 1, SECOND)
    ]
    moments += [-5 * SECOND, -1, 0, 3]
    made = []
    for i in range(count):
        begins_at = chance.choice(moments)
        over = chance.choice((None, begins_at, chance.choice(moments), begins_at + chance.randrange(2 * DAY)))
        made.append(
            session_rows(
                f"s{i}", source=chance.choice(("lk", "ov", "rec")), begins_at=begins_at, ended_at=over, state="open" if over is None else "ended",
                last_event_at=begins_at, participants=chance.randrange(5), participant_ms=chance.randrange(99), recordings=chance.randrange(2),
            )
        )  # fmt: skip
    return made


def scanned(sessions: list[SessionRows], from_at: int, to_at: int, sources: tuple[str, ...] | None) -> dict[str, Any]:
    """The same numbers, from a scan of all sessions and all moments."""
    rows = [each.session for each in sessions if sources is None or each.session.source in sources]
    begun = [row for row in rows if from_at <= row.begins_at < to_at]
    days: dict[int, list[int]] = {}
    for row in begun:
        total = days.setdefault(row.begins_at // DAY, [0, 0, 0, 0])
        for place, count in enumerate((1, row.participants, row.participant_ms, row.recordings)):
            total[place] += count
    spans = [(row.begins_at, row.ended_at if row.state == "ended" else None) for row in rows]
    moments = sorted({from_at, *(begins for begins, _ in spans)})
    peak: dict[str, Any] = {"sessions": 0, "at": None}
    for at in moments:
        if from_at <= at < to_at:
            running = sum(begins <= at and (over is None or over > at) for begins, over in spans)
            if running > peak["sessions"]:
                peak = {"sessions": running, "at": at}
    return {
        "open": sum(row.state == "open" for row in rows),
        "sessions": len(begun),
        "days": [dict(zip(FIELDS, days[day], strict=True)) for day in sorted(days)],
        "peak": peak,
    }


async def expect_correct(views: SqliteViews, sessions: list[SessionRows], chance: random.Random) -> None:
    edges = [T0, T0 + DAY, T0 - DAY, T0 + 10 * SECOND, T0 + 1, T0 + 600 * SECOND + 5, T0 + DAY + 7_777_777, 0, LAST]
    ranges = [(-(2**62), 2**62), (T0, LAST), (T0, T0), (LAST, T0)]
    ranges += [(chance.choice(edges), chance.choice(edges)) for _ in range(25)]
    for from_at, to_at in ranges:
        for sources in (None, ("ov",), ("lk", "rec"), ("none",), ()):
            found = await views.stats(from_at=from_at, to_at=to_at, sources=sources)
            for day in found["days"]:
                del day["day"]
            del found["sources"]
            assert found == scanned(sessions, from_at, to_at, sources), (from_at, to_at, sources)


def tables(path: Path) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return [connection.execute(f"SELECT * FROM {table}").fetchall() for table in ("counts", "levels")]


async def test_statistics_equal_those_of_a_scan(tmp_path: Path) -> None:
    chance = random.Random(11)
    await SqliteViews.create(tmp_path / "live.db")
    live = await SqliteViews.open(tmp_path / "live.db", writable=True)
    held: dict[str, SessionRows] = {}
    for position in range(1, 12):
        # The same sessions repeatedly: with another start or end, with more people, or removed.
        part = [msgspec.structs.replace(each) for each in some_sessions(60, chance) if chance.random() < 0.4]
        gone = [name for name in held if chance.random() < 0.1 and name not in {each.session.id for each in part}]
        await live.save(Changes(position=position, sessions=part, removed=gone))
        held |= {each.session.id: each for each in part}
        for name in gone:
            del held[name]
    await expect_correct(live, list(held.values()), chance)
    await live.close()

    rebuilt = await SqliteViews.build(tmp_path / "rebuilt.db")
    await rebuilt.save(Changes(position=12, sessions=list(held.values())))
    await rebuilt.finish()
    rebuilt = await SqliteViews.open(tmp_path / "rebuilt.db", writable=True)
    await expect_correct(rebuilt, list(held.values()), chance)
    await rebuilt.save(Changes(position=13, sessions=list(held.values())))
    await rebuilt.close()

    await SqliteViews.create(tmp_path / "shuffled.db")
    shuffled = await SqliteViews.open(tmp_path / "shuffled.db", writable=True)
    for position, rows in enumerate(chance.sample(list(held.values()), len(held)), 1):
        await shuffled.save(Changes(position=position, sessions=[rows]))
    await shuffled.close()
    assert tables(tmp_path / "live.db") == tables(tmp_path / "rebuilt.db") == tables(tmp_path / "shuffled.db")

    emptied = await SqliteViews.open(tmp_path / "live.db", writable=True)
    await emptied.save(Changes(position=14, removed=list(held)))
    await emptied.close()
    assert tables(tmp_path / "live.db") == [[], []]


def test_a_range_is_split_into_the_largest_rows_without_gaps() -> None:
    for from_at, to_at in (
        (0, 1000),
        (3, 997),
        (3, 9),
        (9, 11),
        (10, 20),
        (99, 101),
        (95, 205),
        (-15, -3),
        (-205, 305),
    ):
        parts = split_range(from_at, to_at, (10, 100))
        assert parts[0].from_at == from_at
        assert parts[-1].to_at == to_at
        assert all(left.to_at == right.from_at for left, right in zip(parts, parts[1:], strict=False))
        assert all(part.from_at % (part.span or 1) == part.to_at % (part.span or 1) == 0 for part in parts)
        assert len(parts) <= 5


async def test_statistics_scan_no_table(tmp_path: Path) -> None:
    await SqliteViews.create(tmp_path / "views.db")
    statements_run = [each for sources in (None, ("ov",)) for each in statements(plan_stats(sources, 5, 2 * DAY + 11))]
    with closing(sqlite3.connect(tmp_path / "views.db")) as connection:
        for statement, bound in [*statements_run, (sql.SELECT_PEAK, ("[]", 1, 2))]:
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", bound)]
            whole = [
                step
                for step in plan
                if step.split()[0] == "SCAN" and step.split()[1] in {"sessions", "s", "counts", "levels"}
            ]
            # The peak of several sources is computed from their sessions, in an index.
            if statement == sql.SELECT_PEAK:
                whole = [step for step in whole if "sessions" in step and "USING" not in step]
            assert whole == [], plan

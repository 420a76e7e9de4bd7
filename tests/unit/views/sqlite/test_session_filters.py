"""The list of sessions is the same, page by page, whichever filter or index it is read from."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import msgspec

from tests.contracts.test_views import T0, session_rows
from tracker.domain.rows import Anomaly, SessionRows
from tracker.views.sqlite import reader
from tracker.views.contract import Changes, SessionFilter
from tracker.views.sqlite.views import SqliteViews
from tracker.views.sqlite.session_filters import with_single_source, find_candidates
from tracker.views.sqlite.session_search import sessions_statement

MINUTE = 60_000_000
ODD = [Anomaly(kind="late_event", position=1, detail="x")]
EVERY: dict[str, tuple[Any, ...]] = {
    "source": ("ov",),
    "sources": (("lk",), ("lk", "rec"), ()),
    "room": ("hall", "The hall"),
    "identity": ("ann", "Ann", "guest-3"),
    "state": ("open", "ended", "stuck"),
    "from_at": (T0 + 3 * MINUTE,),
    "to_at": (T0 + 7 * MINUTE,),
    "has": (("recording",), ("supervisor", "anomaly"), ("anomaly", "recording", "supervisor")),
    "min_duration_ms": (60_000, 240_000),
    "q": ("hal", "Ann", "s1"),
}
STUCK = {"ov": T0 + 5 * MINUTE, "lk": T0 + 2 * MINUTE}


def random_sessions(chance: random.Random) -> list[SessionRows]:
    """Sessions of three sources, with names that are ids elsewhere, people under both, and many equal times."""
    found: list[SessionRows] = []
    for i in range(160):
        begins_at = T0 + chance.randrange(10) * MINUTE
        over = chance.choice((None, begins_at + chance.randrange(1, 6) * MINUTE))
        rows = session_rows(
            f"s{i}", source=chance.choice(("ov", "lk", "rec")), begins_at=begins_at, ended_at=over, state="open" if over is None else "ended",
            room_id=chance.choice(("hall", "The hall", "room", None)), room_name=chance.choice(("The hall", "hall", None)),
            recordings=chance.randrange(2), supervisors=chance.randrange(2), anomalies=chance.choice(([], ODD)), last_event_at=begins_at,
        )  # fmt: skip
        people = tuple(
            msgspec.structs.replace(rows.participants[0], id=f"p{n}", identity=chance.choice(("ann", "guest-3", None)), name=chance.choice(("ann", "Ann")))
            for n in range(chance.randrange(3))
        )  # fmt: skip
        found.append(msgspec.structs.replace(rows, participants=people, lookups=()))
    return found


def expected_ids(sessions: list[SessionRows], wanted: SessionFilter) -> list[str]:
    """The ids, from a scan of all sessions."""

    def fits(rows: SessionRows) -> bool:
        row = rows.session
        people = {word for person in rows.participants for word in (person.identity, person.name) if word}
        words = people | {word for word in (row.id, row.room_id, row.room_name) if word}
        has = {"recording": row.recordings, "supervisor": row.supervisors, "anomaly": row.anomalies}
        stuck = row.state == "open" and row.last_event_at <= wanted.stuck_before.get(row.source, 0)
        return (
            wanted.source in {None, row.source}
            and (wanted.sources is None or row.source in wanted.sources)
            and (wanted.room is None or wanted.room in {row.room_id, row.room_name})
            and (wanted.identity is None or wanted.identity in people)
            and (wanted.state is None or (stuck if wanted.state == "stuck" else row.state == wanted.state))
            and (wanted.from_at is None or row.begins_at >= wanted.from_at)
            and (wanted.to_at is None or row.begins_at < wanted.to_at)
            and all(has[what] for what in wanted.has)
            and (wanted.min_duration_ms is None or (row.duration_ms or 0) >= wanted.min_duration_ms)
            and (wanted.q is None or any(wanted.q.lower() in word.lower() for word in words))
        )

    matching = sorted((rows.session.begins_at, rows.session.id) for rows in sessions if fits(rows))
    return [name for _, name in reversed(matching)]


def filters(chance: random.Random) -> list[SessionFilter]:
    """Every single filter, every pair of filters, and some larger combinations."""
    combinations: list[dict[str, Any]] = [{name: value} for name, values in EVERY.items() for value in values]
    for one, other in itertools.combinations(EVERY, 2):
        combinations += [{one: left, other: right} for left in EVERY[one] for right in EVERY[other]]
    for _ in range(60):
        combinations.append(
            {name: chance.choice(EVERY[name]) for name in chance.sample(sorted(EVERY), chance.randrange(3, 6))}
        )
    return [SessionFilter(**each, stuck_before=STUCK) for each in combinations]


async def test_a_list_is_the_same_from_every_candidate(tmp_path: Path) -> None:
    chance = random.Random(3)
    sessions = random_sessions(chance)
    await SqliteViews.create(tmp_path / "views.db")
    views = await SqliteViews.open(tmp_path / "views.db", writable=True)
    await views.save(Changes(position=1, sessions=sessions))
    for wanted in filters(chance):
        expected = expected_ids(sessions, wanted)
        one = with_single_source(wanted)
        for candidate in (None, *find_candidates(one)):
            rows = await views.rows(*sessions_statement(one, limit=1_000, cursor=None, candidate=candidate))
            assert [row[2] for row in rows] == expected, (wanted, candidate)
    await views.close()


async def test_pages_from_candidates_and_from_scans_are_the_whole_list(tmp_path: Path, monkeypatch: Any) -> None:
    chance = random.Random(4)
    sessions = random_sessions(chance)
    await SqliteViews.create(tmp_path / "views.db")
    views = await SqliteViews.open(tmp_path / "views.db", writable=True)
    await views.save(Changes(position=1, sessions=sessions))
    for limit in (0, 2_000):
        for bound in ("MAX_CANDIDATES", "MAX_HITS", "MAX_HITS_WITH_FILTER"):
            monkeypatch.setattr(reader, bound, limit)
        for wanted in [each for each in filters(chance) if each.q is not None or chance.random() < 0.2]:
            ids: list[str] = []
            cursor = None
            while True:
                rows, cursor = await views.find_sessions(wanted, limit=9, cursor=cursor)
                ids += [row.id for row in rows]
                if cursor is None:
                    break
            assert ids == expected_ids(sessions, wanted), (limit, wanted)
    await views.close()

"""The list of calls with very many sessions: `python bench/session_list.py [sessions]` (1,000,000; ~5 minutes, 3 GB).

Fills a views file and prints how long each filter of `GET /v1/sessions` takes in the views, the first and the second time,
in milliseconds. With `--keep FOLDER` the file stays and is used again.

Measured on two shared cores, the second time: any `q` takes 1 to 50 ms, alone or with source, state, from and to. With `has`
or `min_duration_ms`, where both match very many sessions but hardly any match both, it takes 30 to 160 ms. A session's texts
and their index take 0.5 kB of its 2 kB here; with whole calls, 80 bytes per event.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from pathlib import Path

from tracker.domain.rows import Anomaly, ConnectionRow, End, ParticipantRow, SessionRow, SessionRows
from tracker.views.contract import Changes, SessionFilter, SourceRow
from tracker.views.sqlite.views import SqliteViews

START = 1_700_000_000_000_000
MINUTE = 60_000_000
SOURCES = (("lk", "livekit"), ("ov", "openvidu"), ("meet", "openvidu_meet"), ("pnm", "plugnmeet"), ("rec", "streamrec"))
BATCH = 2_000


def rows(i: int, sessions: int, chance: random.Random) -> SessionRows:
    """Rows of one call of two people. There is one call each minute; the newest 300 and every 5,000th are open."""
    source, vendor = SOURCES[i % 5]
    at, room, id = START + i * MINUTE, f"room-{i % 50_000}", f"{source}:RM_{i:07d}x"
    is_open = i >= sessions - 300 or i % 5_000 == 0
    lasted = chance.randrange(1_000, 7_200_000)
    over = None if is_open else at + lasted * 1_000
    end = None if is_open else End(reason="normal", vendor_reason=None, provenance="reported")
    length = None if is_open else lasted
    people = [(f"p{j}", (i * 7 + j * 13) % 200_000) for j in range(2)]
    return SessionRows(
        session=SessionRow(
            id=id, source=source, vendor=vendor, room_id=room, room_name=f"Room {i % 50_000}", vendor_ids={"room": [room]},
            state="open" if is_open else "ended", created_at=at, started_at=at, ended_at=over, duration_ms=length,
            start_provenance="reported", end=end, participants=2, peak_participants=2, participant_ms=lasted * 2,
            recordings=int(i % 100 == 0), supervisors=int(i % 1_000 == 0), completeness="open" if is_open else "complete",
            anomalies=[Anomaly(kind="late_event", position=i, detail="x")] if i % 500 == 0 else [],
            first_position=i * 10 + 1, last_position=i * 10 + 10, last_event_at=over or at, begins_at=at,
        ),
        lookups=(f"RM_{i:07d}x", room, f"Room {i % 50_000}"),
        participants=tuple(
            ParticipantRow(
                session_id=id, id=p, identity=f"user-{n}", name=f"Name {n}", kind="standard", connections=1,
                first_joined_at=at, last_left_at=over, presence_ms=lasted,
            )
            for p, n in people
        ),
        connections=tuple(
            ConnectionRow(
                session_id=id, id=f"c-{p}", participant=p, joined_at=at, left_at=over, duration_ms=length,
                join_provenance="reported", leave=end, aborted=False, platform=None, location=None, ip=None,
            )
            for p, _ in people
        ),
        streams=(), recordings=(), supervisor_sessions=(), gaps=(), state=b"",
    )  # fmt: skip


async def fill(path: Path, sessions: int) -> None:
    await SqliteViews.create(path)
    views = await SqliteViews.open(path, writable=True)
    chance = random.Random(1)
    begun = time.monotonic()
    for first in range(0, sessions, BATCH):
        last = min(sessions, first + BATCH)
        saved = [rows(i, sessions, chance) for i in range(first, last)]
        sources = [
            SourceRow(source=name, vendor=vendor, last_received_at=START + last * MINUTE, records=last * 2, state=b"")
            for name, vendor in SOURCES
        ]
        await views.save(Changes(position=last * 10, sessions=saved, sources=sources))
    await views.close()
    print(f"{sessions:,} sessions in {time.monotonic() - begun:.0f} s, {path.stat().st_size / 1e6:,.0f} MB")


def filters(sessions: int) -> dict[str, SessionFilter]:
    stuck = {name: START + (sessions - 100) * MINUTE for name, _ in SOURCES}
    middle = START + sessions // 2 * MINUTE
    return {
        "none": SessionFilter(),
        "source": SessionFilter(source="ov"),
        "state=open": SessionFilter(state="open"),
        "state=stuck": SessionFilter(state="stuck", stuck_before=stuck),
        "room": SessionFilter(room="room-77"),
        "identity": SessionFilter(identity="user-77"),
        "identity of nobody": SessionFilter(identity="nobody"),
        "from, to": SessionFilter(from_at=middle, to_at=middle + 1000 * MINUTE),
        "has=recording": SessionFilter(has=("recording",)),
        "has=supervisor": SessionFilter(has=("supervisor",)),
        "has all three": SessionFilter(has=("recording", "supervisor", "anomaly")),
        "source, has (none)": SessionFilter(source="ov", has=("supervisor",)),
        "min_duration (few)": SessionFilter(min_duration_ms=7_199_000),
        "min_duration (none)": SessionFilter(min_duration_ms=9_000_000),
        "q (many)": SessionFilter(q="Room 7"),
        "q (people)": SessionFilter(q="Name 777"),
        "q (one)": SessionFilter(q="RM_0000077x"),
        "q (none)": SessionFilter(q="zzzzzzz"),
        "q (like all, but none)": SessionFilter(q="user-999999"),
        "q (one letter)": SessionFilter(q="7"),
        "q (two, none)": SessionFilter(q="zz"),
        "q, source": SessionFilter(q="Name 777", source="lk"),
        "q, source (none)": SessionFilter(q="ov:RM", source="lk"),
        "q, state=open (none)": SessionFilter(q="Name 777", state="open"),
        "q, to (oldest)": SessionFilter(q="Name 777", to_at=START + 1000 * MINUTE),
        "q, from (none)": SessionFilter(q="RM_00", from_at=middle),
        "q, has=recording": SessionFilter(q="Room 7", has=("recording",)),
    }


async def measure(path: Path, sessions: int) -> None:
    views = await SqliteViews.open(path, writable=False)
    for name, wanted in filters(sessions).items():
        took: list[float] = []
        found: list[SessionRow] = []
        for _ in range(2):
            begun = time.perf_counter()
            found, _ = await views.find_sessions(wanted, limit=50, cursor=None)
            took.append((time.perf_counter() - begun) * 1_000)
        print(f"{name:22} {len(found):3} rows  {took[0]:9.1f} ms  {took[1]:9.1f} ms")
    now = START + sessions * MINUTE
    for name, begin in (("stats of 30 days", now - 30 * 1_440 * MINUTE), ("stats of all", -(2**62))):
        begun = time.perf_counter()
        await views.stats(from_at=begin, to_at=now, sources=None)
        print(f"{name:32} {(time.perf_counter() - begun) * 1_000:9.1f} ms")
    await views.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sessions", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = (options.keep or Path(folder)) / "views.db"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            asyncio.run(fill(path, options.sessions))
        asyncio.run(measure(path, options.sessions))


if __name__ == "__main__":
    main()

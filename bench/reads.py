"""Queries of the views and of the API, for months of several sizes: `python -m bench.reads [events ...] [--keep FOLDER]`.

The default sizes are 10,000, 1,000,000 and 10,000,000 events (the last takes about 20 minutes and 15 GB). Each is a log of
the calls of `calls.py` over the same 30 days, and the views of a real rebuild; with `--keep FOLDER` both stay and are used
again. The queries run in turns, each time for another session, room, person or time. The first round is reported separately
("cold" for SQLite's own cache, not for the disk's). Prints p50 and p99 in milliseconds at each size, the ratio of the p99 of
the largest size to that of the smallest, then some of the queries over HTTP against `tracker serve`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import random
import statistics
import sys
import tempfile
import time
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp

from bench import report
from bench.calls import DAY, HOUR, calls, deliveries
from bench.rebuild import context_of
from tests.support.logs import opened
from tests.support.server import READ, Running
from tracker.demo.show import SOURCES
from tracker.demo.calls import VENDORS, settings
from tracker.log.sqlite.log import SqliteLog
from tracker.projector.rebuild import build_views
from tracker.sources import registry
from tracker.views.contract import SessionFilter
from tracker.views.sqlite.views import SqliteViews

BEGIN = 1_760_000_000_000_000 // DAY * DAY
DAYS = 30
END = BEGIN + DAYS * DAY
EVENTS_A_CALL = 12.9
"""Events per call of `calls.py`, measured over 5,000 calls: determines the number of calls for a size."""
SECRET = "bench-secret-of-at-least-32-bytes!!"
CHUNK = 400
LOST = 300
"""One delivery in this many is lost, so that some sessions stay open and some have anomalies."""

Ask = Callable[[], Awaitable[Any]]


class Sizes(NamedTuple):
    """The figures of one query at one size, ms."""

    first: float
    p50: float
    p99: float
    cpu99: float
    """p99 of the processor time of all threads: a steadier figure on a busy machine."""
    rows: int


def deliveries_of(plans: list[Any]) -> list[tuple[str, bytes, int]]:
    """The deliveries of these calls as (vendor, body, received at), by arrival, some lost. Runs in a separate process."""
    sent = [(plan.vendor, each.body, each.at + 20_000) for plan in plans for each in deliveries(plan)]
    return sorted((each for each in sent if zlib.crc32(each[1]) % LOST), key=lambda each: each[2])


def chunks(events: int) -> Iterator[list[Any]]:
    plans = calls(max(20, round(events / EVENTS_A_CALL)), BEGIN, DAYS)
    while chunk := list(itertools.islice(plans, CHUNK)):
        yield chunk


def ahead(pool: Any, plans: Iterator[list[Any]]) -> Iterator[list[tuple[str, bytes, int]]]:
    """The results of `deliveries_of` for each chunk, computed a few chunks ahead."""
    begun: deque[Any] = deque()
    for chunk in plans:
        begun.append(pool.apply_async(deliveries_of, (chunk,)))
        if len(begun) > 4:
            yield begun.popleft().get()
    while begun:
        yield begun.popleft().get()


async def fill(path: Path, events: int) -> None:
    """Write the log: `events` records, or all records of those calls."""
    sources = {
        vendor: registry.build(settings(vendor, SECRET, name=SOURCES[vendor]))
        for vendor in VENDORS
    }  # fmt: skip
    await SqliteLog.create(path)
    log = await SqliteLog.open(path)
    written, begun = 0, time.monotonic()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for batch in ahead(pool, chunks(events)):
            await log.append_all(
                [
                    sources[vendor].verify_trusted(body, received_at=at, proof={"scheme": "import"})
                    for vendor, body, at in batch[: events - written]
                ]
            )
            written += min(len(batch), events - written)
            progress("log", written, events, begun)
            if written >= events:
                pool.terminate()
                break
    await log.close()
    print(
        f"\r{written:,} events logged in {time.monotonic() - begun:.0f} s, {path.stat().st_size / 1e6:,.0f} MB{'':20}"
    )


async def rebuild(path: Path, views_path: Path) -> None:
    """Build the views as `tracker rebuild` does."""
    views_path.unlink(missing_ok=True)
    begun = time.monotonic()
    async with opened(path) as log:
        position = await build_views(
            log, views_path, context_of(path),
            progress=lambda at, head: progress("views", at, head, begun),
        )  # fmt: skip
    seconds = time.monotonic() - begun
    print(f"\r{position:,} events projected in {seconds:.0f} s, {views_path.stat().st_size / 1e6:,.0f} MB{'':20}")


def progress(what: str, at: int, of: int, begun: float) -> None:
    """Print progress: one line that is overwritten on a terminal, otherwise one line each minute."""
    global printed_at
    seconds = time.monotonic() - begun
    line = f"{what} {at:,} of {of:,}, {at / max(seconds, 0.001):,.0f}/s"
    if sys.stdout.isatty():
        print(f"\r{line}  ", end="", flush=True)
    elif time.monotonic() - printed_at >= 60:
        printed_at = time.monotonic()
        print(line, flush=True)


printed_at = time.monotonic()


def queries_of(views: SqliteViews, log: SqliteLog, known: Known) -> dict[str, Callable[[random.Random], Ask]]:
    """Name of a query → a function that picks its arguments at random and returns what to await."""

    def sessions(**filters: Any) -> Callable[[random.Random], Ask]:
        def ask(chance: random.Random) -> Ask:
            chosen = {name: value(chance) if callable(value) else value for name, value in filters.items()}
            return lambda: views.find_sessions(SessionFilter(**chosen), limit=50, cursor=None)

        return ask

    def of(one: Callable[[str], Awaitable[Any]], among: list[str]) -> Callable[[random.Random], Ask]:
        def ask(chance: random.Random) -> Ask:
            which = chance.choice(among)
            return lambda: one(which)

        return ask

    def page(cursor: str | None) -> Callable[[random.Random], Ask]:
        return lambda _: lambda: views.timeline(known.large, kinds=(), subject=None, limit=100, cursor=cursor)

    def lists(name: str, **filters: Any) -> Callable[[random.Random], Ask]:
        ask = getattr(views, name)

        def make_query(chance: random.Random) -> Ask:
            bound = {key: value(chance) if callable(value) else value for key, value in filters.items()}
            return lambda: ask(**bound, limit=50, cursor=None)

        return make_query

    async def records(session: str) -> list[Any]:
        positions = await views.session_positions(session, limit=51, after=0)
        return [await log.record(position) for position in positions[:50]]

    def stats(start: int, end: int) -> Callable[[random.Random], Ask]:
        return lambda _: lambda: views.stats(from_at=start, to_at=end, sources=None)

    def room(chance: random.Random) -> str:
        return chance.choice(known.rooms)

    def person(chance: random.Random) -> str:
        return f"Person {chance.randrange(1, known.population)}"

    def moment(chance: random.Random) -> int:
        return BEGIN + chance.randrange(DAYS - 1) * DAY + chance.randrange(24) * HOUR

    def source(chance: random.Random) -> str:
        return SOURCES[chance.choice(VENDORS)]

    stuck = {name: END - 10 * DAY for name in SOURCES.values()}
    queries: dict[str, Callable[[random.Random], Ask]] = {
        "session by id": of(views.session, known.ids),
        "session by the vendor's id": of(lambda any_id: views.lookup(any_id, None), known.vendor_ids),
        "timeline of 1,500: first page": page(None),
        "timeline of 1,500: middle": page(known.middle),
        "timeline of 1,500: last": page(known.last),
        "timeline of any session": of(
            lambda one: views.timeline(one, kinds=(), subject=None, limit=100, cursor=None), known.ids
        ),
        "participants of a session": of(
            lambda one: views.participants(session_id=one, identity=None, sources=None, limit=50, cursor=None),
            known.ids,
        ),
        "connections of a session": of(lambda one: views.connections(one, limit=50, cursor=None), known.ids),
        "streams of a session": of(lambda one: views.streams(one, limit=50, cursor=None), known.ids),
        "recordings of a session": of(
            lambda one: views.recordings(session_id=one, status=None, sources=None, limit=50, cursor=None), known.ids
        ),
        "records of a session": of(records, known.ids),
        "sessions": sessions(),
        "sessions: a page inside": lambda _: lambda: views.find_sessions(
            SessionFilter(), limit=50, cursor=known.cursor
        ),
        "source": sessions(source=source),
        "token of one source": sessions(sources=("rec",)),
        "room": sessions(room=room),
        "identity": sessions(identity=person),
        "identity in a quarter of all": sessions(identity="Person 0"),
        "identity of nobody": sessions(identity="nobody"),
        "state=open": sessions(state="open"),
        "state=ended": sessions(state="ended"),
        "state=stuck": sessions(state="stuck", stuck_before=stuck),
        "from": sessions(from_at=moment),
        "to": sessions(to_at=moment),
        "from, to: one hour": lambda chance: (
            lambda at: lambda: views.find_sessions(
                SessionFilter(from_at=at, to_at=at + HOUR), limit=50, cursor=None
            )
        )(moment(chance)),
        "has=recording": sessions(has=("recording",)),
        "has=supervisor": sessions(has=("supervisor",)),
        "has=anomaly": sessions(has=("anomaly",)),
        "has all three": sessions(has=("recording", "supervisor", "anomaly")),
        "min_duration 30 min": sessions(min_duration_ms=1_800_000),
        "min_duration 4 h": sessions(min_duration_ms=4 * 3_600_000),
        "min_duration 24 h (none)": sessions(min_duration_ms=24 * 3_600_000),
        "source, state=open": sessions(source=source, state="open"),
        "source, state=ended": sessions(source=source, state="ended"),
        "source, from": sessions(source=source, from_at=moment),
        "source, has=recording": sessions(source=source, has=("recording",)),
        "source, has=supervisor (none)": sessions(source="lk", has=("supervisor",)),
        "source, min_duration 2 h": sessions(source=source, min_duration_ms=2 * 3_600_000),
        "has=recording, min_duration 4 h": sessions(has=("recording",), min_duration_ms=4 * 3_600_000),
        "state=open, has=recording": sessions(state="open", has=("recording",)),
        "identity, source": sessions(identity=person, source=source),
        "room, state=ended": sessions(room=room, state="ended"),
        "q: a person": sessions(q=person),
        "q: an id": sessions(q=lambda chance: chance.choice(known.vendor_ids)),
        "q: in very many": sessions(q="standup"),
        "q: in none": sessions(q="zzzzzzz"),
        "q: one letter": sessions(q="7"),
        "q: two letters": sessions(q="rs"),
        "q, source": sessions(q="Person 1", source="lk"),
        "q, from": sessions(q="Person 1", from_at=moment),
        "q, state=open": sessions(q="Person 1", state="open"),
        "q, has=recording": sessions(q="Person 1", has=("recording",)),
        "q, min_duration 2 h": sessions(q="Person 1", min_duration_ms=2 * 3_600_000),
        "q, has=supervisor (none)": sessions(q="standup", has=("supervisor",)),
        "q, min_duration 4 h, has=recording": sessions(
            q="Person", min_duration_ms=4 * 3_600_000, has=("recording",)
        ),
        "rooms": lists("find_rooms", source=None, sources=None),
        "rooms of one source": lists("find_rooms", source=None, sources=("rec",)),
        "participants, newest": lists("participants", session_id=None, identity=None, sources=None),
        "participants of a source": lists("participants", session_id=None, identity=None, sources=("meet",)),
        "participants: identity": lists("participants", session_id=None, identity=person, sources=None),
        "participants: in a quarter of all": lists(
            "participants", session_id=None, identity="Person 0", sources=None
        ),
        "recordings": lists("recordings", session_id=None, status=None, sources=None),
        "recordings: status=ready": lists("recordings", session_id=None, status="ready", sources=None),
        "recordings: status=failed (none)": lists("recordings", session_id=None, status="failed", sources=None),
        "recordings of a source": lists("recordings", session_id=None, status=None, sources=("rec",)),
        "supervisor sessions": lists("supervisor_sessions", session_id=None, client=None, sources=None),
        "supervisor sessions of one": lists(
            "supervisor_sessions", session_id=None, client="supervisor-7", sources=None
        ),
        "stats": stats(-(2**62), 2**62),
        "stats: a week": stats(END - 9 * DAY, END - 2 * DAY),
        "stats: a week from 10:17 on": stats(END - 9 * DAY + 617 * 60_000_000, END - 2 * DAY + 617 * 60_000_000),
        "stats: an hour": stats(END - 5 * DAY + 10 * HOUR, END - 5 * DAY + 11 * HOUR),
        "stats of one source": lambda _: lambda: views.stats(from_at=-(2**62), to_at=2**62, sources=("lk",)),
    }  # fmt: skip
    return queries


class Known(NamedTuple):
    """Sessions, ids and rooms that queries can use."""

    ids: list[str]
    vendor_ids: list[str]
    rooms: list[str]
    population: int
    large: str
    middle: str
    last: str
    cursor: str | None


async def look_around(views: SqliteViews, sessions: int) -> Known:
    """Pick sessions, ids and rooms from the whole month."""
    found = []
    for day in range(DAYS):
        rows, _ = await views.find_sessions(
            SessionFilter(to_at=BEGIN + (day + 1) * DAY, from_at=BEGIN + day * DAY), limit=60, cursor=None
        )
        found += rows
    first, _ = await views.find_sessions(SessionFilter(identity="Person 299"), limit=1000, cursor=None)
    large = max(first, key=lambda row: row.participants).id
    cursors: list[str] = []
    cursor: str | None = None
    while True:
        _, cursor = await views.timeline(large, kinds=(), subject=None, limit=100, cursor=cursor)
        if cursor is None:
            break
        cursors.append(cursor)
    _, inside = await views.find_sessions(SessionFilter(to_at=BEGIN + 12 * DAY), limit=50, cursor=None)
    rooms, _ = await views.find_rooms(source=None, sources=None, limit=500, cursor=None)
    return Known(
        ids=[row.id for row in found],
        vendor_ids=[ids[0] for row in found for ids in row.vendor_ids.values() if ids],
        rooms=[row.room_id for row in rooms],
        population=max(50, sessions * 3 // 8),
        large=large,
        middle=cursors[len(cursors) // 2],
        last=cursors[-1],
        cursor=inside,
    )


async def measure(folder: Path, events: int, rounds: int, only: str) -> dict[str, Sizes]:
    """Open the views with an empty cache and measure all queries."""
    # Views or a log that stay open after an error would keep the process alive.
    async with contextlib.AsyncExitStack() as stack:
        log = await SqliteLog.open(folder / "log.db")
        stack.push_async_callback(log.close)
        views = await SqliteViews.open(folder / "views.db", writable=False)
        try:
            known = await look_around(views, max(20, round(events / EVENTS_A_CALL)))
        finally:
            await views.close()
        views = await SqliteViews.open(folder / "views.db", writable=False)
        stack.push_async_callback(views.close)
        return await ask_all(views, log, known, rounds, only)


async def ask_all(views: SqliteViews, log: SqliteLog, known: Known, rounds: int, only: str) -> dict[str, Sizes]:
    """Run all queries `rounds` times in turns."""
    queries = {name: make for name, make in queries_of(views, log, known).items() if only in name}
    took: dict[str, list[float]] = {name: [] for name in queries}
    cost: dict[str, list[float]] = {name: [] for name in queries}
    rows: dict[str, int] = {}
    for turn in range(rounds):
        chance = random.Random(turn)
        for name, make in queries.items():
            ask = make(chance)
            begun, spent = time.perf_counter(), time.process_time()
            found = await ask()
            took[name].append((time.perf_counter() - begun) * 1000)
            cost[name].append((time.process_time() - spent) * 1000)
            rows[name] = counted(found)
    return {
        name: Sizes(
            each[0], statistics.median(each), percentile(each[1:], 0.99), percentile(cost[name][1:], 0.99), rows[name]
        )
        for name, each in took.items()
    }


def counted(found: Any) -> int:
    """How many rows an answer has."""
    if isinstance(found, tuple):
        found = found[0]
    return len(found) if isinstance(found, list) else int(found is not None)


def percentile(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


HTTP = {
    "GET /v1/sessions": "/v1/sessions",
    "GET /v1/sessions?source=&state=ended": "/v1/sessions?source=lk&state=ended",
    "GET /v1/sessions?q=": "/v1/sessions?q=Person%2017",
    "GET /v1/sessions/{id}": "/v1/sessions/{id}",
    "GET /v1/sessions/{id}/timeline": "/v1/sessions/{id}/timeline",
    "GET /v1/stats": "/v1/stats",
}


async def over_http(folder: Path, rounds: int) -> dict[str, Sizes]:
    """Measure over HTTP: `tracker serve` on this log and these views, one connection."""
    server = Running(folder)
    await server.start()
    try:
        async with aiohttp.ClientSession(headers=READ) as web:
            async with web.get(f"{server.url}/v1/sessions?identity=Person%20299&limit=1000") as answer:
                large = max((await answer.json())["items"], key=lambda row: row["participants"])["id"]
            took: dict[str, list[float]] = {name: [] for name in HTTP}
            for _ in range(rounds):
                for name, path in HTTP.items():
                    begun = time.perf_counter()
                    async with web.get(server.url + path.replace("{id}", quote(large, safe=""))) as answer:
                        await answer.read()
                        assert answer.status == 200, await answer.text()
                    took[name].append((time.perf_counter() - begun) * 1000)
    finally:
        await server.stop()
    return {
        name: Sizes(each[0], statistics.median(each), percentile(each[1:], 0.99), 0.0, 0) for name, each in took.items()
    }


def table(found: dict[int, dict[str, Sizes]]) -> None:
    """Print a row for each query with columns for each size. The ratios are of the p99, by clock and by processor time."""
    sizes = list(found)
    print(f"\n{'':38}{'rows':>5}" + "".join(f"{f'{size:,} events':>32}" for size in sizes) + f"{'p99 ratio':>14}")
    print(
        f"{'ms':>38}{'':5}" + f"{'first':>8}{'p50':>8}{'p99':>8}{'cpu99':>8}" * len(sizes) + f"{'clock':>8}{'cpu':>6}"
    )
    for name, large in found[sizes[-1]].items():
        line = f"{name:38}{large.rows:5}"
        for size in sizes:
            each = found[size][name]
            line += f"{each.first:8.2f}{each.p50:8.2f}{each.p99:8.2f}{each.cpu99:8.2f}"
        small = found[sizes[0]][name]
        line += f"{large.p99 / small.p99:8.2f}"
        print(line + (f"{large.cpu99 / small.cpu99:6.2f}" if small.cpu99 else ""))


def headlines(found: dict[int, dict[str, Sizes]], spoken: dict[int, dict[str, Sizes]]) -> list[report.Row]:
    """Of each size: the median and the worst p99 of all queries, and the lists over HTTP; relative to the smallest size."""

    def worst(queries: dict[str, Sizes]) -> float:
        return max(each.p99 for each in queries.values())

    def middle(queries: dict[str, Sizes]) -> float:
        return statistics.median(each.p50 for each in queries.values())

    rows: list[report.Row] = []
    for title, figure, each in (
        ("queries, median p50", middle, found), ("queries, worst p99", worst, found),
        ("GET over HTTP, worst p99", worst, spoken),
    ):  # fmt: skip
        smallest = next(iter(each), 0)
        for size, queries in each.items():
            ratio = None if size == smallest else figure(queries) / figure(each[smallest])
            of = f"the same at {smallest:,} events"
            rows.append(report.Row("reads", f"{title}, {size:,} events", figure(queries), "ms", ratio, of))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Write logs that are missing, measure, print."""
    parser = report.parser(__doc__)
    parser.add_argument("events", type=int, nargs="*", default=[10_000, 1_000_000, 10_000_000])
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--only", default="", help="questions with this in their name")
    parser.add_argument("--fill", action="store_true", help="make what is missing and ask nothing")
    options = parser.parse_args(argv)
    if options.smoke:
        options.events, options.rounds = [600], 2
    found: dict[int, dict[str, Sizes]] = {}
    spoken: dict[int, dict[str, Sizes]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for events in options.events:
            folder = (options.keep or Path(temporary)) / str(events)
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / "log.db").exists():
                asyncio.run(fill(folder / "part.db", events))
                (folder / "part.db").rename(folder / "log.db")
            if not (folder / "views.db").exists():
                asyncio.run(rebuild(folder / "log.db", folder / "part-views.db"))
                (folder / "part-views.db").rename(folder / "views.db")
            if options.fill:
                continue
            found[events] = asyncio.run(measure(folder, events, options.rounds, options.only))
            if not options.only:
                spoken[events] = asyncio.run(over_http(folder, options.rounds))
    for each in (found, spoken):
        if any(each.values()):
            table(each)
    if not options.fill and not options.only:
        report.write(headlines(found, spoken), options)
    return 0


if __name__ == "__main__":
    report.run(main)

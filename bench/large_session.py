"""One very large session on its page: `python bench/large_session.py [people] [events]` (2,000 and 50,000).

Fills a log and views with it, serves them in a process of its own, and prints what the page and the script's data take
the server (median of five, first byte to last), how many bytes they are on the wire, and what a warm rebuild took.
With `--keep FOLDER` the files stay, and `tracker serve --config FOLDER/config.toml` shows the session.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import aiohttp
import msgspec

from tests.running import READ, Running
from tracker.demo_calls import ISSUERS
from tracker.log.sqlite import SqliteLog
from tracker.projector import Projector
from tracker.sources import registry
from tracker.sources.contract import SourceSettings
from tracker.views.sqlite import SqliteViews

START = 1_790_000_000
LASTS = 7_200
ROOM = {"sid": "RM_large", "name": "all-hands"}
SESSION = "lk:RM_large"


def bodies(people: int, events: int, seed: int = 1) -> list[tuple[int, bytes]]:
    """(µs, body): everybody joins and leaves at moments of their own and publishes again and again in between."""
    chance = random.Random(seed)
    told: list[tuple[float, dict]] = [(0, {"event": "room_started", "room": room(0)})]
    pairs = max(0, events - 2 - 2 * people) // 2
    for n in range(people):
        joined = chance.uniform(1, LASTS * 0.7)
        left = chance.uniform(joined + 60, LASTS - 1)
        who = {"sid": f"PA_{n:06}", "identity": f"user-{n:04}", "name": f"Person {n:04}", "joinedAt": at(joined)}
        told.append(
            (joined, {"event": "participant_joined", "room": room(0), "participant": who | {"state": "ACTIVE"}})
        )
        told.append(
            (left, {"event": "participant_left", "room": room(0),
                    "participant": who | {"state": "DISCONNECTED", "disconnectReason": "CLIENT_INITIATED"}})
        )  # fmt: skip
        for k in range(pairs // people + (n < pairs % people)):
            began = chance.uniform(joined, left)
            ended = chance.uniform(began, left)
            kind = {"source": "MICROPHONE"} if k % 2 else {"type": "VIDEO", "source": "CAMERA"}
            track = {"sid": f"TR_{n:06}_{k:03}", "mimeType": "audio/red" if k % 2 else "video/VP8"} | kind
            owner = {"sid": who["sid"], "identity": who["identity"]}
            told.append((began, {"event": "track_published", "room": ROOM, "participant": owner, "track": track}))
            told.append((ended, {"event": "track_unpublished", "room": ROOM, "participant": owner, "track": track}))
    told.append((LASTS, {"event": "room_finished", "room": room(0)}))
    told.sort(key=lambda item: item[0])
    made = []
    for n, (seconds, body) in enumerate(told):
        tail = {"id": f"EV_{n:08}", "createdAt": at(seconds)}
        made.append(((START * 1_000_000 + int(seconds * 1e6)), msgspec.json.encode(body | tail)))
    return made


def at(seconds: float) -> str:
    """Whole seconds as protojson writes them."""
    return str(START + int(seconds))


def room(seconds: float) -> dict:
    """The room as LiveKit tells it in full."""
    return ROOM | {"creationTime": at(seconds), "creationTimeMs": str((START + int(seconds)) * 1000)}


async def fill(house: Running, people: int, events: int) -> float:
    """Log and views of the session; how long the views took, s."""
    source = registry.build(
        SourceSettings(
            name="lk", vendor="livekit", secrets=(), keys={ISSUERS["livekit"]: "a-secret-of-at-least-32-bytes-for-it"}
        )
    )
    log = await SqliteLog.open(house.log_path)
    given = bodies(people, events)
    for k in range(0, len(given), 5_000):
        await log.append_all(
            [
                source.admit(body, received_at=moment, proof={"scheme": "import"})
                for moment, body in given[k : k + 5_000]
            ]
        )
    views_path = house.folder / "views.db"
    await SqliteViews.create(views_path)
    views = await SqliteViews.open(views_path, writable=True)
    started = time.perf_counter()
    await Projector(log, views, now=lambda: START * 1_000_000).catch_up()
    took = time.perf_counter() - started
    await views.close()
    await log.close()
    return took


async def measured(web: aiohttp.ClientSession, url: str) -> tuple[float, int]:
    """Median milliseconds of five, and bytes on the wire."""
    took, size = [], 0
    for _ in range(5):
        started = time.perf_counter()
        async with web.get(url, headers=READ | {"Accept-Encoding": "gzip"}) as answer:
            body = await answer.read()
            assert answer.status == 200, body[:300]
            size = len(body)
        took.append((time.perf_counter() - started) * 1000)
    return statistics.median(took), size


async def main() -> None:
    """Fill, serve, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("people", type=int, nargs="?", default=2_000)
    parser.add_argument("events", type=int, nargs="?", default=50_000)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        house = Running(folder)
        code, _, complaint = await house.run("init")
        assert code == 0, complaint
        took = await fill(house, options.people, options.events)
        print(f"{options.people} people, {options.events} events; views made in {took:.1f} s")
        await house.start()
        base = f"{house.url}/sessions/{quote(SESSION, safe='')}"
        async with aiohttp.ClientSession(auto_decompress=False) as web:
            for path in (
                "",
                "?part=summary",
                "/lanes.json",
                "/events.json",
                "/timeline.jsonl",
                "/timeline.csv",
                "/attendance.csv",
            ):
                milliseconds, size = await measured(web, base + path)
                print(f"  {path or 'the page':16} {milliseconds:8.0f} ms {size / 1000:9.0f} kB")
        await house.stop()


if __name__ == "__main__":
    asyncio.run(main())

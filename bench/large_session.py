"""The page of one very large session: `python -m bench.large_session [people] [events]` (2,000 and 50,000).

Fills a log and views with one session and starts a server. Prints how long the page and the script's data take (median of
five, first byte to last), their bytes on the wire, and how long a warm rebuild took.
With Chromium (`apt install chromium`) it also opens the page and prints the time to the first picture, to lanes that can be
zoomed and to all events, and the length of frames while it scrolls and zooms.
With `--keep FOLDER` the files stay, and `tracker serve --config FOLDER/config.toml` serves the session.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import aiohttp
import msgspec

from bench import report
from tests.support.server import READ, Running
from tracker.demo.calls import ISSUERS
from tracker.log.sqlite.log import SqliteLog
from tracker.projector.projector import Projector
from tracker.sources import registry
from tracker.sources.contract import SourceSettings
from tracker.views.sqlite.views import SqliteViews

START = 1_790_000_000
LASTS = 7_200
ROOM = {"sid": "RM_large", "name": "all-hands"}
SESSION = "lk:RM_large"


def bodies(people: int, events: int, seed: int = 1) -> list[tuple[int, bytes]]:
    """The deliveries as (µs, body): each person joins and leaves at a random time and publishes repeatedly in between."""
    chance = random.Random(seed)
    messages: list[tuple[float, dict]] = [(0, {"event": "room_started", "room": room(0)})]
    pairs = max(0, events - 2 - 2 * people) // 2
    for n in range(people):
        joined = chance.uniform(1, LASTS * 0.7)
        left = chance.uniform(joined + 60, LASTS - 1)
        who = {"sid": f"PA_{n:06}", "identity": f"user-{n:04}", "name": f"Person {n:04}", "joinedAt": at(joined)}
        messages.append(
            (joined, {"event": "participant_joined", "room": room(0), "participant": who | {"state": "ACTIVE"}})
        )
        messages.append(
            (left, {"event": "participant_left", "room": room(0),
                    "participant": who | {"state": "DISCONNECTED", "disconnectReason": "CLIENT_INITIATED"}})
        )  # fmt: skip
        for k in range(pairs // people + (n < pairs % people)):
            began = chance.uniform(joined, left)
            ended = chance.uniform(began, left)
            kind = {"source": "MICROPHONE"} if k % 2 else {"type": "VIDEO", "source": "CAMERA"}
            track = {"sid": f"TR_{n:06}_{k:03}", "mimeType": "audio/red" if k % 2 else "video/VP8"} | kind
            owner = {"sid": who["sid"], "identity": who["identity"]}
            messages.append((began, {"event": "track_published", "room": ROOM, "participant": owner, "track": track}))
            messages.append((ended, {"event": "track_unpublished", "room": ROOM, "participant": owner, "track": track}))
    messages.append((LASTS, {"event": "room_finished", "room": room(0)}))
    messages.sort(key=lambda item: item[0])
    made = []
    for n, (seconds, body) in enumerate(messages):
        tail = {"id": f"EV_{n:08}", "createdAt": at(seconds)}
        made.append(((START * 1_000_000 + int(seconds * 1e6)), msgspec.json.encode(body | tail)))
    return made


def at(seconds: float) -> str:
    """Seconds as protojson writes them: a string of whole seconds."""
    return str(START + int(seconds))


def room(seconds: float) -> dict:
    """The room with all its fields, as LiveKit sends it."""
    return ROOM | {"creationTime": at(seconds), "creationTimeMs": str((START + int(seconds)) * 1000)}


async def fill(server: Running, people: int, events: int) -> float:
    """Write log and views of the session; returns how long the views took, s."""
    source = registry.build(
        SourceSettings(
            name="lk", vendor="livekit", secrets=(), keys={ISSUERS["livekit"]: "a-secret-of-at-least-32-bytes-for-it"}
        )
    )
    log = await SqliteLog.open(server.log_path)
    deliveries = bodies(people, events)
    for k in range(0, len(deliveries), 5_000):
        await log.append_all(
            [
                source.verify_trusted(body, received_at=moment, proof={"scheme": "import"})
                for moment, body in deliveries[k : k + 5_000]
            ]
        )
    views_path = server.folder / "views.db"
    await SqliteViews.create(views_path)
    views = await SqliteViews.open(views_path, writable=True)
    started = time.perf_counter()
    await Projector(log, views).catch_up()
    took = time.perf_counter() - started
    await views.close()
    await log.close()
    return took


async def measured(web: aiohttp.ClientSession, url: str) -> tuple[float, int]:
    """Returns the median of five requests in ms, and the bytes on the wire."""
    took, size = [], 0
    for _ in range(5):
        started = time.perf_counter()
        async with web.get(url, headers=READ | {"Accept-Encoding": "gzip"}) as answer:
            body = await answer.read()
            assert answer.status == 200, body[:300]
            size = len(body)
        took.append((time.perf_counter() - started) * 1000)
    return statistics.median(took), size


FRAMES = """(act) => new Promise((done) => {
    const [lanes, list] = [".lanes-scroll", ".events-scroll"].map((name) => document.querySelector(name));
    const frames = [];
    let [last, n] = [performance.now(), 0];
    const step = () => {
        const now = performance.now();
        frames.push(now - last);
        last = now;
        n += 1;
        if (act === "scroll the lanes") lanes.scrollTop += 60;
        if (act === "scroll the list") list.scrollTop += 300;
        if (act === "zoom") document.body.dispatchEvent(new KeyboardEvent("keydown", { key: n % 40 < 20 ? "+" : "-", bubbles: true }));
        if (n < 120) requestAnimationFrame(step);
        else done(frames.slice(3).sort((a, b) => a - b));
    };
    requestAnimationFrame(step);
})"""


async def browse(url: str) -> None:
    """Open the page in a browser and print its loading times."""
    path = shutil.which("chromium")
    if path is None:
        print("  no Chromium here: what a browser takes was not measured")
        return
    from playwright.async_api import async_playwright

    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = await browser.new_page(extra_http_headers=READ, viewport={"width": 1280, "height": 900})
        started = time.perf_counter()
        await page.goto(url, wait_until="commit")
        await page.wait_for_selector(".enhanced .lanes-view canvas")
        zoomable = time.perf_counter() - started
        while "more" in (await page.locator("#events-tools [role=status]").inner_text() or "more"):
            await asyncio.sleep(0.02)
        whole = time.perf_counter() - started
        painted = await page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        print(
            f"  in a browser: first picture {painted:.0f} ms, lanes to zoom {zoomable * 1000:.0f} ms, all events {whole * 1000:.0f} ms"
        )
        for act in ("scroll the lanes", "scroll the list", "zoom"):
            frames = await page.evaluate(FRAMES, act)
            late = sum(each > 34 for each in frames)
            print(
                f"  {act:16} frames: median {statistics.median(frames):.1f} ms, longest {frames[-1]:.0f} ms, {late} of {len(frames)} late"
            )
        await browser.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Print the figures; returns the exit code."""
    parser = report.parser(__doc__)
    parser.add_argument("people", type=int, nargs="?", default=2_000)
    parser.add_argument("events", type=int, nargs="?", default=50_000)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args(argv)
    if options.smoke:
        options.people, options.events = 10, 100
    asyncio.run(show(options))
    return 0


async def show(options: argparse.Namespace) -> None:
    """Fill, serve, measure, print."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        server = Running(folder)
        code, _, stderr = await server.run("init")
        assert code == 0, stderr
        took = await fill(server, options.people, options.events)
        print(f"{options.people} people, {options.events} events; views made in {took:.1f} s")
        await server.start()
        base = f"{server.url}/sessions/{quote(SESSION, safe='')}"
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
        if not options.smoke:
            await browse(base)
        await server.stop()


if __name__ == "__main__":
    report.run(main)

"""Random histories: mutated calls of every vendor give the same views live, rebuilt at once, and rebuilt in two parts.

A run plays 3,000 histories; `TRACKER_HISTORIES=100000` plays more. A failure names its seed:
`TRACKER_HISTORY_SEED=… pytest tests/flows/projector/test_projector_histories.py -k one_history` plays that one.
"""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import msgspec
import pytest

from tests.support.memory_log import MemoryLog
from tests.support.memory_views import MemoryViews
from tracker.demo.calls import VENDORS, whole_call
from tracker.demo.calls import settings as settings_of
from tracker.projector.merge import merge_parts
from tracker.projector.projector import Projector, compare_views
from tracker.sources import registry
from tracker.views.sqlite.views import SqliteViews

START = 1_790_000_000_000_000
SECRET = "x" * 40
CHUNKS = 30
EXAMPLES = int(os.environ.get("TRACKER_HISTORIES", "3000")) // CHUNKS
PARTS_EVERY = int(os.environ.get("TRACKER_PARTS_EVERY", "10"))
"""Every tenth history is also rebuilt in two parts, which needs files."""
ROOM_KEYS = {"sessionId", "roomId", "room_id", "name", "client_id", "roomName", "external-meeting-id"}
RUN_KEYS = {"uniqueSessionId", "sid", "session_id", "agent_session_id", "internal-meeting-id"}
JITTER = (0, 1, 400, 900, 1_000, 4_000, 9_000, 59_000, 61_000, 200_000, 4_600_000)
"""Milliseconds by which a time is moved."""
BASES: dict[tuple[str, int], list[Any]] = {}

SOURCES = {
    vendor: registry.build(settings_of(vendor, SECRET))
    for vendor in VENDORS
}  # fmt: skip


def calls(vendor: str, chance: random.Random) -> list[Any]:
    """(JSON, whether a form holds it, received at) of one to three calls, near to each other."""
    found = []
    start = 0
    for seed in range(chance.choice((1, 2, 2, 3))):
        start += chance.choice((0, 1, 3, 30, 170, 400, 5_000)) * 1_000_000
        key = (vendor, start * 10 + seed)
        if key not in BASES:
            BASES[key] = [(*read(sent.body), sent.at) for sent in whole_call(vendor, START + start, seed=seed)]
        found += BASES[key]
    return found


def read(body: bytes) -> tuple[Any, bool]:
    """The JSON of a body, and whether it is the `event` of a form."""
    if body.startswith(b"{"):
        return msgspec.json.decode(body), False
    return msgspec.json.decode(parse_qs(body.decode())["event"][0]), True


def written(body: Any, is_form: bool) -> bytes:
    """The body that holds this JSON."""
    encoded = msgspec.json.encode(body)
    return urlencode({"event": encoded, "domain": "bbb.example.org"}).encode() if is_form else encoded


def mutated(value: Any, chance: random.Random, key: str, runs: bool, often: float) -> Any:
    """The same JSON with one room, perhaps without run keys, and with some values moved, repeated or lost."""
    if isinstance(value, dict):
        return {
            name: mutated(inner, chance, name, runs, often)
            for name, inner in value.items()
            if (runs or name not in RUN_KEYS or (name == "sid" and "identity" in value)) and chance.random() > often / 4
        }
    if isinstance(value, list):
        return [mutated(inner, chance, key, runs, often) for inner in value]
    if key in ROOM_KEYS and isinstance(value, str):
        return "room" if chance.random() > often / 2 else "other"
    if chance.random() > often:
        return value
    if isinstance(value, str) and value.isdecimal() and len(value) >= 10:
        scale = 10 ** max(0, len(value) - 13) if len(value) > 10 else 1
        moved = chance.choice((-1, 1)) * chance.choice(JITTER) * scale // (1 if len(value) > 10 else 1000)
        return str(int(value) + moved)
    if isinstance(value, int) and not isinstance(value, bool) and value > 10**12:
        return value + chance.choice((-1, 1)) * chance.choice(JITTER)
    if isinstance(value, str) and key in RUN_KEYS:
        return chance.choice(("run-a", "run-b", value))
    return value


async def history(seed: int) -> tuple[MemoryLog, random.Random]:
    """A log of random deliveries of one vendor, or of two if the name of the source was given to another one."""
    chance = random.Random(seed)
    vendors = [VENDORS[seed % len(VENDORS)]]
    if chance.random() < 0.1:
        vendors.append(chance.choice(VENDORS))
    told = [
        (vendor, *each)
        for vendor in vendors
        for each in calls(vendor, chance)
        if chance.random() > chance.choice((0.1, 0.3))
    ]
    if chance.random() < 0.6:
        chance.shuffle(told)
    told = told[: chance.choice((3, 6, 12, 40))]
    runs, often = chance.random() < 0.5, chance.choice((0.0, 0.05, 0.2))
    log = MemoryLog()
    for vendor, body, is_form, at in told:
        received = at + chance.choice((0, 0, 0, 2_000_000, -90_000_000, 600_000_000))
        changed = written(mutated(body, chance, "", runs, often), is_form)
        await log.append(SOURCES[vendor].verify_trusted(changed, received_at=received, proof={"scheme": "import"}))
    return log, chance


async def built_live(log: MemoryLog, chance: random.Random) -> MemoryViews:
    views = MemoryViews()
    projector = Projector(log, views)
    head, until = await log.head(), 0
    while until < head:
        until = min(head, until + chance.choice((1, 1, 2, 3, 7)))
        await projector.catch_up(until=until)
        if chance.random() < 0.3:
            projector = Projector(
                log, views, batch_size=chance.choice((1, 2, 2_000)),
                deferred_sessions=chance.choice((0, 1, 3)),
            )  # fmt: skip
    return views


def content(views: MemoryViews) -> dict[str, Any]:
    sessions = {name: msgspec.structs.replace(rows, state=b"") for name, rows in views.sessions.items()}
    return {"sessions": sessions, "entries": views.entries, "marks": views.room_marks()}


async def play(seed: int) -> None:
    log, chance = await history(seed)
    live = await built_live(log, chance)
    rebuilt = MemoryViews()
    await Projector(log, rebuilt, deferred_sessions=chance.choice((0, 1_500))).catch_up()
    assert content(live) == content(rebuilt), f"seed {seed}"
    if chance.randrange(PARTS_EVERY) == 0 and await log.head() > 1:
        assert await differences_in_parts(log, chance) == [], f"seed {seed}"
    await log.close()


async def differences_in_parts(log: MemoryLog, chance: random.Random) -> list[str]:
    head = await log.head()
    ends = sorted(chance.sample(range(1, head), min(head - 1, chance.choice((1, 1, 2, 4)))))
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        folder = Path(name)
        whole = await SqliteViews.build(folder / "whole")
        await Projector(log, whole).catch_up()
        size = chance.choice((1, 3, 3_000))
        merged = await SqliteViews.build(folder / "merged")
        projector = Projector(log, merged, batch_size=size, deferred_sessions=chance.choice((0, 2)))
        await projector.catch_up(until=ends[0])
        for after, until in zip(ends, [*ends[1:], head], strict=True):
            part = await SqliteViews.build(folder / f"{after}", after=after)
            await Projector(log, part, batch_size=size).catch_up(until=until)
            await part.close_partial()
            await merge_parts(merged, folder / f"{after}", projector.load_facts)
        await whole.finish()
        await merged.finish()
        views = [await SqliteViews.open(folder / each, writable=False) for each in ("whole", "merged")]
        found = await compare_views(*views, limit=3)
        for each in views:
            await each.close()
    return found


@pytest.mark.parametrize("chunk", range(CHUNKS))
async def test_a_random_history_gives_the_same_views_live_rebuilt_and_rebuilt_in_parts(chunk: int) -> None:
    first = random.Random(f"{chunk}").randrange(10**6) * 1_000_000
    for seed in range(first, first + EXAMPLES):
        await play(seed)


@pytest.mark.parametrize("seed", [1013, 1136, 1268, 20028056])
async def test_histories_that_once_differed(seed: int) -> None:
    await play(seed)


@pytest.mark.skipif("TRACKER_HISTORY_SEED" not in os.environ, reason="names no seed")
async def test_one_history() -> None:
    await play(int(os.environ["TRACKER_HISTORY_SEED"]))

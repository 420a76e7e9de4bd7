"""One server of the ingest benchmark: `python -m bench.ingest_server MODE VENDOR FOLDER LOOP`. Prints its port, then serves.

bare           aiohttp reads the body and answers 200
verify         the same after checking the vendor's proof
no-tree        all of ingest, with a log without leaves
tracker        all of ingest, as it ships
sealed         the same with encryption
eventsourcing  checks the proof, then appends to the eventsourcing library's SQLite recorder
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from aiohttp import web

from tracker.projector import gc_tuning
from tracker.domain.deliveries import Delivery
from tracker.demo.calls import ISSUERS
from tracker.ingest.webhooks import Ingest
from tracker.log.sqlite import log as engine
from tracker.log.sqlite.log import SqliteLog
from tracker.config.encryption import MasterKey
from tracker.log.keys.key_store import KeyStore
from tracker.server.metrics import Metrics
from tracker.sources import registry
from tracker.sources.contract import Source, SourceSettings
from tracker.server.request_tracking import InFlightRequests
from tracker.server.sources import shipped_dictionaries

SECRET = "bench-secret-of-at-least-32-bytes!!"  # noqa: S105 - signs nothing real
NOW = 1_790_000_000_000_000
"""Deliveries are signed for this time (µs), and the server's clock always shows it."""

Handler = Callable[[web.Request], Awaitable[web.Response]]


def source_of(vendor: str) -> Source:
    """The source that every mode verifies with."""
    keys = {ISSUERS[vendor]: SECRET} if vendor in ISSUERS else {}
    secrets = () if keys else (SECRET,)
    return registry.build(SourceSettings(name="s", vendor=vendor, secrets=secrets, keys=keys))


def delivery_of(request: web.Request, body: bytes) -> Delivery:
    """The delivery that ingest makes of a request."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    query = dict(request.query) if request.query_string else {}
    return Delivery(
        source="s", body=body, received_at=NOW, headers=headers, query=query,
        token=request.match_info.get("token"),
    )  # fmt: skip


async def bare(request: web.Request) -> web.Response:
    """Read and answer."""
    await request.read()
    return web.json_response({"position": 1, "duplicate": False})


def verifying(source: Source) -> Handler:
    """Read, verify, answer."""

    async def answer(request: web.Request) -> web.Response:
        source.verify(delivery_of(request, await request.read()))
        return web.json_response({"position": 1, "duplicate": False})

    return answer


def eventsourced(source: Source, folder: Path) -> Handler:
    """Read, verify, append to the eventsourcing library's SQLite recorder in a thread, answer."""
    from eventsourcing.persistence import StoredEvent  # noqa: PLC0415 - only this mode needs it
    from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore  # noqa: PLC0415

    recorder = SQLiteApplicationRecorder(SQLiteDatastore(str(folder / "events.db")))
    recorder.create_table()

    async def answer(request: web.Request) -> web.Response:
        verified = source.verify(delivery_of(request, await request.read()))
        stored = StoredEvent(uuid4(), 1, verified.event, verified.body)
        positions = await asyncio.to_thread(recorder.insert_events, [stored])
        return web.json_response({"position": (positions or [0])[0], "duplicate": False})

    return answer


async def tracked(app: web.Application, source: Source, folder: Path, mode: str) -> SqliteLog:
    """Set up all of ingest."""
    await SqliteLog.create(folder / "log.db")
    vault = None
    if mode == "sealed":
        master = MasterKey("bench", os.urandom(32))
        await KeyStore.create(folder / "keys.db", [master])
        vault = await KeyStore.open(folder / "keys.db", [master], shipped_dictionaries())
    if mode == "no-tree":
        engine.appended_tiles = _no_leaves  # type: ignore[assignment]
    metrics = Metrics(lambda: NOW)
    log = await SqliteLog.open(folder / "log.db", key_store=vault, observe=metrics)
    Ingest({"s": source}, log, max_body_bytes=1 << 22, now=lambda: NOW, observer=metrics).add_routes(app)
    return log


def _no_leaves(frontier: Any, rows: list[Any], _commitments: Any) -> tuple[list[Any], list[Any]]:
    frontier.size += len(rows)
    return [], []


async def main() -> None:
    """Serve until SIGTERM."""
    mode, vendor, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    ours = mode in {"no-tree", "tracker", "sealed"}
    app = web.Application(client_max_size=1 << 22, middlewares=[InFlightRequests().count] if ours else [])
    source = source_of(vendor)
    log: SqliteLog | None = None
    if ours:
        log = await tracked(app, source, folder, mode)
    else:
        answer = {"bare": lambda: bare, "verify": lambda: verifying(source)}.get(
            mode, lambda: eventsourced(source, folder)
        )()
        app.router.add_post("/hooks/s", answer)
        app.router.add_post("/hooks/s/{token}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(runner.addresses[0][1], flush=True)
    with gc_tuning.collect_rarely(gc_tuning.SERVING) if ours else contextlib.nullcontext():
        await stop.wait()
    await runner.cleanup()
    if log is not None:
        await log.close()


if __name__ == "__main__":
    if sys.argv[4] == "uvloop":
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())

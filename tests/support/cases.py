"""Cases from the field: deliveries as a vendor sends them, and what the answers of the API have to say about them.

A case (`tests/samples/cases/*.json`) has `steps`. `send` is a body: in its texts, `@s:N`, `@ms:N`, `@us:N`, `@ns:N` stand for
`START` plus N seconds in that unit, as the text that protojson writes, `@i:N` for whole seconds and `@n:N` for milliseconds
as a number, `@z:N` for ISO 8601. With `{"send": …, "query": …}` the hook's address has a query. `look` has
`checks`: a path to `get`, an expression over the answer `r`, and what it is (`expect`). `T(N)` is `HH:MM:SS` of `START` plus N.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from tests.support.memory_log import MemoryLog
from tests.support.memory_views import MemoryViews
from tests.support.samples import SAMPLES, SECRET
from tracker.api.app import add_routes
from tracker.api.auth import SCOPES, Access, AccessKey, mint_token
from tracker.api.route import ApiContext
from tracker.demo.calls import SOURCES, delivery, settings
from tracker.domain.deliveries import Delivery
from tracker.domain.ordering import causal_rank
from tracker.domain.rows import EntryRow, SessionRows
from tracker.ingest.webhooks import Ingest
from tracker.projector.projector import Projector
from tracker.server.metrics import Metrics
from tracker.sources import registry
from tracker.sources.contract import Source
from tracker.sources.sample_calls import SampleDelivery
from tracker.views.sqlite.views import SqliteViews

PATHS = sorted((SAMPLES / "cases").glob("*.json"))
START = 1_790_000_000
"""Seconds since the epoch."""

KEY = AccessKey("main", "HS256", "a-read-secret-of-at-least-thirty-two-bytes")
VENDOR_OF_HOOK = {hook: vendor for vendor, hook in SOURCES.items()}
_TIME = re.compile(r"@(s|ms|us|ns|i|n|z):([0-9.]+)")
_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9, "i": 0, "n": 3}


def read(path: Path) -> dict[str, Any]:
    """A case."""
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def deliveries(case: dict[str, Any]) -> list[SampleDelivery]:
    """What the vendor sends, in order."""
    return [_delivery(step["send"], step.get("query")) for step in case["steps"] if "send" in step]


def _delivery(body: dict[str, Any], query: dict[str, str] | None = None) -> SampleDelivery:
    filled = fill(body)
    milliseconds = filled.get("timestamp") or filled.get("creationDate") or START * 1_000
    at = float(filled.get("createdAt") or filled.get("created_at") or milliseconds / 1_000)
    return SampleDelivery(
        event=str(filled.get("event")), body=json.dumps(filled).encode(), at=round(at * 1_000_000), query=query or {}
    )


def fill(value: Any) -> Any:
    """The value with all times filled in."""
    if isinstance(value, dict):
        return {name: fill(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [fill(inner) for inner in value]
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return value
    if found[1] == "z":
        return iso(float(found[2]))
    moment = int((START + Decimal(found[2])) * 10 ** _DIGITS[found[1]])
    return moment if found[1] in "in" else str(moment)


def clock(seconds: str) -> str:
    """`HH:MM:SS` of `START` plus these seconds."""
    return datetime.fromtimestamp(START + float(seconds), UTC).strftime("%H:%M:%S")


def source_of(hook: str) -> Source:
    """The source that receives the deliveries of a case."""
    return registry.build(settings(VENDOR_OF_HOOK[hook], SECRET, name=hook))


def signed(hook: str, sent: SampleDelivery) -> Delivery:
    """The delivery as it arrives."""
    return delivery(VENDOR_OF_HOOK[hook], sent, SECRET, name=hook, received_at=sent.at)


class CaseServer:
    """A server with one source: hooks, projector and API."""

    def __init__(self, hook: str, client: TestClient[Any, Any], projector: Projector, clock: dict[str, int]) -> None:
        self._hook = hook
        self._client = client
        self._projector = projector
        self._clock = clock

    async def send(self, sent: SampleDelivery) -> None:
        """Send a delivery, which has to be recorded, and project it."""
        self._clock["now"] = sent.at
        delivery = signed(self._hook, sent)
        token = f"/{delivery.token}" if delivery.token else ""
        async with self._client.post(
            f"/hooks/{self._hook}{token}", data=sent.body, headers=delivery.headers, params=sent.query
        ) as answer:
            assert answer.status == 200, await answer.text()
        await self._projector.catch_up()

    async def get(self, path: str) -> Any:
        """The answer of the API."""
        minted = mint_token(KEY, scopes=SCOPES, sources=None, expires_s=600, now=self._clock["now"])
        async with self._client.get(path, headers={"Authorization": f"Bearer {minted}"}) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def play(self, case: dict[str, Any]) -> list[str]:
        """Send and look, step by step. What was not right, in words."""
        wrong: list[str] = []
        for step in case["steps"]:
            if "send" in step:
                await self.send(_delivery(step["send"], step.get("query")))
                continue
            for check in step["checks"]:
                names = {"r": await self.get(check["get"]), "T": clock}
                found = json.loads(json.dumps(eval(check["expr"], names)))  # noqa: S307 - our own files
                if found != check["expect"]:
                    wrong.append(f"{step['look']}: {check['expr']} is {found}, not {check['expect']}: {check['why']}")
        return wrong


@asynccontextmanager
async def case_server(hook: str, folder: Path) -> AsyncIterator[CaseServer]:
    """A server for the deliveries of one hook; its views are in `folder`."""
    now = {"now": START * 1_000_000}
    await SqliteViews.create(folder / "views.db")
    log, views = MemoryLog(), await SqliteViews.open(folder / "views.db", writable=True)

    async def unready() -> list[str]:
        return []

    app = web.Application()
    Ingest(
        {hook: source_of(hook)},
        log,
        max_body_bytes=1 << 22,
        now=lambda: now["now"],
        observer=Metrics(lambda: now["now"]),
    ).add_routes(app)
    context = ApiContext(
        log=log, views=views, access=Access([KEY], now=lambda: now["now"]), now=lambda: now["now"], stuck_after={},
        vendors={hook: VENDOR_OF_HOOK[hook]}, unready_reasons=unready, render_metrics=lambda: (b"", "text/plain"),
    )  # fmt: skip
    add_routes(app, context)
    try:
        async with TestClient(TestServer(app)) as client:
            yield CaseServer(hook, client, Projector(log, views), now)
    finally:
        await views.close()
        await log.close()


Message = dict[str, Any] | tuple[dict[str, Any], dict[str, str]]
"""A body, or a body with the query of its hook address. `received` (seconds after `START`) is when it arrives, else its own time."""


def to_send(message: Message) -> SampleDelivery:
    """The delivery of a message."""
    body, query = message if isinstance(message, tuple) else (message, {})
    received = body.get("received")
    sent = _delivery({name: value for name, value in body.items() if name != "received"})
    at = sent.at if received is None else round((START + received) * 1_000_000)
    return SampleDelivery(event=sent.event, body=sent.body, at=at, query=query)


async def project(hook: str, messages: Sequence[Message]) -> MemoryViews:
    """The views of these deliveries, in this order."""
    return await project_deliveries(hook, [to_send(message) for message in messages])


async def project_deliveries(hook: str, sent: Sequence[SampleDelivery]) -> MemoryViews:
    """The views of these deliveries, in this order."""
    source, log, views = source_of(hook), MemoryLog(), MemoryViews()
    for each in sent:
        await log.append(source.verify(signed(hook, each)))
    await Projector(log, views, batch_size=3).catch_up()
    await log.close()
    return views


async def session_of(hook: str, messages: Sequence[Message]) -> SessionRows:
    """The rows of the only session of these deliveries."""
    views = await project(hook, messages)
    (rows,) = views.sessions.values()
    return rows


async def timeline_of(hook: str, messages: Sequence[Message]) -> list[EntryRow]:
    """What the timeline of the only session of these deliveries shows, in order."""
    views = await project(hook, messages)
    (rows,) = views.sessions.values()
    shown = [saved.row for saved in views.entries.values() if not saved.row.hidden] + list(rows.gaps)
    return sorted(shown, key=lambda entry: (entry.at, causal_rank(entry.kind), entry.kind, entry.subject_id or ""))


def seconds(at: int | None) -> float | None:
    """A time of a row as seconds after `START`."""
    return None if at is None else at / 1_000_000 - START


def iso(after: float) -> str:
    """Seconds after `START` in ISO 8601."""
    moment = datetime.fromtimestamp(START + after, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def room(sid: str = "RM_1", created: float = 0, **more: Any) -> dict[str, Any]:
    """The room of a delivery to the hook `lk`."""
    return {"sid": sid, "name": "standup", "creationTime": f"@s:{created}", "creationTimeMs": f"@ms:{created}"} | more


def lk(event: str, at: float, **fields: Any) -> dict[str, Any]:
    """A delivery to the hook `lk`, with an id of its own."""
    key = json.dumps([event, at, fields], sort_keys=True)
    return {"event": event, "room": room(), "id": f"EV_{key}", "createdAt": f"@s:{at}"} | fields


def person(sid: str = "PA_a", joined: float | None = None, **more: Any) -> dict[str, Any]:
    """The participant of a delivery to the hook `lk`; `joined` to the second."""
    stated = {} if joined is None else {"joinedAt": f"@s:{joined}"}
    return {"sid": sid, "identity": sid.removeprefix("PA_")} | stated | more


def track(at: float | None = None, sid: str = "TR_1") -> dict[str, Any]:
    """The track of a delivery to the hook `lk`; `at` is its version."""
    return {"sid": sid, "type": "VIDEO"} | ({} if at is None else {"version": {"unixMicro": f"@us:{at}"}})


def pnm(event: str, at: float, **fields: Any) -> dict[str, Any]:
    """A delivery to the hook `pnm`, with an id of its own."""
    key = json.dumps([event, at, fields], sort_keys=True)
    head = {"sid": "0000-1", "room_id": "room01", "creation_time": "@s:0"}
    return {"event": event, "room": head, "id": key, "created_at": f"@s:{at}"} | fields

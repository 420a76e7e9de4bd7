"""Every sample is sent over HTTP with the clock at its time, and becomes the entries that the vendor's page lists."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from tests.support.cluster import Cluster
from tests.support.replicas import level, nodes
from tests.support.declarations import understand
from tests.support.samples import Sample, kinds_of, samples
from tracker.demo.calls import VENDORS, settings
from tracker.domain.deliveries import Record
from tracker.ingest.webhooks import Ingest
from tracker.log.contract import Log
from tracker.log.jetstream.log import JetstreamLog
from tests.support.memory_log import MemoryLog
from tracker.log.sqlite.log import SqliteLog
from tracker.server.metrics import Metrics
from tracker.projector.projector import Projector
from tracker.sources import registry
from tests.support.memory_views import MemoryViews


WITHOUT_SUBJECT = {"livekit:34"}
"""`{"event": "room_started"}` and nothing else: recorded, and shown as unknown."""


def name_of(sample: Sample) -> str:
    return f"{sample.vendor}-{sample.key}-{abs(hash(sample.secret))}"


def source_of(sample: Sample) -> Any:
    found = settings(sample.vendor, sample.secret, name=name_of(sample))
    keys = {sample.key: sample.secret} if found.keys else {}
    return registry.build(msgspec.structs.replace(found, keys=keys))


class Engine(NamedTuple):
    """The log for the hooks, and the log that is projected: in a cluster, of another node."""

    log: Log
    read: Log


@pytest.fixture(params=["memory", "sqlite", "jetstream"])
def place(request: pytest.FixtureRequest) -> Cluster | str:
    """The cluster, which is started only for the tests that need it, or the name of an engine."""
    return request.getfixturevalue("cluster") if request.param == "jetstream" else request.param


@pytest.fixture
async def engine(place: Cluster | str, tmp_path: Path) -> AsyncIterator[Engine]:
    if isinstance(place, Cluster):
        async with nodes(place, tmp_path, "a", "b") as (first, second):
            yield Engine(first, second)
        return
    if place == "sqlite":
        await SqliteLog.create(tmp_path / "log.db")
    log = await SqliteLog.open(tmp_path / "log.db") if place == "sqlite" else MemoryLog()
    yield Engine(log, log)
    await log.close()


@pytest.mark.parametrize("vendor", VENDORS)
async def test_every_sample_becomes_the_entries_that_the_page_lists(vendor: str, engine: Engine) -> None:
    mine = [sample for sample in samples() if sample.vendor == vendor]
    frozen = {"now": 0}
    understand(*map(name_of, mine))
    log, views = engine.log, MemoryViews()
    sources = {name_of(sample): source_of(sample) for sample in mine}
    metrics = Metrics(lambda: frozen["now"])
    app = web.Application()
    Ingest(sources, log, max_body_bytes=1 << 22, now=lambda: frozen["now"], observer=metrics).add_routes(app)
    positions: dict[int, Sample] = {}
    async with TestClient(TestServer(app)) as client:
        for sample in mine:
            frozen["now"] = sample.now
            answer = await client.post(
                f"/hooks/{name_of(sample)}{sample.suffix}", data=sample.body, headers=sample.headers
            )
            reply = await answer.json()
            assert answer.status == 200, (sample.name, reply)
            positions.setdefault(reply["position"], sample)
    if isinstance(log, JetstreamLog) and isinstance(engine.read, JetstreamLog):
        await level(log, engine.read)
    await Projector(engine.read, views).catch_up()

    kinds_by_position: dict[int, set[str]] = {}
    for saved in views.entries.values():
        kinds_by_position.setdefault(saved.row.position, set()).add(saved.row.kind)
    expected = kinds_of(vendor)
    for position, sample in positions.items():
        record = await engine.read.record(position)
        assert record is not None
        assert record.body == sample.body
        kinds = {"unknown"} if sample.name in WITHOUT_SUBJECT else expected.get(record.event.lower(), {"unknown"})
        assert kinds_by_position.get(position, set()) <= kinds, (
            sample.name,
            record.event,
            kinds_by_position.get(position),
            kinds,
        )
        assert kinds_by_position.get(position), (sample.name, record.event, "left no entry")


@pytest.mark.parametrize("vendor", VENDORS)
def test_the_page_lists_every_event_of_the_samples_but_the_invented_one(vendor: str) -> None:
    known = kinds_of(vendor)
    for sample in samples():
        if sample.vendor == vendor:
            source = source_of(sample)
            event = source.verify_trusted(sample.body, received_at=sample.now, proof={}).event.lower()
            facts = {type(fact).__struct_config__.tag for fact in registry.interpret(_record(source, sample))}
            assert event in known or facts == {"unknown"}, (sample.name, event, facts)


def _record(source: Any, sample: Sample) -> Any:
    verified = source.verify_trusted(sample.body, received_at=sample.now, proof={})
    fields = {name: getattr(verified, name) for name in verified.__struct_fields__}
    return Record(position=1, **fields)

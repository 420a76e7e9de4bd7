"""Views built live, in any batch sizes and over restarts, equal rebuilt views: rows, counts and search results."""

from __future__ import annotations

import asyncio
import gc
import random
from pathlib import Path

import pytest

from tracker.projector import projector as projector_module
from tracker.config.declarations import shipped_declaration
from tracker.demo.calls import DECLARATIONS, VENDORS, whole_call
from tracker.demo.calls import settings as settings_of
from tracker.errors import LogUnavailable
from tracker.log.declaration_records import make_declaration_record
from tracker.log.sqlite.log import SqliteLog
from tracker.projector.projector import REBUILD_BATCH_RECORDS, REBUILD_DEFERRED_SESSIONS, Projector, compare_views
from tracker.sources import registry
from tracker.views.contract import SessionFilter
from tracker.views.sqlite.views import SqliteViews

START = 1_700_000_000_000_000


async def mixed_log(path: Path, chance: random.Random) -> SqliteLog:
    """A log of interleaved calls of all vendors, with some deliveries lost and some late."""
    await SqliteLog.create(path)
    log = await SqliteLog.open(path)
    sent = []
    for vendor in VENDORS:
        source = registry.build(settings_of(vendor, "x" * 40, name=vendor))
        for seed in range(6):
            for each in whole_call(vendor, START + seed * 400_000_000, seed=seed):
                if chance.random() > 0.1:
                    late = chance.random() < 0.1
                    at = each.at + (chance.randrange(600_000_000) if late else 0)
                    sent.append((at, source.verify_trusted(each.body, received_at=at, proof={"scheme": "import"})))
    sent.sort(key=lambda pair: pair[0])
    for vendor, name in DECLARATIONS.items():
        await log.append(make_declaration_record(vendor, shipped_declaration(name), START, 0))
    await log.append_all([each for _, each in sent])
    return log


async def search_results(views: SqliteViews) -> dict[str, list[str]]:
    found = {}
    for query in ("alice", "room", "standup", "a", "web", "bob"):
        rows, _ = await views.find_sessions(SessionFilter(q=query), limit=1000, cursor=None)
        found[query] = [row.id for row in rows]
    return found


@pytest.mark.parametrize("seed", range(4))
async def test_views_built_live_in_any_batches_over_restarts_equal_rebuilt_views(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    log = await mixed_log(tmp_path / "log.db", chance)
    head, until = await log.head(), 0
    await SqliteViews.create(tmp_path / "live.db")
    live = await SqliteViews.open(tmp_path / "live.db", writable=True)
    projector = Projector(log, live)
    while until < head:
        until = min(head, until + chance.choice([1, 1, 2, 5, 17, 60]))
        await projector.catch_up(until=until)
        if chance.random() < 0.1:
            await live.close()
            live = await SqliteViews.open(tmp_path / "live.db", writable=True)
            projector = Projector(log, live, batch_size=chance.choice([1, 3, 2_000]))
    await assert_equals_rebuild(live, log, tmp_path)
    for each in (live, log):
        await each.close()


async def assert_equals_rebuild(live: SqliteViews, log: SqliteLog, folder: Path) -> None:
    fresh = await SqliteViews.build(folder / "rebuilt.db")
    await Projector(
        log, fresh, batch_size=REBUILD_BATCH_RECORDS, deferred_sessions=REBUILD_DEFERRED_SESSIONS
    ).catch_up()
    await fresh.finish()
    await fresh.close()
    rebuilt = await SqliteViews.open(folder / "rebuilt.db", writable=False)
    assert await compare_views(live, rebuilt) == []
    expected = await search_results(rebuilt)
    assert await search_results(live) == expected
    assert any(expected.values())
    await rebuilt.close()


class Interrupted(LogUnavailable):
    pass


@pytest.mark.parametrize("seed", range(4))
async def test_readers_see_an_open_transaction_only_after_its_end_and_a_failed_one_never(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(projector_module, "TRANSACTION_RECORDS", 50)
    monkeypatch.setattr(projector_module, "DEFERRED_SESSIONS", 3)
    log = await mixed_log(tmp_path / "log.db", chance)
    head = await log.head()
    await SqliteViews.create(tmp_path / "live.db")
    live = await SqliteViews.open(tmp_path / "live.db", writable=True)
    reader = await SqliteViews.open(tmp_path / "live.db", writable=False)
    projector = Projector(log, live, batch_size=4)
    observed: set[tuple[int, int]] = set()
    failures = 0
    while projector.position < head:
        breaks_at = projector.position + chance.randrange(1, 120)

        def interrupt(position: int, _: int, breaks_at: int = breaks_at) -> None:
            if position >= breaks_at:
                raise Interrupted("in the middle")

        try:
            await projector.catch_up(interrupt)
        except Interrupted:
            failures += 1
        shown, entries = await reader.projected_position(), await reader.entries_after(0, 0, limit=100_000)
        observed.add((shown, max((entry.position for entry in entries), default=0)))
        assert projector.position == shown
    assert failures > 1
    assert all(last <= shown for shown, last in observed)
    # Every transaction ended at its maximum of records, or at the head.
    assert {shown % 52 for shown, _ in observed if shown < head} == {0}
    await assert_equals_rebuild(live, log, tmp_path)
    for each in (reader, live, log):
        await each.close()


async def test_a_long_catch_up_shows_progress_to_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projector_module, "TRANSACTION_SECONDS", 0.0)
    log = await mixed_log(tmp_path / "log.db", random.Random(1))
    await SqliteViews.create(tmp_path / "live.db")
    live = await SqliteViews.open(tmp_path / "live.db", writable=True)
    projector = Projector(log, live, batch_size=10)
    shown: list[int] = []
    head = await projector.catch_up(lambda position, _: shown.append(projector.position))
    assert shown == [*range(10, head, 10), head]
    await assert_equals_rebuild(live, log, tmp_path)
    for each in (live, log):
        await each.close()


async def test_a_comparison_that_stops_early_leaves_nothing_open(tmp_path: Path) -> None:
    log = await mixed_log(tmp_path / "log.db", random.Random(1))
    views: list[SqliteViews] = []
    for name, until in (("short.db", 100), ("long.db", await log.head())):
        await SqliteViews.create(tmp_path / name)
        views.append(await SqliteViews.open(tmp_path / name, writable=True))
        await Projector(log, views[-1]).catch_up(until=until)
    errors: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(str(context)))
    assert len(await compare_views(*views, limit=3)) == 3
    for each in (*views, log):
        await each.close()
    gc.collect()
    await asyncio.sleep(0.05)
    assert errors == []

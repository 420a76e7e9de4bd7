"""A snapshot of the views does not change when rows are saved or another file is swapped in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import bundles
from tests.support.bundles import START, configured, filled
from tracker.domain import clock
from tracker.server import stores
from tracker.demo.calls import whole_call
from tracker.errors import ViewsMissing
from tracker.projector.projector import Projector
from tracker.views.sqlite.snapshot import open_snapshot
from tracker.server.sources import build_sources


async def test_later_saves_and_swaps_are_not_seen(tmp_path: Path) -> None:
    config = configured(tmp_path / "log", sealed=False)
    await filled(config, ["livekit"])
    calls = whole_call("livekit", START + 600_000_000, seed=3)
    async with open_snapshot(config.views_path) as before:
        at = await before.projected_position()
        dumped = [row async for row in before.dump(positions=True)]
        sources = build_sources(config)
        async with stores.reading_log(config) as log, stores.views_at(config.views_path, writable=True) as live:
            await log.append_all(
                [sources["lk"].verify_trusted(each.body, received_at=each.at, proof={}) for each in calls]
            )
            await Projector(log, live).catch_up()
            assert await live.projected_position() == at + len(calls)
        assert await before.projected_position() == at
        await bundles.append(config, [("plugnmeet", each) for each in whole_call("plugnmeet", START)])
        assert [row async for row in before.dump(positions=True)] == dumped
        assert [row.source for row in await before.sources()] == ["lk"]
    async with open_snapshot(config.views_path) as after:
        assert [row.source for row in await after.sources()] == ["lk", "pnm"]


async def test_missing_views_are_not_created(tmp_path: Path) -> None:
    with pytest.raises(ViewsMissing):
        async with open_snapshot(tmp_path / "none.db"):
            pass
    assert not (tmp_path / "none.db").exists()

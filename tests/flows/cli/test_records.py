"""Exports and evidence bundles: only their owner may read them, whatever the umask."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import bundles
from tracker.cli.main import main


@pytest.fixture(params=[0o000, 0o022])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_an_export_and_a_bundle_are_private(tmp_path: Path) -> None:
    config = bundles.configured(tmp_path / "tracker")
    asyncio.run(bundles.filled(config, ["livekit"]))
    (session,) = asyncio.run(bundles.sessions(config))
    export, bundle = tmp_path / "lk.jsonl", tmp_path / "it.zip"
    assert main(["export", "--config", str(config.path), "--source", "lk", "--out", str(export)]) == 0
    assert main(["export", "--config", str(config.path), "--evidence", session, "--out", str(bundle)]) == 0
    assert {stat.S_IMODE(path.stat().st_mode) for path in (export, bundle)} == {0o600}

"""Only their owner may read the files of a log, whatever the umask, also those of an earlier version."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contracts.log_contract import delivery
from tracker.config.encryption import MasterKey
from tracker.log.keys.key_store import KeyStore
from tracker.log.sqlite.log import SqliteLog
from tracker.views.contract import Changes
from tracker.views.sqlite.file import copy_file, move_aside
from tracker.views.sqlite.views import SqliteViews


@pytest.fixture(params=[0o000, 0o022, 0o077], autouse=True)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def modes(folder: Path, *, but: str = "lock") -> set[int]:
    return {path.stat().st_mode & 0o777 for path in folder.iterdir() if not path.name.endswith(but)}


async def test_a_log_and_its_keys_are_private_with_their_wals(tmp_path: Path) -> None:
    master = MasterKey("m", bytes(32))
    await SqliteLog.create(tmp_path / "log.db")
    await KeyStore.create(tmp_path / "keys.db", [master])
    log = await SqliteLog.open(tmp_path / "log.db", key_store=await KeyStore.open(tmp_path / "keys.db", [master]))
    await log.append(delivery("a"))
    assert {path.name for path in tmp_path.iterdir()} >= {
        "log.db",
        "log.db-wal",
        "log.db-shm",
        "keys.db",
        "keys.db-wal",
    }
    assert modes(tmp_path) == {0o600}
    await log.close()
    assert modes(tmp_path) == {0o600}


async def test_views_copies_and_damaged_views_are_private_with_their_wals(tmp_path: Path) -> None:
    path = tmp_path / "views.db"
    await SqliteViews.create(path)
    views = await SqliteViews.open(path, writable=True)
    await views.save(Changes(position=1))
    copy_file(path, tmp_path / "copy.db")
    assert (tmp_path / "views.db-wal").exists()
    assert modes(tmp_path) == {0o600}
    await views.close()
    built = await SqliteViews.build(tmp_path / "views.db-rebuild")
    await built.save(Changes(position=1))
    assert modes(tmp_path) == {0o600}
    await built.finish()
    path.write_bytes(b"")
    move_aside(path)
    assert modes(tmp_path) == {0o600}


async def test_files_of_an_earlier_version_become_private(tmp_path: Path) -> None:
    await SqliteLog.create(tmp_path / "log.db")
    await SqliteViews.create(tmp_path / "views.db")
    for name in ("log.db", "views.db"):
        os.chmod(tmp_path / name, 0o644)
    log = await SqliteLog.open(tmp_path / "log.db")
    views = await SqliteViews.open(tmp_path / "views.db", writable=True)
    await log.append(delivery("a"))
    await views.save(Changes(position=1))
    assert modes(tmp_path) == {0o600}
    await log.close()
    await views.close()

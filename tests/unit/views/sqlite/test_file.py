"""Damaged views and foreign files are recognised and moved aside; all other files stay."""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.contracts.log_contract import delivery
from tracker.config.encryption import MasterKey
from tracker.errors import ViewsDamaged, ViewsUnavailable
from tracker.log.keys.key_store import KeyStore
from tracker.log.sqlite.log import SqliteLog
from tracker.views.contract import Changes
from tracker.views.sqlite.file import MAX_DAMAGED, find_inode, is_views_file, move_aside, remove_damaged
from tracker.views.sqlite.views import SqliteViews


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    await SqliteViews.create(tmp_path / "views.db")
    return tmp_path / "views.db"


def foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as other:
        other.executescript("CREATE TABLE mine (n); INSERT INTO mine VALUES (7)")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut in half": cut,
    "cut within a page": lambda path: os.truncate(path, 5_000),
    "only a header": lambda path: os.truncate(path, 100),
    "random": lambda path: path.write_bytes(os.urandom(70_000)),
    "text": lambda path: path.write_text("no database" * 900),
    "zeros": lambda path: path.write_bytes(bytes(40_960)),
    "foreign": foreign,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_a_damaged_or_foreign_file_is_refused_and_moved_aside(path: Path, damage) -> None:  # noqa: ANN001
    damage(path)
    content = path.read_bytes()
    path.with_name("views.db-wal").write_bytes(b"its wal")
    assert not is_views_file(path)
    aside = move_aside(path)
    assert aside is not None
    assert aside.name.startswith("views.db.damaged-")
    assert aside.read_bytes() == content
    assert aside.stat().st_mode & 0o777 == 0o600
    assert not path.exists()
    assert not path.with_name("views.db-wal").exists()
    await SqliteViews.create(path)
    views = await SqliteViews.open(path, writable=True)
    assert await views.projected_position() == 0
    await views.close()


CHANGES = {
    "DROP TABLE entries": "the index 'entries_of_anchor' is missing",
    "DROP TABLE session_texts": "the index 'texts_of_session' is missing",
    "DROP INDEX sessions_newest": "the index 'sessions_newest' is missing",
    "ALTER TABLE sessions RENAME COLUMN joined TO joiners": "the index 'sessions_by_end' was changed",
    "ALTER TABLE sessions ADD COLUMN more TEXT": "the table 'sessions' was changed",
    "CREATE TRIGGER x BEFORE INSERT ON entries BEGIN SELECT RAISE(IGNORE); END": "the trigger 'x' was added",
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_changed_schema_is_damage_at_open_and_while_open(path: Path, change: str) -> None:
    views = await SqliteViews.open(path, writable=True)
    await views.save(Changes(position=1))
    with closing(sqlite3.connect(path)) as file:
        file.executescript(change)
    with pytest.raises(ViewsDamaged, match=re.escape(f"damaged ({CHANGES[change]}): run `tracker rebuild`")):
        await views.save(Changes(position=2))
    assert views.damage is not None
    await views.close()
    with pytest.raises(ViewsDamaged, match=re.escape(CHANGES[change])):
        await SqliteViews.open(path, writable=False)


async def test_statistics_and_a_vacuum_are_no_damage(path: Path) -> None:
    views = await SqliteViews.open(path, writable=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.executescript("ANALYZE; VACUUM")
    await views.save(Changes(position=1))
    assert await views.projected_position() == 1
    await views.close()


async def test_a_column_that_is_gone_is_damage_for_readers(path: Path) -> None:
    views = await SqliteViews.open(path, writable=False)
    with closing(sqlite3.connect(path)) as file:
        file.execute("ALTER TABLE sources RENAME COLUMN records TO recorded")
    with pytest.raises(ViewsDamaged, match="the table 'sources' was changed"):
        await views.sources()
    assert views.damage is not None
    await views.close()


async def test_a_log_a_key_store_and_a_directory_are_never_moved(tmp_path: Path) -> None:
    log, keys, folder = tmp_path / "log.db", tmp_path / "keys.db", tmp_path / "folder"
    await SqliteLog.create(log)
    opened = await SqliteLog.open(log)
    await opened.append(delivery("a"))
    await opened.close()
    await KeyStore.create(keys, [MasterKey("m", bytes(32))])
    folder.mkdir()
    os.mkfifo(tmp_path / "pipe")
    for path, what in ((log, "log"), (keys, "key store"), (folder, "directory"), (tmp_path / "pipe", "pipe")):
        inode = find_inode(path)
        with pytest.raises(ViewsUnavailable, match=f"views.path names a {what}.*not touched|unable to open"):
            move_aside(path)
        assert find_inode(path) == inode
    assert {each.name for each in tmp_path.iterdir() if "damaged" in each.name} == set()


async def test_a_file_that_was_replaced_in_between_stays(path: Path) -> None:
    damaged = find_inode(path)
    await SqliteViews.create(path)
    assert move_aside(path, damaged) is None
    assert path.exists()
    path.unlink()
    assert move_aside(path) is None


async def test_only_the_newest_damaged_views_stay_and_foreign_files_are_never_deleted(path: Path) -> None:
    foreign(path)
    first = move_aside(path)
    moved: list[Path | None] = []
    for _ in range(MAX_DAMAGED + 2):
        await SqliteViews.create(path)
        cut(path)
        moved.append(move_aside(path))
    assert sorted(path.parent.glob("*.damaged-*")) == sorted([first, *moved[2:]])
    remove_damaged(path)
    assert list(path.parent.glob("*.damaged-*")) == [first]


async def test_without_rights_or_space_nothing_is_damaged(path: Path) -> None:
    views = await SqliteViews.open(path, writable=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        other.execute("ROLLBACK")
    assert views.damage is None
    await views.close()


async def test_damage_is_noticed_while_reading(tmp_path: Path, path: Path) -> None:
    with closing(sqlite3.connect(path)) as file:
        ((page, size),) = file.execute(
            "SELECT rootpage, (SELECT page_size FROM pragma_page_size) FROM sqlite_schema WHERE name = 'entries'"
        )
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(os.urandom(size))
    views = await SqliteViews.open(path, writable=True)
    with pytest.raises(ViewsDamaged):
        await views.entries_after(0, 0, limit=9)
    assert views.damage is not None
    assert views.damage[0] == find_inode(path)
    await views.close()

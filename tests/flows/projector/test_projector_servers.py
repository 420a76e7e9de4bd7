"""Log files of several servers in one source: the start of one server's process ends no call of another."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

from tests.support.memory_log import MemoryLog
from tests.support.memory_views import MemoryViews
from tests.support.paths import SAMPLES
from tracker.domain.rows import End
from tracker.ingest.file_import import import_files
from tracker.projector.projector import Projector
from tracker.sources import registry
from tracker.sources.contract import SourceSettings

NOW = 1_786_000_000_000_000
T = 1_714_532_400_000
SOURCE = registry.build(SourceSettings(name="ov", vendor="openvidu", secrets=("s",)))


def created(name: str, second: float) -> str:
    at = T + round(second * 1000)
    return f'{{"sessionCreated":{{"sessionId":"{name}","uniqueSessionId":"{name}_{at}","timestamp":{at}}}}}'


def joined(name: str, began: float, second: float, connection: str = "con_A") -> str:
    run = f"{name}_{T + round(began * 1000)}"
    at = T + round(second * 1000)
    return (
        f'{{"participantJoined":{{"sessionId":"{name}","uniqueSessionId":"{run}","timestamp":{at},'
        f'"participantId":"{connection}","connectionId":"{connection}","location":"unknown","platform":"x"}}}}'
    )


async def ends(*files: Path, batch: int = 2_000) -> dict[str, End | None]:
    log, views = MemoryLog(), MemoryViews()
    await import_files(SOURCE, log, files, now=lambda: NOW)
    await Projector(log, views, batch_size=batch).catch_up()
    await log.close()
    return {rows.session.room_id or "": rows.session.end for rows in views.sessions.values()}


def written(folder: Path, name: str, *lines: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"CDR.{name}.log").write_text("\n".join(lines) + "\n", "utf-8")
    return folder / f"CDR.{name}.log"


async def test_a_call_on_one_master_is_not_ended_by_the_other_masters_first_event() -> None:
    files = sorted((SAMPLES / "field" / "openvidu-11").rglob("*.log"))
    for order in permutations(files):
        for batch in (1, 2_000):
            assert (await ends(*order, batch=batch))["allhands"] is None


async def test_a_restart_of_a_master_ends_its_own_calls_only(tmp_path: Path) -> None:
    files = [
        written(tmp_path / "a", "2024-05-01_03-00-00", created("ours", 1), joined("ours", 1, 2)),
        written(tmp_path / "b", "2024-05-01_03-00-00", created("theirs", 1), joined("theirs", 1, 2, "con_B")),
        written(tmp_path / "a", "2024-05-01_09-00-00", created("later", 500)),
    ]
    for order in permutations(files):
        found: Any = await ends(*order)
        assert found["theirs"] is None
        assert (found["ours"].reason, found["ours"].provenance) == ("server_shutdown", "inferred")


async def test_two_masters_that_write_into_one_folder_at_the_same_time_end_nothing(tmp_path: Path) -> None:
    files = [
        written(
            tmp_path / "cdr", "2024-05-01_03-00-00", created("ours", 1), joined("ours", 1, 2), created("other", 900)
        ),
        written(tmp_path / "cdr", "2024-05-01_03-05-00", created("theirs", 300)),
    ]
    for order in permutations(files):
        for batch in (1, 2_000):
            assert (await ends(*order, batch=batch))["ours"] is None


async def test_people_in_a_call_without_an_end_left_at_the_latest_when_it_was_over() -> None:
    source = registry.build(SourceSettings(name="ov", vendor="openvidu", secrets=("s",)))
    log, views = MemoryLog(), MemoryViews()
    for line in (created("room", 1), joined("room", 1, 2), created("room", 500)):
        await log.append(source.verify_trusted(line.encode(), received_at=NOW, proof={}))
    await Projector(log, views).catch_up()
    await log.close()
    first = min(views.sessions.values(), key=lambda rows: rows.session.begins_at)
    (connection,) = first.connections
    assert first.session.end is not None
    assert connection.leave is not None
    assert first.session.end.not_after == connection.leave.not_after == (T + 500_000) * 1_000

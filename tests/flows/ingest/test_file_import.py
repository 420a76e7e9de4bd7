"""Importing files: every line is recorded once or listed in the report."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tests.support.paths import SAMPLES
from tracker.domain.deliveries import Record
from tracker.ingest import file_import
from tracker.ingest.file_import import FileReport, Progress, import_files
from tests.support.memory_log import MemoryLog
from tracker.sources.contract import SourceSettings
from tracker.sources.openvidu.source import OpenviduSource


NOW = 1_786_000_000_000_000
SOURCE = OpenviduSource(SourceSettings(name="ov", vendor="openvidu", secrets=("s",)))
PREFIX = "[INFO] 2020-05-27 19:47:05,730 [worker] io.openvidu.server.cdr.CDRLoggerFile - "


def created(number: int, session: str = "S") -> str:
    return json.dumps({"sessionCreated": {"sessionId": f"{session}{number}", "timestamp": 1714770057250 + number}})


async def imported(log: MemoryLog, *files: Path, progress: Progress | None = None) -> list[FileReport]:
    return await import_files(SOURCE, log, files, now=lambda: NOW, progress=progress)


async def records(log: MemoryLog) -> list[Record]:
    return [record async for batch in log.read(0) for record in batch]


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


async def test_importing_twice_adds_nothing(log: MemoryLog, tmp_path: Path) -> None:
    file = tmp_path / "CDR.2024-05-03_21-00-57.log"
    file.write_text("".join(created(n) + "\n" for n in range(1200)))
    (first,) = await imported(log, file)
    (second,) = await imported(log, file)
    assert (first.lines, first.new, first.known) == (1200, 1200, 0)
    assert (second.lines, second.new, second.known) == (1200, 0, 1200)
    assert await log.head() == 1200


async def test_a_record_has_the_file_line_and_run_it_came_from(log: MemoryLog, tmp_path: Path) -> None:
    file = tmp_path / "CDR.2024-05-03_21-00-57.log"
    file.write_text("\n" + created(1) + "\n")
    await imported(log, file)
    (record,) = await records(log)
    assert json.loads(record.proof) == {
        "scheme": "import",
        "file": file.name,
        "line": 2,
        "run": "2024-05-03_21-00-57",
        "folder": tmp_path.name,
    }
    assert (record.origin, record.received_at, record.body) == ("import", NOW, created(1).encode())


async def test_an_exported_record_keeps_its_hints_and_its_run(log: MemoryLog, tmp_path: Path) -> None:
    file = tmp_path / "export.jsonl"
    proofs = (
        {"scheme": "url_token", "key": 0, "sid": "s-1", "rid": "r-1"},
        {"run": "21-00-57", "jwt": "x"},
        {"sid": 5},
        [],
    )
    lines = [json.dumps({"source": "ov", "proof": proof, "body_text": created(n)}) for n, proof in enumerate(proofs)]
    file.write_text("\n".join(lines) + "\n")
    await imported(log, file)
    proofs_in_log = [json.loads(record.proof) for record in await records(log)]
    assert [list(proof.items())[3:] for proof in proofs_in_log] == [
        [("sid", "s-1"), ("rid", "r-1")],
        [("run", "21-00-57")],
        [],
        [],
    ]


async def test_every_line_is_counted(log: MemoryLog, tmp_path: Path) -> None:
    file = tmp_path / "docker.log"
    lines = [
        "openvidu-server_1  | [INFO] 2020-05-27 19:47:00,000 [main] io.openvidu.server.OpenViduServer - Started",
        "openvidu-server_1  | " + PREFIX + created(1),
        "",
        "openvidu-server_1  | " + PREFIX + created(2)[:-9],
        'openvidu-server_1  | [INFO] 2020-05-27 19:47:05,730 [t] RpcConnection - {"id":1,"method":"ping"}',
        "openvidu-server_1  | " + PREFIX + created(1),
    ]
    file.write_text("\n".join(lines) + "\n")
    (report,) = await imported(log, file)
    assert (report.new, report.known, report.skipped, report.unreadable) == (1, 1, 2, [4])
    assert report.lines == report.new + report.known + report.skipped + len(report.unreadable)


async def test_garbage_is_listed_by_line_and_does_not_stop_the_import(log: MemoryLog, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    garbage = b"\r\nno json\n\x00\xff\xfe\x80\n[1]\n"
    file.write_bytes(b"\xef\xbb\xbf" + created(1).encode() + garbage + created(2).encode())
    (report,) = await imported(log, file)
    assert (report.lines, report.new, report.unreadable, report.partial, report.error) == (5, 2, [2, 3, 4], None, None)


async def test_an_incomplete_last_line_is_recorded_by_the_next_import(log: MemoryLog, tmp_path: Path) -> None:
    file = tmp_path / "CDR.2024-05-03_21-00-57.log"
    file.write_text(created(1) + "\n" + created(2)[:30])
    (report,) = await imported(log, file)
    assert (report.new, report.partial, report.unreadable) == (1, 2, [])
    file.write_text(created(1) + "\n" + created(2) + "\n")
    (report,) = await imported(log, file)
    assert (report.new, report.known, report.partial) == (1, 1, None)


async def test_a_cdr_line_and_its_webhook_are_one_record(log: MemoryLog, tmp_path: Path) -> None:
    cdr = json.loads(created(1))
    webhook = tmp_path / "webhooks.jsonl"
    webhook.write_text(json.dumps(cdr["sessionCreated"] | {"event": "sessionCreated"}) + "\n")
    file = tmp_path / "CDR.2024-05-03_21-00-57.log"
    file.write_text(created(1) + "\n")
    reports = await imported(log, webhook, file)
    assert [(report.new, report.known) for report in reports] == [(1, 0), (0, 1)]


async def test_gzip_files_and_folders_are_read_oldest_run_first(log: MemoryLog, tmp_path: Path) -> None:
    (tmp_path / "CDR.2024-05-04_09-00-00.log").write_text(created(2) + "\n")
    with gzip.open(tmp_path / "CDR.2024-05-03_21-00-57.log.gz", "wb") as packed:
        packed.write(created(1).encode() + b"\n")
    (tmp_path / "notes.txt").write_text("not read")
    first, second, notes = await imported(log, tmp_path)
    assert [Path(report.file).name[4:14] for report in (first, second)] == ["2024-05-03", "2024-05-04"]
    assert (Path(notes.file).name, notes.lines, bool(notes.not_read)) == ("notes.txt", 0, True)
    assert [json.loads(record.body)["sessionCreated"]["sessionId"] for record in await records(log)] == ["S1", "S2"]


async def test_a_damaged_archive_is_reported_and_its_readable_part_recorded(log: MemoryLog, tmp_path: Path) -> None:
    whole = gzip.compress("".join(created(n, "X" * 50) + "\n" for n in range(3000)).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b.jsonl.gz").write_bytes(b"this is no archive")
    first, second = await imported(log, tmp_path)
    assert 0 < first.new < 3000
    assert first.error
    assert (second.new, bool(second.error)) == (0, True)


async def test_a_missing_file_is_reported_and_the_others_are_imported(log: MemoryLog, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(created(1) + "\n")
    (tmp_path / "empty").mkdir()
    missing, found, folder = await imported(log, tmp_path / "none.log", file, tmp_path / "empty")
    assert missing.error == "No such file or directory"
    assert (found.new, found.error) == (1, None)
    assert folder.error == "a folder without log files or JSON Lines in it"


async def test_a_too_long_line_is_unreadable_and_the_next_one_is_recorded(
    log: MemoryLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_import, "MAX_LINE_BYTES", 4096)
    file = tmp_path / "a.jsonl"
    file.write_text('{"a":"' + "x" * 20_000 + '"}\n' + created(1) + "\n")
    (report,) = await imported(log, file)
    assert (report.lines, report.new, report.unreadable) == (2, 1, [1])


async def test_progress_reaches_the_size_of_the_file(log: MemoryLog, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("".join(created(n) + "\n" for n in range(1001)))
    seen: list[tuple[str, int, int]] = []
    await imported(log, file, progress=lambda *at: seen.append(at))
    assert len(seen) == 3
    assert seen[-1] == ("a.jsonl", file.stat().st_size, file.stat().st_size)


async def test_every_cdr_sample_is_recorded(log: MemoryLog) -> None:
    (report,) = await imported(log, SAMPLES / "openvidu2-cdr.jsonl")
    assert report.new + report.known == 62
    assert report.unreadable == []

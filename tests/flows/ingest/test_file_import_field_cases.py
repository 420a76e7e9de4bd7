"""Importing real files of operators: servers' logs in every wrapping, applications' logs, rotated files.

Law: of any file only events are recorded, each once, and every other line is counted under a reason.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.memory_log import MemoryLog
from tests.support.paths import SAMPLES
from tracker.domain.deliveries import Record
from tracker.ingest.file_import import FileReport, import_files
from tracker.sources import registry
from tracker.sources.contract import SourceSettings

FIELD = SAMPLES / "field"
NOW = 1_786_000_000_000_000
CREATED = '{"sessionCreated":{"sessionId":"S","timestamp":1714770057250}}'
WEBHOOK = '{"sessionId":"S","timestamp":1714770057250,"event":"sessionCreated"}'
PREFIX = "[INFO] 2020-05-27 19:47:05,730 [t] io.openvidu.server.cdr.CDRLoggerFile - "
ELSEWHERE = "[INFO] 2020-05-27 19:47:05,730 [t] io.openvidu.server.rest.SessionRestController - "


async def imported(log: MemoryLog, *files: Path, vendor: str = "openvidu", examples: bool = False) -> list[FileReport]:
    source = registry.build(SourceSettings(name="src", vendor=vendor))
    return await import_files(source, log, files, now=lambda: NOW, examples=examples)


async def imported_text(tmp_path: Path, *lines: str, name: str = "a.log", vendor: str = "openvidu") -> FileReport:
    file = tmp_path / name
    file.write_text("".join(line + "\n" for line in lines), "utf-8")
    (report,) = await imported(MemoryLog(), file, vendor=vendor)
    assert report.lines == report.new + report.known + report.skipped + len(report.unreadable)
    assert sum(report.reasons.values()) == report.skipped + len(report.unreadable)
    return report


async def records(log: MemoryLog) -> list[Record]:
    return [record async for batch in log.read(0) for record in batch]


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


# the cases from the field


async def test_a_pro_servers_log_gives_each_event_once_and_no_statistics(log: MemoryLog) -> None:
    (report,) = await imported(log, FIELD / "openvidu-04" / "a-openvidu-server.log")
    assert (report.new, report.known, report.unreadable) == (6, 6, [])
    assert {record.event for record in await records(log)} == {
        "sessionCreated", "participantJoined", "signalSent", "filterEventDispatched", "participantLeft",
        "sessionDestroyed",
    }  # fmt: skip


async def test_dockers_json_file_gives_the_events_inside(log: MemoryLog) -> None:
    (report,) = await imported(log, FIELD / "openvidu-05" / "b-container-json.log")
    assert (report.new, report.known, report.unreadable) == (4, 0, [])
    assert all(record.body.startswith(b'{"') and b'"log"' not in record.body for record in await records(log))


async def test_an_applications_own_json_is_skipped(log: MemoryLog) -> None:
    (report,) = await imported(log, FIELD / "openvidu-18" / "spring.log")
    assert (report.lines, report.new, report.skipped, report.unreadable) == (4, 2, 2, [])


async def test_a_rotated_file_of_a_folder_is_read_before_the_file_it_was_rotated_from(log: MemoryLog) -> None:
    reports = await imported(log, FIELD / "openvidu-10" / "d")
    assert [(Path(report.file).suffix, report.new) for report in reports] == [(".1", 4), (".log", 4)]


async def test_latin_webhooks_and_the_utf_8_file_of_the_same_calls_share_what_is_equal(log: MemoryLog) -> None:
    first, second, _ = await imported(
        log,
        FIELD / "openvidu-03" / "webhooks-latin1.txt",
        FIELD / "openvidu-03" / "CDR.2020-09-13_08-00-00.log",
        FIELD / "openvidu-03" / "CDR.2020-09-24_08-00-00.log",
    )
    # Two ends and events with only Latin letters are equal; a join, a leave and a signal are damaged.
    assert (first.new, second.new, second.known) == (7, 3, 4)


# what is an event


@pytest.mark.parametrize(
    "line",
    [
        '{"appointment":{"id":7}}',
        '{"sessionCreated":"yes"}',
        '{"sessionCreated":{"sessionId":"S"}}',
        '{"sessionCreated":{"sessionId":"S","timestamp":"now"}}',
        '{"event":"sessionCreated","sessionId":"S"}',
        '{"event":"participantJoined","timestamp":1714770057250}',
        '{"event":"login","timestamp":1714770057250}',
        '{"event":"participantJoined","sessionId":"S","timestamp":1714770057250,"level":"info","msg":"sent"}',
        '{"elastic_type":"kms","event":"sessionCreated","sessionId":"S","timestamp":1714770057250}',
        '{"id":1,"method":"ping"}',
        "{}",
    ],
)
async def test_json_that_is_no_event_is_never_recorded(line: str, tmp_path: Path) -> None:
    alone = await imported_text(tmp_path, line, name="a.jsonl")
    assert (alone.new, len(alone.reasons)) == (0, 1)
    for before in (PREFIX, ELSEWHERE, "web-1  | ", "2021-03-21 11:51:46.300 DEBUG x : Saved "):
        if "login" not in line and "participantJoined" not in line:
            assert (await imported_text(tmp_path, before + line)).new == 0


async def test_an_unknown_event_enters_from_a_cdr_file_and_from_its_logger_but_not_from_another_log(
    tmp_path: Path,
) -> None:
    unknown = '{"holdMusicStarted":{"sessionId":"S","timestamp":1714770057250}}'
    assert (await imported_text(tmp_path, unknown, name="CDR.2024-05-03_21-00-57.log")).new == 1
    assert (await imported_text(tmp_path, PREFIX + unknown)).new == 1
    assert (await imported_text(tmp_path, unknown, name="webhooks.jsonl")).new == 1
    assert (await imported_text(tmp_path, ELSEWHERE + unknown)).new == 0


async def test_a_line_of_json_that_is_no_event_is_listed_with_its_reason(tmp_path: Path) -> None:
    report = await imported_text(tmp_path, WEBHOOK, '{"hello":1}', name="a.jsonl")
    assert (report.new, report.unreadable) == (1, [2])
    assert report.reasons == {"no event of OpenVidu 2: it names no event": 1}


VENDORS_LINES = {
    "livekit": ['{"event":"room_started","room":"a"}', '{"event":"login","id":"1"}', '{"room":{"sid":"RM_1"}}'],
    "plugnmeet": ['{"event":"artifact_created"}', '{"event":"user_created","user":{"id":1}}', "{}"],
    "openvidu_meet": [
        '{"event":"meetingStarted"}',
        '{"event":"meetingStarted","creationDate":1}',
        '{"creationDate":1,"data":{}}',
    ],
    "streamrec": ['{"status":"ok"}', '{"type":"candidate","candidate":"x"}', '{"status":"paid","client_id":"c"}'],
}


@pytest.mark.parametrize("vendor", sorted(VENDORS_LINES))
async def test_every_vendor_distinguishes_its_events_from_an_applications_json(vendor: str, tmp_path: Path) -> None:
    report = await imported_text(tmp_path, *VENDORS_LINES[vendor], name="a.jsonl", vendor=vendor)
    assert (report.new, report.unreadable) == (0, [1, 2, 3])


async def test_a_record_of_another_vendor_is_not_imported(tmp_path: Path) -> None:
    exported = json.dumps({"vendor": "livekit", "dedupe_key": "k", "body_text": WEBHOOK})
    assert (await imported_text(tmp_path, exported, name="a.jsonl")).unreadable == [1]


async def test_every_exported_record_is_imported(tmp_path: Path) -> None:
    exported = json.dumps({"vendor": "openvidu", "dedupe_key": "k", "body_text": "no json"})
    assert (await imported_text(tmp_path, exported, name="a.jsonl")).new == 1


# wrappings

WRAPPED = {
    "docker": json.dumps({"log": PREFIX + CREATED + "\n", "stream": "stdout", "time": "t"}),
    "journald": json.dumps({"MESSAGE": PREFIX + CREATED, "_PID": "1"}),
    "journald, as bytes": json.dumps({"MESSAGE": list((PREFIX + CREATED).encode())}),
    "journald, the event alone": json.dumps({"MESSAGE": CREATED}),
    "CRI": "2024-05-01T03:00:04.1Z stdout F " + PREFIX + CREATED,
    "compose": "openvidu-server-1  | " + PREFIX + CREATED,
    "compose, with times": "openvidu-server-1  | 2024-05-01T03:00:04.123Z " + PREFIX + CREATED,
    "compose, in colour": "\x1b[36mopenvidu-server-1  | \x1b[0m" + PREFIX + CREATED,
    "kubectl": "[pod/openvidu-0/server] " + PREFIX + CREATED,
    "syslog": "<30>May  1 03:00:04 host docker/openvidu[812]: " + PREFIX + CREATED,
    "syslog of 2009": "<30>1 2024-05-01T03:00:04Z host openvidu 812 - - " + PREFIX + CREATED,
    "docker logs -t": "2024-05-01T03:00:04.123456789Z " + PREFIX + CREATED,
    "fluentd": json.dumps({"log": PREFIX + CREATED, "container_name": "/ov", "source": "stdout"}),
    "a collector": json.dumps({"@timestamp": "t", "message": PREFIX + CREATED, "host": {"name": "a"}}),
    "spring, as json": json.dumps({"level": "DEBUG", "message": "OpenVidu event " + WEBHOOK}),
}


@pytest.mark.parametrize("how", WRAPPED)
async def test_an_event_is_the_same_record_in_every_wrapping(how: str, tmp_path: Path, log: MemoryLog) -> None:
    (tmp_path / "plain.jsonl").write_text(WEBHOOK + "\n")
    (tmp_path / "wrapped.log").write_text(WRAPPED[how] + "\n")
    _, report = await imported(log, tmp_path / "plain.jsonl", tmp_path / "wrapped.log")
    assert (report.lines, report.known, report.reasons) == (1, 1, {})


async def test_an_event_that_docker_split_is_one_record(tmp_path: Path, log: MemoryLog) -> None:
    event = json.dumps({"signalSent": {"sessionId": "S", "timestamp": 1714770057250, "data": "x y" * 20_000}})
    text = PREFIX + event + "\n"
    pieces = [text[n : n + 16_384] for n in range(0, len(text), 16_384)]
    lines = [json.dumps({"log": piece, "stream": "stdout", "time": "t"}) for piece in pieces]
    (tmp_path / "a-json.log").write_text("\n".join(lines) + "\n")
    (report,) = await imported(log, tmp_path / "a-json.log")
    assert (report.lines, report.new) == (1, 1)
    (record,) = await records(log)
    assert record.body == event.encode()
    assert json.loads(record.proof)["line"] == 1


async def test_an_incomplete_line_is_reported_as_still_being_written(tmp_path: Path) -> None:
    file = tmp_path / "a-json.log"
    file.write_text(json.dumps({"log": PREFIX + CREATED[:30], "stream": "stdout", "time": "t"}))
    (report,) = await imported(MemoryLog(), file)
    assert (report.new, report.partial, report.unreadable) == (0, 1, [])


EVENTS = [
    CREATED,
    WEBHOOK,
    '{"sessionDestroyed":{"sessionId":"S","timestamp":1714770057300,"startTime":1714770057250}}',
]
NOISE = [
    "Started OpenViduServer in 4.2 seconds",
    "\tat io.openvidu.Server.main(Server.java:1)",
    "<SESSIONID, TOKENS>: {trening={wss://x}}",
    '{"id":3,"method":"ping"}',
    '{"duration":0.0,"sessionId":"S","status":"started"}',
    "{broken",
    "",
]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(st.tuples(st.sampled_from(EVENTS + NOISE), st.sampled_from([PREFIX, ELSEWHERE, ""])), max_size=12),
    how=st.sampled_from(["plain", "docker", "journald", "cri", "compose"]),
)
def test_only_events_are_recorded_and_every_other_line_is_counted(
    lines: Sequence[tuple[str, str]], how: str, tmp_path: Path
) -> None:
    def wrapped(text: str) -> str:
        match how:
            case "docker":
                return json.dumps({"log": text + "\n", "stream": "stdout", "time": "t"})
            case "journald":
                return json.dumps({"MESSAGE": text})
            case "cri":
                return f"2024-05-01T03:00:04.1Z stdout F {text}"
            case "compose":
                return f"ov-1  | {text}"
            case _:
                return text

    log = MemoryLog()
    file = tmp_path / "server.log"
    file.write_text("".join(wrapped(prefix + text) + "\n" for text, prefix in lines))
    (report,) = asyncio.run(imported(log, file))
    recorded = [text for text, _ in lines if text in EVENTS]
    assert report.new + report.known == len(recorded)
    assert {record.body.decode() for record in asyncio.run(records(log))} <= set(recorded)
    assert report.lines == len(recorded) + report.skipped + len(report.unreadable)
    assert sum(report.reasons.values()) == report.skipped + len(report.unreadable)


async def test_the_lines_before_the_first_line_of_a_log_are_lines_of_a_log(tmp_path: Path) -> None:
    banner = ["====", " OpenVidu {", PREFIX + CREATED[:-9], PREFIX + CREATED, "{broken"]
    report = await imported_text(tmp_path, *banner)
    assert (report.new, report.skipped, report.unreadable) == (1, 2, [3, 5])
    text = '{"signalSent":{"sessionId":"S","timestamp":1714770057250,"data":"[INFO] text"}}'
    assert (await imported_text(tmp_path, "no log", text)).unreadable == [1]


@pytest.mark.parametrize("cut", [1, 2, 9])
async def test_a_part_of_a_damaged_event_is_never_recorded(cut: int, tmp_path: Path) -> None:
    event = '{"holdMusicStarted":{"sessionId":"S","timestamp":1714770057250,"more":{"x":{"timestamp":1714770057250}}}}'
    for before in ("", PREFIX, ELSEWHERE):
        report = await imported_text(tmp_path, before + event[:-cut], name="CDR.2024-05-03_21-00-57.log")
        assert report.new == 0
        assert report.unreadable == ([1] if before != ELSEWHERE else report.unreadable)


# how a file is written

CREATED_2 = CREATED.replace('"S"', '"Zoë"')
EXPORTS = {
    "an array": lambda events: json.dumps(events),
    "an array of several lines": lambda events: json.dumps(events, indent=2),
    "an array with one event a line": lambda events: "[\n" + ",\n".join(map(json.dumps, events)) + "\n]\n",
    "objects of several lines": lambda events: "\n".join(json.dumps(each, indent=4) for each in events) + "\n",
    "a JSON text sequence": lambda events: "".join(f"\x1e{json.dumps(each)}\n" for each in events),
    "an application's log": lambda events: "".join(
        f"[10:00:00] webhook received {{7}} {json.dumps(each, indent=2)}\n[10:00:00] stored\n" for each in events
    ),
    "docker, objects of several lines": lambda events: "".join(
        json.dumps({"log": line + "\n", "stream": "stdout", "time": "t"}) + "\n"
        for each in events
        for line in json.dumps(each, indent=2).split("\n")
    ),
    "kubectl logs --timestamps, objects of several lines": lambda events: "".join(
        f"2024-05-01T03:00:04.1Z {line}\n" for each in events for line in json.dumps(each, indent=2).split("\n")
    ),
    "journalctl, objects of several lines": lambda events: "".join(
        f"May  1 03:00:04 host node[81]: {line}\n" for each in events for line in json.dumps(each, indent=2).split("\n")
    ),
    "syslog in ISO 8601, objects of several lines": lambda events: "".join(
        f"2024-05-01T03:00:04.1+02:00 host node[81]: {line}\n"
        for each in events
        for line in json.dumps(each, indent=2).split("\n")
    ),
    "pm2, objects of several lines": lambda events: "".join(
        f"0|app  | {line}\n" for each in events for line in json.dumps(each, indent=2).split("\n")
    ),
    "one after another": lambda events: "".join(map(json.dumps, events)) + "\n" + "\n",
    "with text after it": lambda events: "".join(f"12:00:00 received '{json.dumps(each)}' (200)\n" for each in events),
    "journalctl -o json-pretty": lambda events: "".join(
        json.dumps({"_PID": "81", "MESSAGE": json.dumps(each)}, indent="\t") + "\n" for each in events
    ),
    "journalctl -o json-sse": lambda events: "".join(
        f"data: {json.dumps({'_PID': '81', 'MESSAGE': json.dumps(each)})}\n\n" for each in events
    ),
    "journalctl -o export": lambda events: "".join(f"_PID=81\nMESSAGE={json.dumps(each)}\n\n" for each in events),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "CRLF", "CR", "gzip"])
@pytest.mark.parametrize("how", EXPORTS)
async def test_events_are_found_however_a_file_is_written(
    how: str, encoding: str, tmp_path: Path, log: MemoryLog
) -> None:
    text = EXPORTS[how]([json.loads(WEBHOOK), json.loads(CREATED_2)])
    ends = {"CRLF": "\r\n", "CR": "\r"}
    content = text.replace("\n", ends.get(encoding, "\n")).encode(encoding if encoding.startswith("utf") else "utf-8")
    (tmp_path / "export.json").write_bytes(gzip.compress(content) if encoding == "gzip" else content)
    (report,) = await imported(log, tmp_path)
    assert (report.new, report.unreadable, report.partial, report.error) == (2, [], None, None)
    assert [json.loads(record.body) for record in await records(log)] == [json.loads(WEBHOOK), json.loads(CREATED_2)]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(how=st.sampled_from(sorted(EXPORTS)), part=st.floats(0, 1), more=st.booleans())
def test_of_a_file_that_was_cut_every_whole_event_is_recorded_and_nothing_else(
    how: str, part: float, more: bool, tmp_path: Path
) -> None:
    events = [json.loads(CREATED.replace('"S"', f'"S{n}"')) for n in range(4)]
    whole = EXPORTS[how](events)
    cut = whole[: int(len(whole) * part)]
    file, log = tmp_path / "a.log", MemoryLog()
    file.write_text(cut + ("\n" + CREATED + "\n" if more else ""))
    (report,) = asyncio.run(imported(log, file))
    found = [json.loads(record.body) for record in asyncio.run(records(log))]
    after = [json.loads(CREATED)] if more else []
    # Of arrays and of objects over several lines, an event may end where the next line would have said so.
    assert found in [events[:n] + after for n in range(5)]
    missing = cut.count("1714770057250") - (len(found) - len(after))
    assert 0 <= missing <= 1
    assert report.lines == report.new + report.skipped + len(report.unreadable) + (report.partial is not None)


async def test_a_cut_gzip_gives_the_events_before_the_cut_and_is_reported(tmp_path: Path, log: MemoryLog) -> None:
    lines = "".join(CREATED.replace('"S"', f'"{n * 7919**9:x}"') + "\n" for n in range(200))
    packed = gzip.compress(lines.encode())
    (tmp_path / "a.log.gz").write_bytes(packed[: len(packed) // 2])
    (report,) = await imported(log, tmp_path / "a.log.gz")
    assert report.error is not None
    assert 50 < report.new < 150
    assert (report.unreadable, report.lines) == ([], report.new)


async def test_a_file_in_another_format_is_named_and_its_bytes_are_no_lines(tmp_path: Path, log: MemoryLog) -> None:
    (tmp_path / "system.journal").write_bytes(b"LPKSHHRH" + bytes(100) + CREATED.encode())
    (report,) = await imported(log, tmp_path / "system.journal")
    assert (report.lines, report.new) == (0, 0)
    assert "journalctl" in (report.error or "")


async def test_events_behind_the_nul_bytes_of_a_file_cut_while_it_was_open_are_found(
    tmp_path: Path, log: MemoryLog
) -> None:
    (tmp_path / "a.log").write_bytes(bytes(20_000_000) + f"{PREFIX}{CREATED}\n{PREFIX}{CREATED_2}\n".encode())
    (report,) = await imported(log, tmp_path / "a.log")
    assert (report.lines, report.new) == (2, 2)


# what a folder holds


async def test_rotated_and_packed_files_of_a_folder_are_read_and_the_rest_is_listed(
    tmp_path: Path, log: MemoryLog
) -> None:
    read = [
        "CDR.2024-05-01_03-00-04.log", "CDR.2024-05-01_03-00-04.log.1", "server.log.2", "server.log-20240501",
        "server.log.2024-05-01", "server.log.old", "app.ndjson",
    ]  # fmt: skip
    for n, name in enumerate(read):
        (tmp_path / name).write_text(CREATED.replace('"S"', f'"S{n}"') + "\n")
    packed = ["server.log.3.gz", "server.log-20240502.gz"]
    for n, name in enumerate(packed):
        (tmp_path / name).write_bytes(gzip.compress(CREATED.replace('"S"', f'"P{n}"').encode()))
    left = ["notes.txt", "server.log.zst", "CDR.pdf", "old.tar", ".env"]
    for name in left:
        (tmp_path / name).write_text("x")
    (tmp_path / "node-b").mkdir()
    reports = await imported(log, tmp_path)
    assert {Path(report.file).name for report in reports if report.not_read is None} == {*read, *packed}
    assert {Path(report.file).name for report in reports if report.not_read} == {*left, "node-b"}
    assert all(report.lines == 0 for report in reports if report.not_read)


async def test_a_packed_file_is_recognised_by_its_first_bytes(tmp_path: Path, log: MemoryLog) -> None:
    (tmp_path / "server.log.1").write_bytes(gzip.compress((CREATED + "\n").encode()))
    (report,) = await imported(log, tmp_path)
    assert (report.new, report.error) == (1, None)


async def test_rotated_parts_of_a_cdr_file_are_read_oldest_first(tmp_path: Path, log: MemoryLog) -> None:
    base = "CDR.2024-05-01_03-00-04.log"
    for name in (base, f"{base}.1", f"{base}.2", f"{base}.10"):
        (tmp_path / name).write_text(CREATED + "\n")
    reports = await imported(log, tmp_path)
    assert [Path(report.file).name for report in reports] == [f"{base}.10", f"{base}.2", f"{base}.1", base]

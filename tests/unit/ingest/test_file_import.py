"""What is read from a line of a file, and in which order files are read."""

from __future__ import annotations

import base64
from pathlib import Path

import msgspec
import pytest

from tests.support.paths import SAMPLES
from tracker.ingest.file_import import Event, find_event
from tracker.ingest.import_paths import import_order, paths_to_import
from tracker.sources import registry
from tracker.sources.contract import Where


CDR = b'{"sessionCreated":{"sessionId":"MySession","timestamp":1714770057250}}'
OPENVIDU = registry.VENDORS["openvidu"]


def read_line(line: bytes, vendor: str = "openvidu", where: Where = "lines") -> bytes | None:
    found = find_event(line, registry.VENDORS[vendor], lambda before: "log" if before else where)
    return found.body if isinstance(found, Event) else None


PREFIX = b"[INFO] 2020-05-27 19:47:05,730 [worker] io.openvidu.server.cdr.CDRLoggerFile - "


@pytest.mark.parametrize(
    "before",
    [
        b"",
        PREFIX,
        b"openvidu-server_1  | " + PREFIX,
        b"[INFO] 2018-01-18 17:19:30,848 [x] i.o.s.cdr.CallDetailRecord (recordParticipantJoined) - ",
        b"openvidu-server_1  | ",
        b"[INFO] 2020-05-27 19:47:05,730 [worker {7}] io.openvidu.server.cdr.CDRLoggerFile - ",
    ],
)
def test_a_cdr_line_gives_the_same_bytes_behind_every_prefix(before: bytes) -> None:
    assert read_line(before + CDR) == CDR


def test_a_dash_inside_the_json_starts_nothing() -> None:
    line = b'{"sessionCreated":{"sessionId":"a - {b","timestamp":1714770057250}}'
    assert read_line(line) == line
    assert read_line(b"openvidu-server_1  | " + line) == line


@pytest.mark.parametrize(
    "line", [b"", b"no json", b"[1,2]", b'"text {"', b"{", b'{"a":1', b"\x00\xff\xfe{\x80", b"null"]
)
def test_a_line_without_a_json_object_is_not_read(line: bytes) -> None:
    assert read_line(line) is None


def test_other_json_in_a_server_log_is_no_event() -> None:
    assert read_line(b'[INFO] 2020-05-27 19:47:05,730 [t] RpcConnection - {"id":1,"method":"ping"}') is None


def test_every_cdr_sample_is_read_unchanged() -> None:
    for line in (SAMPLES / "openvidu2-cdr.jsonl").read_bytes().splitlines():
        assert read_line(line) == line


def test_bytes_that_are_not_utf_8_stay_unchanged() -> None:
    line = (SAMPLES / "openvidu2-body-v2.15-latin1.bin").read_bytes().strip()
    assert read_line(line) == line


def test_a_lone_surrogate_is_read_and_deep_nesting_is_not() -> None:
    line = b'{"event":"meetingStarted","creationDate":1,"data":{"roomName":"\\ud83d"}}'
    assert read_line(line, "openvidu_meet") == line
    assert read_line(b'{"a":' * 100_000) is None


def test_an_envelope_gives_its_inner_body_byte_for_byte() -> None:
    body = b'{"event":"x",  "id":"\xc3\xa9", "createdAt":"1"}'
    packed = msgspec.json.encode({"source": "lk", "event": "x", "body_b64": base64.b64encode(body).decode()})
    plain = msgspec.json.encode({"headers": {}, "body_text": body.decode()})
    assert read_line(packed, "livekit") == body
    assert read_line(plain, "livekit") == body
    assert read_line(b'{"source":"lk","body_b64":"%%%"}', "livekit") is None


def test_a_vendor_event_with_a_field_of_that_name_is_no_envelope() -> None:
    line = b'{"event":"signalSent","sessionId":"S","timestamp":1714770057250,"body_text":"hello"}'
    assert read_line(line) == line


def test_the_signed_samples_give_the_bytes_that_were_signed() -> None:
    for vendor in ("livekit", "plugnmeet", "openvidu_meet"):
        for line in (SAMPLES / f"{vendor.replace('_', '-')}-signed.jsonl").read_bytes().splitlines():
            sample = msgspec.json.decode(line)
            body = base64.b64decode(sample["body_b64"]) if "body_b64" in sample else sample["body_text"].encode()
            # One sample holds an event name and nothing else: signed, but no event.
            expected = None if body == b'{"event":"room_started"}' else body
            assert read_line(line, vendor) == expected


def test_cdr_files_are_read_in_the_order_they_were_written() -> None:
    names = [
        "CDR.2020-01-02_08-00-00.log",
        "other.jsonl",
        "CDR.2020-01-02_10-00-00.log",
        "CDR.2020-01-01_10-00-00.log.gz",
    ]
    assert [path.name for path in import_order([*map(Path, names)], OPENVIDU.log_files)] == [
        "CDR.2020-01-01_10-00-00.log.gz",
        "other.jsonl",
        "CDR.2020-01-02_10-00-00.log",  # this run began on the day before
        "CDR.2020-01-02_08-00-00.log",
    ]

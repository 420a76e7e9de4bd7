"""Every line of tests/samples as a delivery: signed ones as they are, at their own moment; others signed for the test."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from tests.support.paths import ROOT
from tracker.demo.calls import ISSUERS, sign

SAMPLES = ROOT / "tests" / "samples"
SECRET = "a-secret-of-at-least-thirty-two-bytes"
LATER = 1_790_000_000_000_000
"""When samples that hold no moment of their own arrive, µs."""


class Sample(NamedTuple):
    """One delivery: at `now` (µs) with these headers it verifies with `key`/`secret`."""

    vendor: str
    name: str
    body: bytes
    headers: dict[str, str]
    suffix: str
    now: int
    key: str
    secret: str


def samples() -> Iterator[Sample]:
    """All of them, file by file."""
    for vendor in ("livekit", "plugnmeet"):
        for n, line in enumerate(_lines(f"{vendor}-signed.jsonl"), 1):
            said = json.loads(line)
            headers = {k: v for k, v in said["headers"].items() if k not in {"Host", "Content-Length"}}
            body = said["body_text"].encode()
            yield Sample(
                vendor, f"{vendor}:{n}", body, headers, "", said["now"] * 1_000_000, said["key"], said["secret"]
            )
    for n, line in enumerate(_lines("openvidu-meet-signed.jsonl"), 1):
        said = json.loads(line)
        headers = {k: v for k, v in said["headers"].items() if k.startswith("x-")}
        body = base64.b64decode(said["body_b64"])
        now = int(headers["x-timestamp"]) * 1000
        yield Sample("openvidu_meet", f"meet-signed:{n}", body, headers, "", now, "", said["key"])
    for vendor, file in (("openvidu_meet", "openvidu-meet.jsonl"), ("streamrec", "streamrec.jsonl")):
        for n, line in enumerate(_lines(file), 1):
            yield _signed(vendor, f"{file}:{n}", json.dumps(json.loads(line)["body"]).encode())
    for file in ("openvidu2-webhook.jsonl", "openvidu2-timelines.jsonl", "openvidu2-cdr.jsonl"):
        for n, line in enumerate(_lines(file), 1):
            yield _signed("openvidu", f"{file}:{n}", line)
    yield _signed("openvidu", "latin1", (SAMPLES / "openvidu2-body-v2.15-latin1.bin").read_bytes())


def kinds_of(vendor: str) -> dict[str, set[str]]:
    """Vendor event → the timeline kinds docs/reference/vendors/<vendor>.md says it becomes."""
    text = (ROOT / "docs" / "reference" / "vendors" / f"{vendor}.md").read_text("utf-8")
    table = text.split("| vendor event | timeline kind |", 1)[1].split("\n\n", 1)[0]
    found: dict[str, set[str]] = {}
    for row in table.splitlines():
        cells = row.split("|")
        if len(cells) > 2:
            for event in re.findall(r"`([^`]+)`", cells[1])[:1]:
                found.setdefault(event.lower(), set()).update(re.findall(r"`([^`]+)`", cells[2]))
    return found


def _signed(vendor: str, name: str, body: bytes) -> Sample:
    headers, suffix, _ = sign(vendor, body, SECRET, LATER)
    return Sample(vendor, name, body, headers, suffix, LATER, ISSUERS.get(vendor, ""), SECRET)


def _lines(file: str) -> list[bytes]:
    return (SAMPLES / file).read_bytes().splitlines()

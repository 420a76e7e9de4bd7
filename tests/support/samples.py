"""The samples in tests/samples as deliveries. Signed samples keep their own time; the others are signed for the test."""

from __future__ import annotations

import base64
import json
import re
import tomllib
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.support.paths import ROOT
from tracker.demo.calls import ISSUERS, sign

SAMPLES = ROOT / "tests" / "samples"
SECRET = "a-secret-of-at-least-thirty-two-bytes"
LATER = 1_790_000_000_000_000
"""Arrival time of samples that have no time, µs."""

OF_THE_CONNECTION = {"host", "content-length", "connection"}
"""Headers that the test's own HTTP client sets."""


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
    """All samples, file by file, in the order of tests/samples/index.toml."""
    for each in tomllib.loads((SAMPLES / "index.toml").read_text("utf-8"))["files"]:
        content = (SAMPLES / each["file"]).read_bytes()
        prefix = each.get("id", each["file"])
        if each["holds"] == "file":
            yield _signed(each["vendor"], prefix, content)
            continue
        for n, line in enumerate(content.splitlines(), 1):
            name = f"{prefix}:{n}"
            if each["holds"] == "signed":
                yield _as_sent(each["vendor"], name, json.loads(line))
            elif each["holds"] == "body":
                yield _signed(each["vendor"], name, json.dumps(json.loads(line)["body"]).encode())
            else:
                yield _signed(each["vendor"], name, line)


def kinds_of(vendor: str) -> dict[str, set[str]]:
    """Vendor event → the timeline kinds that docs/reference/vendors/<vendor>.md lists for it."""
    text = (ROOT / "docs" / "reference" / "vendors" / f"{vendor}.md").read_text("utf-8")
    table = text.split("| vendor event | timeline kind |", 1)[1].split("\n\n", 1)[0]
    found: dict[str, set[str]] = {}
    for row in table.splitlines():
        cells = row.split("|")
        if len(cells) > 2:
            for event in re.findall(r"`([^`]+)`", cells[1])[:1]:
                found.setdefault(event.lower(), set()).update(re.findall(r"`([^`]+)`", cells[2]))
    return found


def _as_sent(vendor: str, name: str, sample: dict[str, Any]) -> Sample:
    headers = {key: value for key, value in sample["headers"].items() if key.lower() not in OF_THE_CONNECTION}
    body = base64.b64decode(sample["body_b64"]) if "body_b64" in sample else sample["body_text"].encode()
    now = sample["now"] * 1_000_000 if "now" in sample else int(headers["x-timestamp"]) * 1000
    # Without an issuer, the key is the secret.
    key, secret = (sample["key"], sample["secret"]) if "secret" in sample else ("", sample["key"])
    return Sample(vendor, name, body, headers, "", now, key, secret)


def _signed(vendor: str, name: str, body: bytes) -> Sample:
    headers, suffix, _ = sign(vendor, body, SECRET, LATER)
    return Sample(vendor, name, body, headers, suffix, LATER, ISSUERS.get(vendor, ""), SECRET)

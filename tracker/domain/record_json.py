"""A record as one JSON object that `tracker import` reads back; exports and evidence bundles hold these objects.

The object holds the whole record except the exact bytes of its proof, which an evidence bundle stores separately.
"""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from tracker.domain.deliveries import Micros, Record

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def record_to_json(record: Record) -> dict[str, Any]:
    """The JSON object. The body is text if it is UTF-8, else base64; `received_at` is RFC 3339 with microseconds."""
    fields: dict[str, Any] = {
        "position": record.position,
        "source": record.source,
        "vendor": record.vendor,
        "event": record.event,
        "dedupe_key": record.dedupe_key,
        "received_at": format_micros(record.received_at),
        "origin": record.origin,
        "proof": json.loads(record.proof),
    }
    try:
        fields["body_text"] = record.body.decode("utf-8")
    except UnicodeDecodeError:
        fields["body_b64"] = base64.b64encode(record.body).decode()
    return fields


def format_micros(micros: Micros) -> str:
    """µs since the epoch as RFC 3339 in UTC, with six decimal digits."""
    return f"{EPOCH + timedelta(microseconds=micros):%Y-%m-%dT%H:%M:%S.%fZ}"


def parse_micros(text: str) -> Micros:
    """The inverse of `format_micros`. Raises `ValueError` for any other spelling."""
    # Integer arithmetic only: a float would lose the last digits.
    moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    micros = (moment - EPOCH) // timedelta(microseconds=1)
    if format_micros(micros) != text:
        raise ValueError(f"{text!r} is not an RFC 3339 time in UTC with six decimal digits")
    return micros

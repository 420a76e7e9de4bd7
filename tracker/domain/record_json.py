"""A record as one JSON object that the importer reads back: what exports and evidence bundles hold.

Nothing of the record is lost, but for the spelling of its proof (a bundle keeps that beside it).
"""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from tracker.domain.deliveries import Micros, Record

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def envelope(record: Record) -> dict[str, Any]:
    """The object: the body as text where it is UTF-8, else in base64; `received_at` in RFC 3339 with microseconds."""
    told: dict[str, Any] = {
        "position": record.position,
        "source": record.source,
        "vendor": record.vendor,
        "event": record.event,
        "dedupe_key": record.dedupe_key,
        "received_at": exact_time(record.received_at),
        "origin": record.origin,
        "proof": json.loads(record.proof),
    }
    try:
        told["body_text"] = record.body.decode("utf-8")
    except UnicodeDecodeError:
        told["body_b64"] = base64.b64encode(record.body).decode()
    return told


def exact_time(micros: Micros) -> str:
    """µs since the epoch as RFC 3339 in UTC, with all six digits."""
    return f"{EPOCH + timedelta(microseconds=micros):%Y-%m-%dT%H:%M:%S.%fZ}"


def exact_micros(text: str) -> Micros:
    """The moment `exact_time` wrote. Raises `ValueError` for any other spelling."""
    # Both parts by themselves: a float would lose the last digits.
    moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    micros = (moment - EPOCH) // timedelta(microseconds=1)
    if exact_time(micros) != text:
        raise ValueError(f"{text!r} is not spelled with six digits")
    return micros

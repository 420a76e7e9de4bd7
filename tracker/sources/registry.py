"""The vendors that Tracker understands. A new vendor is one line of `FOLDERS`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType

import msgspec

from tracker.domain.deliveries import TRACKER, Delivery, Record
from tracker.domain.facts import Fact, RunRules, Unknown
from tracker.errors import ConfigInvalid
from tracker.sources.contract import Source, SourceSettings, Vendor
from tracker.sources.json_reading import read_proof

FOLDERS = (
    "openvidu",
    "openvidu_meet",
    "livekit",
    "plugnmeet",
    "streamrec",
    "bigbluebutton",
    "jitsi",
    "jaas",
    "declared",
)
"""Folders beside this file; each has a `vendor.py` with a `VENDOR`."""

_vendors: dict[str, Vendor] = {}

VENDORS: Mapping[str, Vendor] = MappingProxyType(_vendors)
"""Every known vendor by its name."""

_NO_RULES = RunRules()

_NUL, _REPLACEMENT = rb"\u0000", rb"\ufffd"
"""A NUL ends a text in SQLite's JSON: a session with one in an id could never be found again. JSON escapes it only so."""


def add(vendor: Vendor) -> None:
    """Make a vendor known. Raises `ValueError` where its name is taken or reserved."""
    if vendor.name in _vendors or vendor.name == TRACKER:
        raise ValueError(f"the vendor name {vendor.name!r} is taken: give the vendor another name")
    _vendors[vendor.name] = vendor


def load(module: str) -> Vendor:
    """Add the `VENDOR` of a module. Raises `ImportError`, `TypeError` where it has none, `ValueError` as `add` does."""
    vendor: object = getattr(import_module(module), "VENDOR", None)
    if not isinstance(vendor, Vendor):
        raise TypeError(f"{module} has no VENDOR: define one, see tracker/sources/contract.py")
    add(vendor)
    return vendor


def vendor_of(settings: SourceSettings) -> Vendor:
    """The vendor of a source. Raises `ConfigInvalid` where it is unknown."""
    vendor = _vendors.get(settings.vendor)
    if vendor is None:
        raise ConfigInvalid(
            f"source {settings.name}: vendor {settings.vendor!r} is unknown; {suggest(settings.vendor)}"
        )
    return vendor


def suggest(name: str) -> str:
    """What to write instead of an unknown vendor's name."""
    close = difflib.get_close_matches(name, _vendors, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(_vendors)}"


def build(settings: SourceSettings) -> Source:
    """The source of one `[[sources]]` table. Raises `ConfigInvalid` for an unknown vendor."""
    return vendor_of(settings).build(settings)


def rules(vendor: str) -> RunRules:
    """How a vendor's runs are distinguished; an unknown vendor gets the default rules."""
    known = _vendors.get(vendor)
    return _NO_RULES if known is None else known.rules


def interpret(record: Record) -> tuple[Fact, ...]:
    """What a record means. Never raises.

    A log written by a newer version may hold records of a vendor that this version does not know: they are shown raw.
    """
    if record.vendor == TRACKER:
        return ()
    vendor = _vendors.get(record.vendor)
    if vendor is None:
        return (_raw(record, "unknown_event", f"no vendor {record.vendor} in this version"),)
    if _NUL in record.body or _NUL in record.proof:
        body, proof = record.body.replace(_NUL, _REPLACEMENT), record.proof.replace(_NUL, _REPLACEMENT)
        record = msgspec.structs.replace(record, body=body, proof=proof)
    try:
        return vendor.interpret(record)
    except Exception as error:
        return (_raw(record, "unreadable", type(error).__name__),)


def stored_delivery(record: Record) -> Delivery | None:
    """The delivery that a record was made from, with the headers that proved it, for `Source.verify` to check again.

    None where the proof is the operator's word (an import), or where it names only the secret that matched: those
    senders show a secret that could be used again, so it is never recorded.
    """
    vendor = _vendors.get(record.vendor)
    proof = read_proof(record)
    headers = None if vendor is None else vendor.headers_from_proof(proof)
    if vendor is None or headers is None:
        return None
    return Delivery(
        source=record.source,
        body=record.body,
        received_at=record.received_at,
        headers=headers,
        query=vendor.query_from_proof(proof),
    )


def _raw(record: Record, anomaly: str, reason: str) -> Unknown:
    detail = {"event": record.event} if record.event else {}
    at = record.received_at
    return Unknown(at=at, clock="receiver", precision="us", detail=detail, anomalies=((anomaly, reason),))


for _folder in FOLDERS:
    load(f"tracker.sources.{_folder}.vendor")

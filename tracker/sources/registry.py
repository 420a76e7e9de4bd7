"""Every vendor by its name: who proves, who reads, and how its runs are told apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from tracker.deliveries import Record
from tracker.facts import Fact, RunRules, Unknown
from tracker.sources import openvidu
from tracker.sources.contract import Interpret, Source, SourceSettings


class Vendor(msgspec.Struct, frozen=True):
    """What a vendor's file offers; `needs` names the settings it cannot do without."""

    build: Callable[[SourceSettings], Source]
    interpret: Interpret
    rules: RunRules
    needs: Literal["secrets", "keys"]


VENDORS: Mapping[str, Vendor] = {
    "openvidu": Vendor(openvidu.OpenviduSource, openvidu.interpret, openvidu.RULES, "secrets"),
}


def build(settings: SourceSettings) -> Source:
    """The configured source."""
    return VENDORS[settings.vendor].build(settings)


def rules(vendor: str) -> RunRules:
    """How runs of a vendor are told apart; records of a vendor we no longer know keep their own rooms."""
    pending = {
        "openvidu_meet": RunRules(tolerance=10_000_000),
        "streamrec": RunRules(tolerance=60_000_000, ends_only=True, room_is_person=True),
    }
    known = VENDORS.get(vendor)
    return pending.get(vendor, RunRules()) if known is None else known.rules


def interpret(record: Record) -> tuple[Fact, ...]:
    """What a record means. Never raises: a reading that fails is an `Unknown` fact that says so."""
    known = VENDORS.get(record.vendor)
    if known is None:
        return (_unread(record, f"no reading for vendor {record.vendor}"),)
    try:
        return known.interpret(record)
    except Exception as error:  # noqa: BLE001 - one bad record must not stop the history of all others
        return (_unread(record, type(error).__name__),)


def _unread(record: Record, why: str) -> Unknown:
    return Unknown(at=record.received_at, clock="receiver", detail={"event": record.event}, anomalies=(("unreadable", why),))

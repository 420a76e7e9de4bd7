"""The vendors Tracker understands: one row each, and nothing else here knows their names.

build(settings)      → a `Source` for one `[[sources]]` table
interpret(record)    → what a kept record means, by its vendor
rules(vendor)        → how that vendor's runs are told apart
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from tracker.domain.deliveries import OURS, Record
from tracker.errors import ConfigInvalid
from tracker.domain.facts import Fact, RunRules, Unknown
from tracker.sources.livekit import source as livekit
from tracker.sources.openvidu import source as openvidu
from tracker.sources.openvidu_meet import source as openvidu_meet
from tracker.sources.plugnmeet import source as plugnmeet
from tracker.sources.streamrec import source as streamrec
from tracker.sources.contract import Interpret, Source, SourceSettings


class Vendor(msgspec.Struct, frozen=True, kw_only=True):
    """One vendor: how its sources are built, what its records mean, how its runs are told apart.

    `needs` is the setting that holds its secrets: "secrets" (a list) or "keys" (issuer → secret).
    """

    build: Callable[[SourceSettings], Source]
    interpret: Interpret
    rules: RunRules
    needs: Literal["secrets", "keys"]


VENDORS: Mapping[str, Vendor] = {
    "openvidu": Vendor(
        build=openvidu.OpenviduSource, interpret=openvidu.interpret, rules=openvidu.RULES, needs="secrets"
    ),
    "openvidu_meet": Vendor(
        build=openvidu_meet.OpenviduMeetSource,
        interpret=openvidu_meet.interpret,
        rules=openvidu_meet.RULES,
        needs="secrets",
    ),
    "livekit": Vendor(build=livekit.LivekitSource, interpret=livekit.interpret, rules=livekit.RULES, needs="keys"),
    "plugnmeet": Vendor(
        build=plugnmeet.PlugnmeetSource, interpret=plugnmeet.interpret, rules=plugnmeet.RULES, needs="keys"
    ),
    "streamrec": Vendor(
        build=streamrec.StreamrecSource, interpret=streamrec.interpret, rules=streamrec.RULES, needs="secrets"
    ),
}
"""By the name `vendor` has in config.toml and in the log."""

_NO_RULES = RunRules()

_NUL, _INSTEAD = rb"\u0000", rb"\ufffd"
"""A character that ends a text in SQLite's JSON: views that cannot find a session by its id stop for ever. JSON has it only so."""


def build(settings: SourceSettings) -> Source:
    """The source of one `[[sources]]` table. Raises `ConfigInvalid` for a vendor nobody knows."""
    vendor = VENDORS.get(settings.vendor)
    if vendor is None:
        known = ", ".join(VENDORS)
        raise ConfigInvalid(f"source {settings.name}: vendor is {settings.vendor!r}, it has to be one of {known}")
    return vendor.build(settings)


def rules(vendor: str) -> RunRules:
    """How a vendor's runs are told apart; no tolerance at all for a vendor nobody knows."""
    known = VENDORS.get(vendor)
    return _NO_RULES if known is None else known.rules


def interpret(record: Record) -> tuple[Fact, ...]:
    """What a kept record means. Never raises.

    A log may hold a vendor this version does not know (it was written by a newer one): shown raw, not refused.
    """
    if record.vendor == OURS:
        return ()
    vendor = VENDORS.get(record.vendor)
    if vendor is None:
        return (_raw(record, "unknown_event", f"no vendor {record.vendor} in this version"),)
    if _NUL in record.body or _NUL in record.proof:
        body, proof = record.body.replace(_NUL, _INSTEAD), record.proof.replace(_NUL, _INSTEAD)
        record = msgspec.structs.replace(record, body=body, proof=proof)
    try:
        return vendor.interpret(record)
    except Exception as error:
        return (_raw(record, "unreadable", type(error).__name__),)


def _raw(record: Record, anomaly: str, why: str) -> Unknown:
    detail = {"event": record.event} if record.event else {}
    at = record.received_at
    return Unknown(at=at, clock="receiver", precision="us", detail=detail, anomalies=((anomaly, why),))

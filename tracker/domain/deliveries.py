"""What carries a delivery at each stage: the type is the stage.

    Delivery  arrived over HTTP or from a file, believed by nobody yet
    Verified  its proof fits its bytes; it has a dedupe key
    Record    kept in the log; it has a position

All times are integer microseconds since 1970-01-01T00:00:00Z.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from tracker.domain.facts import Micros


Origin = Literal["webhook", "import", "observation"]

OURS = "tracker"
"""Source and vendor of records Tracker itself appends (erasures): they tell of the log, not of calls."""

LOST = 0
"""`Record.erased_by` of a sealed record whose key is gone and of which no record says that it was erased."""


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One arrival, exactly as it came.

    `headers` have lower-case names; `token` is the last path part of `/hooks/{source}/{token}`;
    `body` are the raw bytes; `received_at` is our clock.
    """

    source: str
    body: bytes
    received_at: Micros
    headers: Mapping[str, str] = {}
    query: Mapping[str, str] = {}
    token: str | None = None


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery whose proof fits its bytes, ready to append.

    `event` is the vendor's own event name ("" when it has none or cannot be read).
    `dedupe_key` is unique per source for ever. `proof` is compact JSON: what lets the proof be
    checked again later, never a reusable secret.
    """

    source: str
    vendor: str
    event: str
    dedupe_key: str
    received_at: Micros
    origin: Origin
    proof: bytes
    body: bytes


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A verified delivery kept at a `position` of the log; positions are 1, 2, 3 … without gaps."""

    position: int
    source: str
    vendor: str
    event: str
    dedupe_key: str
    received_at: Micros
    origin: Origin
    proof: bytes
    body: bytes
    erased_by: int | None = None
    """The position of the record that says this one was erased; its bytes are gone (`body` and `proof` are empty)."""


class Appended(msgspec.Struct, frozen=True):
    """The log's answer to an append: where it is, and whether it was there before."""

    position: int
    duplicate: bool

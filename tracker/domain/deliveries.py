"""The types that carry a delivery through its stages: one type per stage.

    Delivery  arrived over HTTP or from a file; nothing is verified yet
    Verified  its proof fits its bytes; it has a dedupe key
    Record    stored in the log; it has a position

All times are integer microseconds since 1970-01-01T00:00:00Z.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from tracker.domain.facts import Micros


Origin = Literal["webhook", "import", "observation"]
"""The channel a record came by. The stored field is `origin`."""

TRACKER = "tracker"
"""Source and vendor of the records that Tracker itself appends (erasures). They are about the log, not about calls."""

KEY_LOST = 0
"""`Record.erased_by` of an encrypted record whose data key is gone although no record says that it was erased."""


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One delivery, exactly as it arrived.

    `headers` have lower-case names. `token` is the last path part of `/hooks/{source}/{token}`.
    `body` holds the raw bytes. `received_at` is the receiver's clock.
    """

    source: str
    body: bytes
    received_at: Micros
    headers: Mapping[str, str] = {}
    query: Mapping[str, str] = {}
    token: str | None = None


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery whose proof fits its bytes, ready to append.

    `event` is the vendor's event name ("" when there is none or it cannot be read).
    `dedupe_key` is unique per source, for ever. `proof` is compact JSON that lets the proof be checked again later;
    it never holds a reusable secret.
    """

    source: str
    vendor: str
    event: str
    dedupe_key: str
    received_at: Micros
    origin: Origin
    proof: bytes
    body: bytes


class ChallengeReceived(Exception):
    """Raised in place of `Verified`: an authentic delivery asks a question. `answer` is the body of the 200; nothing is recorded."""

    def __init__(self, answer: bytes) -> None:
        super().__init__("a vendor's challenge")
        self.answer = answer


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A verified delivery stored at a `position` of the log. Positions are 1, 2, 3 … without gaps."""

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
    """The position of the record that says this one was erased. Its bytes are gone: `body` and `proof` are empty."""


class Appended(msgspec.Struct, frozen=True):
    """The result of an append: the position of the record, and whether the log already had it."""

    position: int
    duplicate: bool

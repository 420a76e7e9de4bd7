"""The seam of a vendor: prove a delivery, name it, and read what it means. Pure: no I/O, no clock.

A vendor file defines three things, found by `sources/registry.py` under the vendor's name:

    `<Vendor>Source`   a `Source`: built from a `SourceSettings`, it proves and names deliveries
    `interpret`        `(record) -> facts`: the same for every configured source of that vendor
    `RULES`            how its runs are told apart
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from tracker.domain.deliveries import Delivery, Record, Verified
from tracker.domain.facts import Fact

Interpret = Callable[[Record], tuple[Fact, ...]]
"""What a kept record means. Never raises: what cannot be read becomes an `Unknown` fact with an anomaly."""


class SourceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The secrets and names of one `[[sources]]` table, already read from environment and files.

    `secrets` is a list for rotation (openvidu, openvidu_meet, streamrec); `keys` maps issuer to secret
    (livekit, plugnmeet). `header` is OpenVidu 2's header name. Never printed: `repr` hides it.
    """

    name: str
    vendor: str
    secrets: tuple[str, ...] = ()
    keys: dict[str, str] = {}
    header: str = "Authorization"

    def __repr__(self) -> str:
        return f"SourceSettings({self.name!r}, {self.vendor!r}, …)"


class Source(Protocol):
    """One configured sender."""

    name: str
    vendor: str

    def verify(self, delivery: Delivery) -> Verified:
        """The delivery, proved authentic on its raw bytes at `delivery.received_at`, with event name and dedupe key.

        Raises a `DeliveryRejected` leaf (SignatureMissing, SignatureMismatch, SignatureStale, KeyUnknown); then the
        delivery must not be recorded. A body that is authentic but cannot be parsed is returned all the same.
        """
        ...

    def verify_trusted(self, body: bytes, *, received_at: int, proof: dict[str, str | int]) -> Verified:
        """A body read from a file the operator vouches for: named and keyed as `verify` does, proof as given.

        `received_at` in µs. A CDR line and its webhook get the same dedupe key. Never raises.
        """
        ...

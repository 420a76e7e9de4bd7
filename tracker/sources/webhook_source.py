"""The part of a `Source` that is the same for every vendor."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping

import msgspec

from tracker.domain.deliveries import Delivery, Origin, Verified
from tracker.sources.contract import SourceSettings

_write = msgspec.json.Encoder().encode


class WebhookSource(ABC):
    """One configured sender; a vendor adds its proof (`verify`) and its names (`identify`)."""

    rejected_status = 401

    def __init__(self, settings: SourceSettings) -> None:
        self.name = settings.name
        self.vendor = settings.vendor

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @abstractmethod
    def verify(self, delivery: Delivery) -> Verified:
        """See `Source.verify`."""

    @abstractmethod
    def identify(self, body: bytes) -> tuple[str, str]:
        """(event name, dedupe key) of a body. Never raises."""

    def verify_trusted(self, body: bytes, *, received_at: int, proof: dict[str, str | int]) -> Verified:
        return self._verified(body, received_at, "import", proof)

    def verified(self, delivery: Delivery, proof: dict[str, str | int]) -> Verified:
        """A delivery that `proof` proves."""
        return self._verified(delivery.body, delivery.received_at, "webhook", proof)

    def _verified(self, body: bytes, received_at: int, origin: Origin, proof: dict[str, str | int]) -> Verified:
        event, dedupe_key = self.identify(body)
        return Verified(
            source=self.name,
            vendor=self.vendor,
            event=event,
            dedupe_key=dedupe_key,
            received_at=received_at,
            origin=origin,
            proof=encode_proof(proof),
            body=body,
        )


def encode_proof(proof: Mapping[str, str | int]) -> bytes:
    """A proof as it is recorded: compact JSON in ASCII."""
    try:
        plain = _write(proof)
    except (ValueError, OverflowError):  # lone surrogates, wide numbers
        plain = b"\xff"
    return plain if plain.isascii() else json.dumps(proof, separators=(",", ":")).encode()

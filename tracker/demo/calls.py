"""Sample calls and signatures by vendor name: what `tracker demo`, the tests and the benchmarks send."""

from __future__ import annotations

import random
from collections.abc import Mapping
from urllib.parse import parse_qsl

from tracker.config.declarations import shipped_declaration
from tracker.domain.deliveries import Delivery
from tracker.domain.facts import Micros
from tracker.sources import registry
from tracker.sources.contract import SourceSettings
from tracker.sources.sample_calls import CallScript, SampleCall, SampleDelivery, SignedRequest

_SAMPLES: Mapping[str, SampleCall] = {
    name: vendor.sample for name, vendor in registry.VENDORS.items() if vendor.sample is not None
}

VENDORS = tuple(_SAMPLES)
"""The vendors that have a sample call."""

SOURCES: Mapping[str, str] = {vendor: sample.source for vendor, sample in _SAMPLES.items()}
"""The name of each vendor's source in the demo."""

ISSUERS: Mapping[str, str] = {vendor: sample.issuer for vendor, sample in _SAMPLES.items() if sample.issuer}
"""The `iss` that `sign` puts into its tokens by default."""


DECLARATIONS: Mapping[str, str] = {
    vendor: sample.declaration for vendor, sample in _SAMPLES.items() if sample.declaration
}
"""The names of the declarations of the vendors that need one."""


def settings(vendor: str, secret: str, *, name: str = "s") -> SourceSettings:
    """A source that accepts what `sign` signs with this secret."""
    sample = _SAMPLES[vendor]
    return SourceSettings(
        name=name,
        vendor=vendor,
        secrets=() if sample.issuer else (secret,),
        keys={sample.issuer: secret} if sample.issuer else {},
        hook_url=sample.hook_url,
        declaration=shipped_declaration(sample.declaration) if sample.declaration else "",
    )


def delivery(vendor: str, sent: SampleDelivery, secret: str, *, name: str = "s", received_at: Micros) -> Delivery:
    """A delivery of a sample call as it arrives, signed when it was sent."""
    headers, suffix, query = sign(vendor, sent.body, secret, sent.at)
    path, _, signed = suffix.partition("?")
    return Delivery(
        source=name,
        body=sent.body,
        received_at=received_at,
        headers={name.lower(): value for name, value in headers.items()},
        query={**sent.query, **query, **dict(parse_qsl(signed))},
        token=path.removeprefix("/") or None,
    )


def whole_call(vendor: str, start: Micros, *, seed: int = 0, pace: float = 1.0) -> list[SampleDelivery]:
    """Every delivery of one call in causal order; the same arguments give the same bytes.

    `vendor` is one of `VENDORS`; `start` in µs is when the room is created. Raises KeyError for another vendor.
    """
    script = CallScript(start, seed, pace, random.Random(f"{vendor}:{start}:{seed}"))  # noqa: S311 - ids, not secrets
    _SAMPLES[vendor].play(script)
    return script.deliveries


def sign(vendor: str, body: bytes, secret: str, now: Micros, *, issuer: str | None = None) -> SignedRequest:
    """What the vendor's server would attach: (headers, what follows /hooks/{source} in the address, query).

    `secret` is what the vendor proves with; `now` in µs goes into what is signed. Raises KeyError for another vendor.
    """
    sample = _SAMPLES[vendor]
    return sample.sign(body, secret, now, issuer or sample.issuer)

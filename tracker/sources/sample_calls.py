"""The script of a sample call: its clock, its ids and its deliveries. Each vendor's `sample_call.py` fills one in.

Every call tells one story:

    0 s created · 2 s Alice joins · 4 s she publishes · 20 s Bob joins · 30–90 s recording · 120 s Bob leaves
    150 s Alice leaves · 160 s ended · later: the recording is ready

Seconds are multiplied by `pace`, so that the demo can play a call in moments and still state true times.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any, Protocol, final

import msgspec

from tracker.domain.facts import Micros

CALL_SECONDS = 166
"""From the first event to the last, at pace 1."""

Json = dict[str, Any]

SignedRequest = tuple[dict[str, str], str, dict[str, str]]
"""What a server attaches to a body: (headers, what follows /hooks/{source} in the address, query)."""


class RandomBits(Protocol):
    """The two methods of `random.Random` that a script uses; the caller seeds it."""

    def choices(self, population: Sequence[str], *, k: int) -> list[str]:
        """`k` elements drawn from `population`."""
        ...

    def getrandbits(self, k: int, /) -> int:
        """An integer of `k` random bits."""
        ...


class SampleDelivery(msgspec.Struct, frozen=True):
    """One delivery of a call: its event, the exact body, when it is sent (µs), and the query of its hook address."""

    event: str
    body: bytes
    at: Micros
    query: dict[str, str] = {}


class SampleCall(msgspec.Struct, frozen=True, kw_only=True):
    """A vendor's sample call, and how its server signs. Deterministic."""

    source: str
    """The name of the vendor's source in the demo."""
    play: Callable[[CallScript], None]
    """Adds every delivery of one call to the script."""
    sign: Callable[[bytes, str, Micros, str], SignedRequest]
    """(body, secret, now in µs, issuer) → what the vendor's server attaches."""
    hook_url: str = ""
    """The address that is signed, for vendors that sign it."""
    declaration: str = ""
    """The name of the shipped declaration that describes the calls, for sources that need one."""
    issuer: str = ""
    """Which of `keys` signs; "" for vendors that prove with `secrets`."""


@final
class CallScript:
    """One call while it is being written."""

    def __init__(self, start: Micros, seed: int, pace: float, random: RandomBits) -> None:
        self.start = start - start % 1000
        self.seed = seed
        self.pace = pace
        self.random = random
        self.deliveries: list[SampleDelivery] = []

    def at(self, seconds: float) -> Micros:
        """That second of the story, in whole milliseconds (µs)."""
        return self.start + round(seconds * self.pace * 1000) * 1000

    def ms(self, seconds: float) -> int:
        """The same in ms."""
        return self.at(seconds) // 1000

    def s(self, seconds: float) -> str:
        """The same in whole seconds, as protojson writes 64-bit integers."""
        return str(self.at(seconds) // 1_000_000)

    def ns(self, seconds: float) -> str:
        """The same in ns, as protojson writes 64-bit integers."""
        return str(self.at(seconds) * 1000)

    def iso(self, seconds: float) -> str:
        """The same in ISO 8601 with milliseconds and Z."""
        moment = dt.datetime.fromtimestamp(self.ms(seconds) / 1000, dt.UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{self.ms(seconds) % 1000:03d}Z"

    def id(self, length: int) -> str:
        """A random id of letters and digits."""
        return "".join(self.random.choices("ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz23456789", k=length))

    def uuid(self) -> str:
        """A random UUIDv4."""
        bits = self.random.getrandbits(128) & ~(0xF000 << 64) & ~(0xC000 << 48) | 4 << 76 | 0x8000 << 48
        digits = f"{bits:032x}"
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

    def reusable(self, name: str) -> str:
        """A room's name: the same for all calls of one seed, another for each seed."""
        return f"{name}-{self.seed + 1}" if self.seed else name

    def send(self, seconds: float, event: str, body: Json, **query: str) -> None:
        """Add one delivery, in compact JSON."""
        self.deliveries.append(SampleDelivery(event, msgspec.json.encode(body), self.at(seconds), query))

"""A fact together with the record that told it: what merging works on.

`key` and `n` break ties between facts, `position` never does: positions depend on arrival, keys do not.
"""

from __future__ import annotations

import msgspec

from tracker.facts import AnyFact, Fact, Micros


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """The `n`-th fact of the record at `position`."""

    fact: Fact
    position: int
    n: int
    source: str
    vendor: str
    key: str
    received_at: Micros


encode_fact = msgspec.msgpack.Encoder().encode
"""A fact as it is kept beside its timeline entry."""

decode_fact = msgspec.msgpack.Decoder(AnyFact).decode
"""The fact of a kept entry."""

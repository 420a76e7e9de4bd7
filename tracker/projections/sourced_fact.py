"""A fact together with the record that told it: what merging works on.

`key` and `n` break ties between facts, `position` never does: positions depend on arrival, keys do not.
"""

from __future__ import annotations

import msgspec

from tracker.domain.facts import Fact, Micros, SessionRef


class SourcedFact(msgspec.Struct, frozen=True, gc=False):
    """The `n`-th fact of the record at `position`."""

    fact: Fact
    position: int
    n: int
    source: str
    vendor: str
    key: str
    received_at: Micros


def encode_session_ref(place: SessionRef) -> bytes:
    """What a place says of its run beside room and moment; empty where that is nothing, as nearly always."""
    if place.starts_at is None and place.ends_at is None and place.anchor is None:
        return b""
    return _pack((place.starts_at, place.ends_at, place.anchor))


def decode_session_ref(room: str, at: Micros, told: bytes) -> SessionRef:
    """The place again, as far as finding its run needs it."""
    starts_at, ends_at, anchor = _unpack(told) if told else _NOTHING
    return SessionRef(at=at, room=room, starts_at=starts_at, ends_at=ends_at, anchor=anchor)


_Told = tuple[Micros | None, Micros | None, str | None]

_NOTHING: _Told = (None, None, None)
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(_Told).decode

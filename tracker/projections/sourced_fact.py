"""A fact and the record it comes from: the input of folding.

`key` and `n` break ties between facts. `position` never does, because positions depend on the order of arrival.
"""

from __future__ import annotations

import msgspec

from tracker.domain.facts import Fact, Micros, SessionRef


class SourcedFact(msgspec.Struct, frozen=True, gc=False):
    """The `n`-th fact of the record at `position`. `key` is the dedupe key of that record."""

    fact: Fact
    position: int
    n: int
    source: str
    vendor: str
    key: str
    received_at: Micros


def encode_session_ref(place: SessionRef) -> bytes:
    """What a session reference says besides room, time and anchor. Empty if there is nothing more, as usual."""
    if place.starts_at is None and place.ends_at is None and not place.is_late:
        return b""
    return _pack((place.starts_at, place.ends_at, place.is_late))


def decode_session_ref(room: str, at: Micros, packed: bytes, anchor: str | None) -> SessionRef:
    """The session reference, with the fields that finding its run needs."""
    starts_at, ends_at, is_late = _unpack(packed) if packed else (None, None, False)
    return SessionRef(at=at, room=room, starts_at=starts_at, ends_at=ends_at, is_late=is_late, anchor=anchor)


_Fields = tuple[Micros | None, Micros | None, bool]

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(_Fields).decode

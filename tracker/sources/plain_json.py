"""JSON that leaves no doubt, read at once; anything else is None, and left to a reader that looks closely.

The close readers (`protojson`, `json_reading`, a vendor's own) walk what they parsed in Python: too deep? a number no
store holds? a lone surrogate? a key twice? Here the same answers come from C, for bodies as nearly all senders write them:

    too deep                no value nests deeper than it has opening brackets
    NaN, 1e400, surrogates  msgspec refuses them, and bytes that are not UTF-8
    a wide integer          MessagePack has none above 2^64, and marks those from 2^63 on
    a key twice             it is lost in reading, so the value written again is not the bytes that came
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

_write = msgspec.json.Encoder().encode
_pack = msgspec.msgpack.Encoder().encode

_UNSIGNED = b"\xcf"
_WIDE = re.compile(rb"\xcf[\x80-\xff]", re.DOTALL)
"""An unsigned 64-bit integer that is no signed one. Found inside a text or a number it is a false alarm, which costs only time."""

_DOUBTS = (msgspec.MsgspecError, ValueError, OverflowError, RecursionError)


Decode = Callable[[bytes | str], Any]

decode: Decode = msgspec.json.Decoder().decode


def parse_fast(text: bytes | str, *, deepest: int, decode: Decode = decode) -> Any:
    """The value of a JSON text, where a key told twice may count the last time; None where a closer look is needed.

    Then no text in it has a lone surrogate, no number is infinite or wider than 64 bits signed, and nothing nests deeper than
    `deepest`. `decode`: a msgspec decoder of the reader's own. (`null` reads as None too: to the closer reader it is no object either.)
    """
    opening = (b"{", b"[") if isinstance(text, bytes) else ("{", "[")
    if text.count(opening[0]) + text.count(opening[1]) > deepest:  # pyright: ignore[reportArgumentType]
        return None
    try:
        value = decode(text)
        packed = _pack(value)
        return None if _UNSIGNED in packed and _WIDE.search(packed) else value
    except _DOUBTS:
        return None


def parse_unambiguous(body: bytes, *, deepest: int, decode: Decode = decode) -> Any:
    """`sound_value` of a body that can be read in one way only: what was read, written again, gives the same bytes."""
    value = parse_fast(body, deepest=deepest, decode=decode)
    try:
        return value if value is not None and _write(value) == body else None
    except _DOUBTS:
        return None

"""A fast path for JSON: bodies that can be read in one way only are parsed in C; for others it returns None.

The careful readers (`protojson`, `json_reading`, a vendor's own) check what they parsed in Python. This module makes the same
checks in C, for bodies written as nearly all senders write them, indented or not; where a check fails, the caller uses its careful reader.

    nesting too deep        a value never nests deeper than its number of opening brackets
    NaN, 1e400, surrogates  msgspec refuses them, and bytes that are not UTF-8
    an integer ≥ 2^63       MessagePack has none above 2^64, and marks those from 2^63 on
    a repeated key          parsing drops it, so that encoding the value again gives other bytes, also without white space
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
"""An unsigned 64-bit integer that does not fit a signed one. A match inside a text is a false alarm, which only costs time."""

_SPACE = b" \t\r\n"

_ERRORS = (msgspec.MsgspecError, ValueError, OverflowError, RecursionError)


Decode = Callable[[bytes | str], Any]

decode: Decode = msgspec.json.Decoder().decode


def parse_fast(text: bytes | str, max_depth: int, decode: Decode = decode) -> Any:
    """The value of a JSON text; of a repeated key the last value. None where the careful reader has to decide.

    The value has no lone surrogates, no infinite numbers, no integers wider than 64 bits signed, and nests at most `max_depth`
    deep. `decode`: another msgspec decoder. `null` gives None too: the careful reader refuses it as well, it is no object.
    """
    if isinstance(text, str):
        depth = text.count("{") + text.count("[")
    else:
        depth = text.count(b"{") + text.count(b"[")
    if depth > max_depth:
        return None
    try:
        value = decode(text)
        packed = _pack(value)
        return None if _UNSIGNED in packed and _WIDE.search(packed) else value
    except _ERRORS:
        return None


def parse_unambiguous(body: bytes, max_depth: int, decode: Decode = decode) -> Any:
    """`parse_fast` of a body without repeated keys. None for other bodies.

    Encoding the value again gives the same bytes, white space left out in both. Leaving it out (also in texts) keeps the
    number of keys, so a repeated key, which parsing drops, makes a difference.
    """
    value = parse_fast(body, max_depth, decode)
    if value is None:
        return None
    try:
        written = _write(value)
    except _ERRORS:
        return None
    is_same = written == body or written.translate(None, _SPACE) == body.translate(None, _SPACE)
    return value if is_same else None

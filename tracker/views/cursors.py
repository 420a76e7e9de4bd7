"""Opaque cursors: base64url of a JSON array with the name of a list and the key of the last row."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, cast

from tracker.domain.texts import is_utf8
from tracker.errors import ParameterInvalid

_LARGEST = 2**63


def encode_cursor(name: str, key: tuple[int | str, ...]) -> str:
    """The cursor to continue the list `name` after `key`."""
    packed = json.dumps([name, *key], ensure_ascii=False, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


def decode_cursor(name: str, cursor: str, *shape: type[int | str]) -> tuple[Any, ...]:
    """The key in `cursor`, with the types of `shape`. Raises `ParameterInvalid("cursor", …)` for anything else."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        found: object = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (UnicodeError, binascii.Error, ValueError, RecursionError):
        found = None
    if isinstance(found, list):
        first, *key = cast("list[Any]", found) or [None]
        fits = len(key) == len(shape) and all(type(part) is kind for part, kind in zip(key, shape, strict=True))
        if first == name and fits and all(map(_is_storable, key)):
            return tuple(key)
    raise ParameterInvalid(
        "cursor", "not a cursor of this list: pass `next` of the previous page unchanged, or leave `cursor` out"
    )


def _is_storable(part: int | str) -> bool:
    return is_utf8(part) if isinstance(part, str) else abs(part) < _LARGEST

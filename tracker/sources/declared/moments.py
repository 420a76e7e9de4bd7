"""Times and durations of a vendor, in the unit that a declaration names."""

from __future__ import annotations

import math
import re
from typing import Any

from tracker.domain.facts import Micros, Precision
from tracker.sources.declared.declaration import UNITS, Unit
from tracker.sources.json_reading import MAX_TIME, iso_moment

_NUMBER = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,12})?", re.ASCII)
_FRACTION = re.compile(r"[.,]([0-9]+)")
_MILLISECOND_DIGITS = 3
_LARGEST: dict[Unit, float] = {"s": 1e11, "ms": 1e14, "us": 1e17}
"""Numbers from here on are in a smaller unit: the year 5138, in each."""


def parse_moment(value: Any, unit: Unit) -> tuple[Micros, Precision] | None:
    """A time as µs, and how exact it is; None for anything that is no time from 1970 to the year 10000."""
    text = value if isinstance(value, str) else None
    if unit == "iso" or (unit == "auto" and text is not None and not _NUMBER.fullmatch(text)):
        at = iso_moment(value)
        return None if at is None or text is None else (at, _precision_of(text))
    number = _number_of(value)
    if number is None:
        return None
    if unit == "auto":
        found: Unit | None = next((each for each in UNITS if number < _LARGEST[each]), None)
        unit = "ns" if found is None else found
    whole = isinstance(number, int)
    at = _scaled(number, unit)
    if at is None or not 0 < at < MAX_TIME:
        return None
    if unit == "s":
        return at, "s" if whole else "ms"
    return at, "ms" if unit == "ms" and whole else "us"


def parse_duration_ms(value: Any, unit: Unit) -> int | None:
    """A duration in ms; None for anything that is none."""
    number = _number_of(value)
    micros = None if number is None or unit in {"iso", "auto"} else _scaled(number, unit)
    return None if micros is None or not 0 <= micros < MAX_TIME else micros // 1000


def _number_of(value: Any) -> int | float | None:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value) if "." in value else int(value)
    if type(value) is int and 0 <= value < 2**63:
        return value
    return value if isinstance(value, float) and math.isfinite(value) and 0 <= value < 2.0**63 else None


def _scaled(number: float, unit: Unit) -> Micros | None:
    return int(number // 1000) if unit == "ns" else round(number * UNITS[unit])


def _precision_of(text: str) -> Precision:
    digits = _FRACTION.search(text)
    if digits is None:
        return "s"
    return "ms" if len(digits[1]) <= _MILLISECOND_DIGITS else "us"

"""How texts of config.toml become values: durations, paths. Whatever is wrong names its key."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from tracker.errors import ConfigInvalid

DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")
UNIT_MICROS = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}


def micros(text: str, key: str) -> int:
    """A duration like "90s", "12h" or "400d" in µs. Raises `ConfigInvalid` naming `key`."""
    match = DURATION.fullmatch(text.strip())
    if match is None or int(match[1]) == 0:
        raise ConfigInvalid(
            f'{key}: {text[:20]!r} is no duration: write a whole number and ms, s, m, h or d, like "12h"'
        )
    return int(match[1]) * UNIT_MICROS[match[2]]


def path_of(text: str, folder: Path, key: str, like: str) -> Path:
    """A path; a relative one starts at `folder`. Raises `ConfigInvalid` naming `key`, with one like it."""
    if not text.strip() or "\0" in text:
        raise ConfigInvalid(f'{key}: this is no path of a file: write one like "{like}"')
    try:
        return folder / Path(text).expanduser()
    except RuntimeError:
        raise ConfigInvalid(f"{key}: the home of '~' is not known: write the whole path") from None


def expect_apart(paths: Mapping[str, Path]) -> None:
    """Raise `ConfigInvalid` where two keys name one file: what one writes would destroy the other."""
    seen: dict[str, str] = {}
    for key, path in paths.items():
        other = seen.setdefault(os.path.realpath(path), key)
        if other != key:
            raise ConfigInvalid(f"{key}: this is the same file as {other}: give it a file of its own")

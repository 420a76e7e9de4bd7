"""Parses durations and paths of config.toml. Every error names its key."""

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
            f'{key}: {text[:20]!r} is not a duration: write a whole number and ms, s, m, h or d, like "12h"'
        )
    return int(match[1]) * UNIT_MICROS[match[2]]


def path_of(text: str, folder: Path, key: str, like: str) -> Path:
    """A path; a relative one is relative to `folder`. Raises `ConfigInvalid` naming `key`; `like` is the example in its message."""
    if not text.strip() or "\0" in text:
        raise ConfigInvalid(f'{key}: this is not a file path: write one like "{like}"')
    try:
        return folder / Path(text).expanduser()
    except RuntimeError:
        raise ConfigInvalid(f"{key}: the home directory of '~' is unknown: write the absolute path") from None


def expect_apart(paths: Mapping[str, Path]) -> None:
    """Raise `ConfigInvalid` when two keys name the same file: each would overwrite the other."""
    seen: dict[str, str] = {}
    for key, path in paths.items():
        other = seen.setdefault(os.path.realpath(path), key)
        if other != key:
            raise ConfigInvalid(f"{key}: this is the same file as {other}: give it a file of its own")

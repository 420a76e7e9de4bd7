"""Caches that hold text of senders, and who drops each when other views are swapped in.

An erasure ends with a swap of rebuilt views. Then no cache may hold what the old views showed. `HOLDERS` is the whole list;
a test finds caches that are missing in it. Functions that cache what they are called with use `text_cache` instead of
`functools`, so that `drop_text_caches` finds them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

HOLDERS = {
    "api/live.py": "`LiveStream` compares `views.generation` before each event it sends from its buffer",
    "log/erasure_records.py": "`RemainingFacts`: the projector makes a new one after a swap",
    "projector/batch.py": "`BatchCache`: the projector makes a new one after a swap",
    "views/sqlite/row_diff.py": "`SavedRows`: `SqliteViews.refresh` makes a new one after a swap",
    "domain/text_cache.py": "functions with `text_cache`: the projector, and a server's `SqliteViews.look`, call `drop_text_caches` after a swap; a node without views does every minute",
}
"""File → which cache, and who drops it."""

_clear: list[Callable[[], None]] = []


def text_cache(maxsize: int) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """As `functools.lru_cache`, for functions of a sender's text."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        cached = functools.lru_cache(maxsize)(function)
        _clear.append(cached.cache_clear)
        return cached  # pyright: ignore[reportReturnType] - lru_cache does not know its parameters

    return decorate


def drop_text_caches() -> None:
    """Empty the cache of every function with `text_cache`."""
    for clear in _clear:
        clear()

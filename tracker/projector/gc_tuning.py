"""Garbage collection in busy processes: rarely, and never of objects that exist from the start.

Handling a delivery creates no reference cycles (measured: 0 objects in 2,000 deliveries). Python's default, a
collection after every 700 new objects, found nothing and took a tenth of the time of a delivery and a sixth of a
rebuild. Cycles that reads create are freed a little later.
"""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager

SERVING = (20_000, 10, 10)
REBUILDING = (50_000, 20, 100)
"""Thresholds as `gc.set_threshold` takes them."""


@contextmanager
def collect_rarely(thresholds: tuple[int, int, int]) -> Generator[None]:
    """Exempt existing objects from collection and use these thresholds until leaving."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*thresholds)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()

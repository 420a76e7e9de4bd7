"""How often the garbage collector looks while a server runs: rarely, and never at what was there when it began.

A delivery leaves nothing behind that is in a cycle (measured: 0 objects of 2,000 deliveries), so looking after every 700 new objects
found nothing, for a tenth of what a delivery costs. What the reading side leaves is found a little later.
"""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager

RARELY = (20_000, 10, 10)
"""Objects that are new and still there, then how many looks at the young make one at the older."""


@contextmanager
def rarely() -> Generator[None]:
    """Until leaving."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*RARELY)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()

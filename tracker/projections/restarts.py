"""When a server restarted, from the labels of its processes and the first event of each. Pure.

A label is `2024-05-01_03-00-04`: the day of a log file and when the process that wrote it began; in front of it, where known,
the folder of the file (`node-a/2024-…`). A process writes one file a day, so the labels of following days with the same
time are one process. A nightly restart may begin at the same second as one some days before: another process in between
tells the two apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from tracker.domain.facts import Micros

_LABEL = re.compile(r"(?:.*/)?(?P<date>\d{4}-\d\d-\d\d)_(?P<began>.+)", re.DOTALL)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def restart_moments(first_events: Mapping[str, Micros]) -> tuple[Micros, ...]:
    """When each process after the first one began, as far as known, ascending. `first_events`: label → its first event."""
    files = sorted((*_day_and_process(label, at), at) for label, at in first_events.items())
    ordered = sorted(files, key=lambda file: (file[0], file[2]))
    changes = [after[2] for before, after in pairwise(ordered) if before[1] != after[1]]
    return tuple(sorted(changes))


def _day_and_process(label: str, at: Micros) -> tuple[str, str]:
    """The day of a file, and what tells its process from others. Labels of earlier versions have no day."""
    found = _LABEL.fullmatch(label)
    if found is None:
        return f"{_EPOCH + timedelta(microseconds=at):%Y-%m-%d}", label
    return found["date"], found["began"]

"""When each server of a source restarted, from the labels of its processes and the moments of their events. Pure.

A label is `2024-05-01_03-00-04`: the day of a log file and when the process that wrote it began; in front of it, where known,
the folder of the file (`node-a/2024-…`). A process writes one file a day, so the labels of following days with the same
time are one process. A nightly restart may begin at the same second as one some days before: another process in between
tells the two apart.

The folder tells servers apart. In one folder, two processes that wrote at the same time are two servers, and neither ended the
other.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from tracker.domain.facts import Micros
from tracker.domain.room_marks import EARLIEST

Moments = tuple[Micros, ...]

_LABEL = re.compile(r"(?:(?P<folder>.*)/)?(?P<date>\d{4}-\d\d-\d\d)_(?P<began>.+)", re.DOTALL)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _File(NamedTuple):
    """A label: its day, its process, and its first and last event."""

    day: str
    process: str
    first: Micros
    last: Micros


def server_of(label: str) -> str:
    """The server that a label names: its folder, "" where the label has none."""
    found = _LABEL.fullmatch(label)
    return "" if found is None else found["folder"] or ""


def restart_moments(first_events: Mapping[str, Micros], last_events: Mapping[str, Micros]) -> dict[str, Moments]:
    """Server → when each process after the first one began, as far as known, ascending.

    `first_events`, `last_events`: label → its first and its last event; where the last one is not known, it is the first.
    """
    files: dict[str, list[_File]] = {}
    for label, first in first_events.items():
        day, process = _day_and_process(label, first)
        files.setdefault(server_of(label), []).append(_File(day, process, first, last_events.get(label, first)))
    return {server: _changes(found) for server, found in files.items()}


def restarts_of_session(restarts: Mapping[str, Moments], servers: Collection[str]) -> Moments:
    """The restarts that may have ended a session of which these servers wrote.

    A session that only webhooks reported may have been on any server: with several, no restart is known to have ended it.
    """
    if len(restarts) == 1:
        return next(iter(restarts.values()))
    return restarts.get(next(iter(servers)), ()) if len(servers) == 1 else ()


def changed_spans(before: Mapping[str, Moments], after: Mapping[str, Moments]) -> list[tuple[Micros, Micros]]:
    """Spans (low, high) with `low <= at < high` for the last event of each session that another restart follows now, or none."""
    if before and after and (len(before) == 1) != (len(after) == 1):
        # Sessions that only webhooks reported are now known to be on the only server, or no longer.
        moments = [each for restarts in (before, after) for of_server in restarts.values() for each in of_server]
        return [(EARLIEST, max(moments))] if moments else []
    spans: set[tuple[Micros, Micros]] = set()
    for server in before.keys() | after.keys():
        old, new = before.get(server, ()), after.get(server, ())
        for own, other in ((old, new), (new, old)):
            spans.update(span for span in pairwise((EARLIEST, *own)) if span[1] not in other)
    return sorted(spans)


def _changes(files: list[_File]) -> Moments:
    ordered = sorted(files, key=lambda file: (file.day, file.first, file.process))
    together = _at_the_same_time(files)
    changes = [
        after.first
        for before, after in pairwise(ordered)
        if before.process != after.process and frozenset((before.process, after.process)) not in together
    ]
    return tuple(sorted(changes))


def _at_the_same_time(files: list[_File]) -> set[frozenset[str]]:
    """The pairs of processes of which one wrote while the other was still writing."""
    found: set[frozenset[str]] = set()
    running: list[_File] = []
    for file in sorted(files, key=lambda file: (file.first, file.last, file.process)):
        running = [other for other in running if other.last > file.first]
        found.update(frozenset((file.process, other.process)) for other in running if other.process != file.process)
        running.append(file)
    return found


def _day_and_process(label: str, at: Micros) -> tuple[str, str]:
    """The day of a file, and what tells its process from others. Labels of earlier versions have no day."""
    found = _LABEL.fullmatch(label)
    if found is None:
        return f"{_EPOCH + timedelta(microseconds=at):%Y-%m-%d}", label
    return found["date"], found["began"]

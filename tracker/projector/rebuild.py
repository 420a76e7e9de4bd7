"""Make whole new views of a log, on two cores where there are two: each half of the log in a process of its own.

    this process     first half ────► views ──┐
                                              ├─► put together (`projection_halves`) ─► what came meanwhile ─► finished
    second process   second half ───► part ───┘

The second process opens the log by itself and writes a file of its own. Whatever happens to it, the views of the first half
are views of the beginning of the log like any others: then this process goes on from there alone.
"""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Self

from tracker.projector import gc_tuning
from tracker.domain import clock
from tracker.server import stores
from tracker.log.contract import Log
from tracker.projector.merge import merge_parts
from tracker.projector.projector import REBUILD_BATCH, REBUILD_HOLD, LiveViews, Progress, Projector
from tracker.views.contract import MergeableViews

OpenLog = Callable[[], AbstractAsyncContextManager[Log]]
"""How the second process opens the log: importable by name, as `functools.partial(joining.reading_log, config)` is."""

Hidden = Mapping[str, frozenset[str]]
"""Source → fields of details that are not shown."""

WORTH_HALVES = 20_000
"""Records: for fewer, starting a process takes longer than it saves."""
HEAD_START = 4_000
"""Records the first process reads while the second one starts."""
ENDING = "-half"
LOOKED_AT = 0.05
"""Seconds between looks at whether the second process is done."""


async def build(
    log: Log,
    open_log: OpenLog,
    path: Path,
    *,
    hidden: Hidden,
    progress: Progress | None = None,
    until: int | None = None,
    alone: bool = False,
) -> int:
    """Make views at `path`, where there is nothing, of the log up to `until` or its present head; the position reached.

    `alone`: on one core. Raises `LogError`, `ViewsUnavailable`; what is at `path` (and beside it) is worth nothing then.
    """
    head = await log.head() if until is None else until
    second: PartProcess | None = None
    if not alone and head >= WORTH_HALVES and len(os.sched_getaffinity(0)) > 1:
        second = PartProcess(open_log, path, (head + HEAD_START) // 2, head, hidden)
    # Looked for once more on leaving: by then what was remembered is gone.
    with gc_tuning.collect_rarely(gc_tuning.REBUILDING):
        async with stores.new_views(path) as views:
            return await _filled(views, projecting(log, views, hidden), second, progress, until)


async def _filled(
    views: MergeableViews,
    projector: Projector,
    second: PartProcess | None,
    progress: Progress | None,
    until: int | None,
) -> int:
    if second is not None:
        with second:
            await projector.catch_up(second.told(progress), until=second.after)
            if await second.ended(progress):
                await merge_parts(views, second.path, projector.load_facts)
        # Before the indices are made: the disk need not hold both.
        remove_half(second.beside)
    return await projector.catch_up(progress, until=until)


def remove_half(path: Path) -> None:
    """Remove what a second process left beside the views at `path`."""
    for ending in ("", "-lock"):
        path.with_name(path.name + ENDING + ending).unlink(missing_ok=True)


class PartProcess:
    """A process that makes views of the records after position `after` up to `head`; use it as a context manager.

    `path`: of the views of the first half; its own lie beside them.
    """

    def __init__(self, open_log: OpenLog, path: Path, after: int, head: int, hidden: Hidden) -> None:
        self.beside = path
        self.path = path.with_name(path.name + ENDING)
        self.after = after
        self._head = head
        # Spawned, because a fork copies threads' locks.
        context = multiprocessing.get_context("spawn")
        # Without a lock: one writes, one reads, and of a process that is killed no semaphore stays behind.
        self._reached = context.RawValue(ctypes.c_longlong, after)
        shown = dict(hidden)
        self._process: BaseProcess = context.Process(
            target=_make_half, args=(open_log, self.path, after, head, shown, self._reached), daemon=True
        )
        self._started = False

    def __enter__(self) -> Self:
        try:
            self._process.start()
            self._started = True
        except OSError:
            # No process more may be started: then there is none.
            pass
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._started:
            self._process.kill()
            self._process.join()

    @property
    def pid(self) -> int | None:
        """Its process id, once started."""
        return self._process.pid

    def told(self, progress: Progress | None) -> Progress | None:
        """How far both are, as if it were one."""
        if progress is None:
            return None
        return lambda position, _: progress(position + self._reached.value - self.after, self._head)

    async def ended(self, progress: Progress | None) -> bool:
        """Wait for its end; whether its half is made."""
        told = self.told(progress)
        while self._started and self._process.is_alive():
            if told is not None:
                told(self.after, self._head)
            await asyncio.sleep(LOOKED_AT)
        return self._started and self._process.exitcode == 0


def projecting(log: Log, views: LiveViews, hidden: Hidden) -> Projector:
    """The projector of a rebuild."""
    return Projector(log, views, now=clock.now, hidden=hidden, batch=REBUILD_BATCH, hold=REBUILD_HOLD)


def _make_half(
    open_log: OpenLog, path: Path, after: int, head: int, hidden: Hidden, reached: ctypes.c_longlong
) -> None:
    """The second process. It lives as long as its parent, even one that was killed, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with gc_tuning.collect_rarely(gc_tuning.REBUILDING):
            asyncio.run(_half(open_log, path, after, head, hidden, reached))
    except Exception:
        os._exit(1)


async def _half(
    open_log: OpenLog, path: Path, after: int, head: int, hidden: Hidden, reached: ctypes.c_longlong
) -> None:
    def tell(position: int, _: int) -> None:
        reached.value = position

    async with open_log() as log, stores.new_views(path, after) as views:
        await projecting(log, views, hidden).catch_up(tell, until=head)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        # Nothing to clean up: whoever rebuilds next removes the file, and nobody is left to answer.
        os._exit(1)

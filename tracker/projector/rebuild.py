"""Builds complete new views from a log, in two processes where there are two CPU cores.

    this process     first half of the log  ──► views ──┐
                                                        ├─► merged (`projector/merge`) ─► newer records ─► finished
    second process   second half of the log ──► part ───┘

The second process opens the log itself and writes a file of its own. If it fails, nothing is lost: the first half is a
complete projection up to its last position, and this process continues from there alone. Swapping the finished file in is
`views/sqlite/file.swap_in`.
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
from typing import NamedTuple, Self

from tracker.log.contract import RecordReader
from tracker.projector import gc_tuning
from tracker.projector.merge import merge_parts
from tracker.projector.projector import (
    REBUILD_BATCH_RECORDS, REBUILD_DEFERRED_SESSIONS, Progress, Projector,
)  # fmt: skip
from tracker.views.contract import MergeableViews, ViewsWriter

MIN_PARALLEL_RECORDS = 20_000
"""For fewer records, starting a process takes longer than it saves."""
HEAD_START_RECORDS = 4_000
"""Records the first process projects while the second one starts."""
PART_SUFFIX = "-half"
POLL_SECONDS = 0.05
"""Seconds between checks whether the second process has ended."""


class RebuildContext(NamedTuple):
    """How a rebuild opens its stores.

    The second process gets this pickled: every function has to be importable by name, or a `functools.partial` of one
    that is. `open_log` opens the log for reading. `new_views(path, after)` creates empty views for the records after a
    position and completes the file on leaving. `hidden`: source → fields not shown.
    """

    open_log: Callable[[], AbstractAsyncContextManager[RecordReader]]
    new_views: Callable[[Path, int], AbstractAsyncContextManager[MergeableViews]]
    hidden: Mapping[str, frozenset[str]]

    def projector(self, log: RecordReader, views: ViewsWriter) -> Projector:
        """The projector of a rebuild."""
        return Projector(
            log, views, hidden=self.hidden, batch_size=REBUILD_BATCH_RECORDS,
            deferred_sessions=REBUILD_DEFERRED_SESSIONS,
        )  # fmt: skip


async def build_views(
    log: RecordReader,
    path: Path,
    context: RebuildContext,
    *,
    progress: Progress | None = None,
    until: int | None = None,
    single_process: bool = False,
) -> int:
    """Build views in a new file at `path`, up to `until` or the present head. Returns the position reached.

    Raises `LogError`, `ViewsUnavailable`; then the file at `path`, and its part beside it, are incomplete: remove them.
    """
    head = await log.head() if until is None else until
    second: PartProcess | None = None
    if not single_process and head >= MIN_PARALLEL_RECORDS and len(os.sched_getaffinity(0)) > 1:
        second = PartProcess(context, path, (head + HEAD_START_RECORDS) // 2, head)
    with gc_tuning.collect_rarely(gc_tuning.REBUILDING):
        async with context.new_views(path, 0) as views:
            projector = context.projector(log, views)
            if second is not None:
                with second:
                    await projector.catch_up(second.combined_progress(progress), until=second.after)
                    if await second.wait(progress):
                        await merge_parts(views, second.path, projector.load_facts)
                # Remove the part before the indices are built: the disk need not hold both.
                remove_part(path)
            return await projector.catch_up(progress, until=until)


def remove_part(path: Path) -> None:
    """Remove the file of a second process beside the views at `path`, if there is one."""
    for ending in ("", "-lock"):
        path.with_name(path.name + PART_SUFFIX + ending).unlink(missing_ok=True)


class PartProcess:
    """A process that builds views of the records after `after` up to `head`. Use it as a context manager.

    `views_path` is the file of the first half; the process writes to `path`, beside it.
    """

    def __init__(self, context: RebuildContext, views_path: Path, after: int, head: int) -> None:
        self.path = views_path.with_name(views_path.name + PART_SUFFIX)
        self.after = after
        self._head = head
        # Spawn: a forked process would inherit locks that other threads hold.
        spawn = multiprocessing.get_context("spawn")
        # No lock: one process writes, one reads. A lock's semaphore would outlive a killed process.
        self._reached = spawn.RawValue(ctypes.c_longlong, after)
        # Only plain dicts can be pickled, not every mapping.
        context = context._replace(hidden=dict(context.hidden))
        self._process: BaseProcess = spawn.Process(
            target=_build_part, args=(context, self.path, after, head, self._reached), daemon=True
        )
        self._is_started = False

    def __enter__(self) -> Self:
        try:
            self._process.start()
            self._is_started = True
        except OSError:
            # The system allows no more processes: `wait` returns False, and the rebuild continues in this one.
            pass
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_started:
            self._process.kill()
            self._process.join()

    @property
    def pid(self) -> int | None:
        """The process id, once started."""
        return self._process.pid

    def combined_progress(self, progress: Progress | None) -> Progress | None:
        """A callback for the first process that adds the second one's progress."""
        if progress is None:
            return None
        return lambda position, _: progress(position + self._reached.value - self.after, self._head)

    async def wait(self, progress: Progress | None) -> bool:
        """Wait until the process ends. Returns whether its part is complete."""
        report = self.combined_progress(progress)
        while self._is_started and self._process.is_alive():
            if report is not None:
                report(self.after, self._head)
            await asyncio.sleep(POLL_SECONDS)
        return self._is_started and self._process.exitcode == 0


def _build_part(context: RebuildContext, path: Path, after: int, head: int, reached: ctypes.c_longlong) -> None:
    """The second process. It ends with its parent, even if that was killed, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        with gc_tuning.collect_rarely(gc_tuning.REBUILDING):
            asyncio.run(_project_part(context, path, after, head, reached))
    except Exception:
        os._exit(1)


async def _project_part(context: RebuildContext, path: Path, after: int, head: int, reached: ctypes.c_longlong) -> None:
    def report(position: int, _: int) -> None:
        reached.value = position

    async with context.open_log() as log, context.new_views(path, after) as views:
        await context.projector(log, views).catch_up(report, until=head)


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        # No cleanup: the next rebuild removes the file.
        os._exit(1)

"""Builds complete new views from a log in several processes, one for each CPU core.

    this process    part 1 of the log ──► views ──┬────────┬─► finished
    process 2       part 2 ──► a file ──► merged ─┘        │
    process 3       part 3 ──► a file ─────────► merged ───┘

A part is a span of positions. Each process opens the log itself, and its memory does not depend on the size of its part. This
process merges the files in order (`projector/merge`), while later parts are still built, and removes each one. Swapping the
finished file in is `views/sqlite/file.swap_in`. If a process fails, the rebuild fails, and the views in use are unchanged.

LIMIT: a part holds as many records as its process is expected to project in time, whatever is in them. A slow core delays all.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tracker.errors import TrackerError, ViewsUnavailable
from tracker.log.contract import RecordReader
from tracker.projector import gc_tuning
from tracker.projector.merge import merge_parts
from tracker.projector.projector import (
    REBUILD_BATCH_RECORDS, REBUILD_DEFERRED_SESSIONS, Progress, Projector,
)  # fmt: skip
from tracker.views.contract import MergeableViews, ViewsWriter

MIN_PART_RECORDS = 10_000
"""For fewer records, starting a process takes longer than it saves."""
HEAD_START_RECORDS = 4_000
"""Records the first process projects while the others start."""
MAX_JOBS = 32
"""More processes would wait for their turn to be merged, which one process does."""
MERGE_SHARE = 0.08
"""Merging a record costs this share of projecting it. Each part is larger by it than the one before, which is merged meanwhile."""
PART_SUFFIX = "-part"
POLL_SECONDS = 0.05
"""Seconds between checks whether a process has ended."""


class RebuildContext(NamedTuple):
    """How a rebuild opens its stores.

    The other processes get this pickled: every function has to be importable by name, or a `functools.partial` of one
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
    jobs: int | None = None,
) -> int:
    """Build views in a new file at `path`, up to `until` or the present head. Returns the position reached.

    `jobs`: how many processes build parts at once, this one included; by default one for each CPU core; at most `MAX_JOBS`.
    Raises `LogError`, `ViewsUnavailable`; then the file at `path`, and its parts beside it, are incomplete: remove them.
    """
    head = await log.head() if until is None else until
    ends = cut(head, jobs or len(os.sched_getaffinity(0)))
    parts = [PartProcess(context, path, *span) for span in itertools.pairwise(ends)]

    def report(position: int, _: int) -> None:
        """Pass on the progress of all processes; end the rebuild as soon as one has failed."""
        for part in parts:
            part.check()
        if progress is not None:
            progress(position + sum(part.done for part in parts if part.after >= position), head)

    with gc_tuning.collect_rarely(gc_tuning.REBUILDING):
        async with context.new_views(path, 0) as views:
            projector = context.projector(log, views)
            with ExitStack() as running:
                for part in parts:
                    running.enter_context(part)
                await projector.catch_up(report, until=ends[0])
                for part in parts:
                    while not part.is_complete():
                        report(part.after, head)
                        await asyncio.sleep(POLL_SECONDS)
                    await merge_parts(views, part.path, projector.load_facts)
                    part.remove()
            return await projector.catch_up(progress, until=until)


def cut(head: int, jobs: int) -> Sequence[int]:
    """The last position of each part, ascending: at most `jobs` parts, fewer of a small log."""
    jobs = max(1, min(jobs, MAX_JOBS, head // MIN_PART_RECORDS))
    weights = [1.0, *((1 + MERGE_SHARE) ** n for n in range(jobs - 1))]
    head_start = HEAD_START_RECORDS * (jobs - 1) // jobs
    share = (head - head_start) / sum(weights)
    ends = {max(1, head_start + int(share * sum(weights[:n]))) for n in range(1, jobs)}
    return sorted({*ends, head})


def remove_parts(path: Path) -> None:
    """Remove what the other processes of a rebuild left beside the views at `path`."""
    for left in path.parent.glob(f"{path.name}{PART_SUFFIX}-*"):
        left.unlink(missing_ok=True)


class PartProcess:
    """A process that builds views of the records after `after` up to `until`. Use it as a context manager.

    `views_path` is the file of the first part; the process writes to `path`, beside it.
    """

    def __init__(self, context: RebuildContext, views_path: Path, after: int, until: int) -> None:
        self.path = views_path.with_name(f"{views_path.name}{PART_SUFFIX}-{after}")
        self.after = after
        self._until = until
        # Spawn: a forked process would inherit locks that other threads hold.
        spawn = multiprocessing.get_context("spawn")
        # No lock: one process writes, one reads. A lock's semaphore would outlive a killed process.
        self._reached = spawn.RawValue(ctypes.c_longlong, after)
        self._failure, self._writing_end = spawn.Pipe(duplex=False)
        # Only plain dicts can be pickled, not every mapping.
        context = context._replace(hidden=dict(context.hidden))
        self._process: BaseProcess = spawn.Process(
            target=_build_part, args=(context, self.path, after, until, self._reached, self._writing_end), daemon=True
        )

    def __enter__(self) -> Self:
        try:
            self._process.start()
        except OSError as error:
            self._failure.close()
            raise ViewsUnavailable(
                f"the rebuild cannot start another process ({error}): use fewer, with `tracker rebuild --jobs 1`"
            ) from None
        finally:
            self._writing_end.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.join()
        self._failure.close()

    @property
    def pid(self) -> int | None:
        """The process id, once started."""
        return self._process.pid

    @property
    def done(self) -> int:
        """How many records of the part are projected."""
        return self._reached.value - self.after

    def is_complete(self) -> bool:
        """Whether the process has ended and left its part complete. Raises `ViewsUnavailable` if it failed."""
        self.check()
        return self._process.exitcode == 0

    def check(self) -> None:
        """Raises `ViewsUnavailable` if the process failed."""
        code = self._process.exitcode
        if code is None or code == 0:
            return
        what = f"the process of the rebuild for the records {self.after + 1} to {self._until}"
        if code < 0:
            raise ViewsUnavailable(
                f"{what} was ended by signal {-code}; the views in use are unchanged. "
                "If memory is short, use fewer processes: `tracker rebuild --jobs 1`"
            )
        try:
            reason = str(self._failure.recv())
        except (EOFError, OSError):
            reason = f"exit code {code}"
        raise ViewsUnavailable(f"{what} failed; the views in use are unchanged: {reason}")

    def remove(self) -> None:
        """Remove the file of a part that is merged: the disk need not hold both."""
        for ending in ("", "-lock"):
            self.path.with_name(self.path.name + ending).unlink(missing_ok=True)


def _build_part(
    context: RebuildContext, path: Path, after: int, until: int, reached: ctypes.c_longlong, failure: Connection
) -> None:
    """What such a process does. It ends with its parent, even if that was killed, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        with gc_tuning.collect_rarely(gc_tuning.REBUILDING):
            asyncio.run(_project_part(context, path, after, until, reached))
    except Exception as error:
        failure.send(str(error) if isinstance(error, TrackerError) else repr(error))
        os._exit(1)


async def _project_part(
    context: RebuildContext, path: Path, after: int, until: int, reached: ctypes.c_longlong
) -> None:
    def report(position: int, _: int) -> None:
        reached.value = position

    async with context.open_log() as log, context.new_views(path, after) as views:
        await context.projector(log, views).catch_up(report, until=until)


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        # No cleanup: the next rebuild removes the file.
        os._exit(1)

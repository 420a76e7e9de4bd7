"""The projector's process, `tracker project`: reads the log, and alone writes the views while a server runs.

    log ─► views missing, damaged or far behind? make them again ─► projector ─► views

A server starts it, and starts it again when it ends (`projector_process`). It may be killed at any moment: the next one
continues from the views' projected position. An error that the projector cannot wait out ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path

import structlog

from tracker.config.load import Config
from tracker.errors import LogUnavailable, TrackerError
from tracker.log.contract import Log
from tracker.log.file_lock import FileLock, lock
from tracker.projector import gc_tuning
from tracker.projector.projector import Projector
from tracker.server import declarations, projector_files, stores
from tracker.server.auto_rebuild import rebuild_if_far_behind
from tracker.server.projector_files import ProjectorStatus
from tracker.server.sources import redacted_fields
from tracker.views.sqlite.views import SqliteViews

POLL_SECONDS = 1.0
LOCK_POLL_SECONDS = 0.05

_log = structlog.get_logger("projector")


async def run(config: Config) -> None:
    """Project until SIGTERM. Raises `LogError`, `ViewsError`, and what the projector raises."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    try:
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(await _lock_views(config.views_path))
            log = await stores.open_followed_log(config)
            stack.push_async_callback(log.close)
            await declarations.use_recorded(log)
            views = await stores.open_live_views(config, writable=True)
            stack.push_async_callback(views.close)
            projection = Projection(config, log, views)
            with gc_tuning.collect_rarely(gc_tuning.SERVING):
                async with asyncio.TaskGroup() as group:
                    running = group.create_task(projection.run())
                    await stop.wait()
                    running.cancel()
    except* TrackerError as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


async def _lock_views(views: Path) -> FileLock:
    """The lock that one projector holds. The projector of a killed server may still hold it for a moment."""
    path, last = views.with_name(views.name + projector_files.STATUS_SUFFIX), ""
    while True:
        try:
            return lock(path)
        except LogUnavailable as error:
            if error.reason != "locked" and last != str(error):
                last = str(error)
                _log.error("the views cannot be locked, trying again", reason=last)
        await asyncio.sleep(LOCK_POLL_SECONDS)


class Projection:
    """Keeps the views up to date with the log, and in good order. The caller closes both."""

    def __init__(self, config: Config, log: Log, views: SqliteViews) -> None:
        self._config = config
        self._log = log
        self._views = views
        self._status = StatusWriter(config.views_path)
        self._replaced = asyncio.Event()
        """Set when empty views took the place of missing or damaged ones."""

    async def run(self) -> None:
        """Run for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._project())
            group.create_task(self._replace_broken_views())
            group.create_task(self._status.run())

    async def _project(self) -> None:
        """Run the projector until its views were replaced by empty ones; then begin again with another one."""
        while True:
            if await rebuild_if_far_behind(self._config, self._log, self._views):
                await declarations.use_recorded(self._log)  # the rebuild used those of now
            projector = Projector(self._log, self._views, observer=self._status, hidden=redacted_fields(self._config))
            async with asyncio.TaskGroup() as group:
                projecting = group.create_task(projector.run())
                await self._replaced.wait()
                projecting.cancel()
            self._replaced.clear()

    async def _replace_broken_views(self) -> None:
        """Put an empty file in the place of views that were deleted or are damaged; the projector, or a rebuild, fills it."""
        path, last = self._config.views_path, ""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            found = self._views.damage or await asyncio.to_thread(projector_files.take_damage_report, path)
            if found is None and path.exists() and self._views.is_open:
                continue
            try:
                if found is None and path.exists():
                    await stores.repair_views(self._config)
                    self._replaced.set()
                if found is not None:
                    inode, reason = found
                    self._status.was_damaged |= await stores.move_damaged_views(self._config, reason, inode)
                if not path.exists():
                    await stores.create_views(self._config)
                    self._replaced.set()
                    _log.warning("there are no views, rebuilding them from the log", path=str(path))
                last = ""
            except TrackerError as error:
                if last != str(error):
                    last = str(error)
                    _log.error("the views cannot be replaced", reason=last)


class StatusWriter:
    """The projector's observer: writes what it reports to `<views>-projector`, at most once a second."""

    def __init__(self, views: Path) -> None:
        self._path = views
        self._saved = projector_files.read_status(views)
        self._outcomes = {source: dict(counts) for source, counts in self._saved.outcomes.items()}
        self._set_aside = self._saved.set_aside
        self.was_damaged = self._saved.was_damaged

    def projected(self, position: int, head: int) -> None:
        """See `ProjectorObserver`. The server reads position and lag from log and views."""
        if position >= head:
            self.was_damaged = False

    def set_aside(self, sessions: int) -> None:
        """See `ProjectorObserver`."""
        self._set_aside = sessions

    def unreadable(self, source: str, kind: str) -> None:
        """See `ProjectorObserver`."""
        counts = self._outcomes.setdefault(source, {})
        counts[kind] = counts.get(kind, 0) + 1

    async def run(self) -> None:
        """Write for ever."""
        try:
            while True:
                await asyncio.to_thread(self._write)
                await asyncio.sleep(POLL_SECONDS)
        finally:
            self._write()

    def _write(self) -> None:
        outcomes = {source: dict(counts) for source, counts in self._outcomes.items()}
        status = ProjectorStatus(outcomes, self._set_aside, self.was_damaged)
        if status != self._saved:
            projector_files.write_status(self._path, status)
            self._saved = status

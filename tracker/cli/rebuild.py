"""`tracker rebuild`: builds the views from the log and swaps them in; with `--check` only compares.

A server may run on the same stores meanwhile. If we die here, the views in use are unchanged: new views are swapped in
when they are complete.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import msgspec
import structlog

from tracker.cli import output
from tracker.cli.arguments import Subparsers, add_command
from tracker.cli.output import print_json, print_line, printable
from tracker.cli.parent import lower_priority
from tracker.config.load import Config
from tracker.domain.deliveries import TRACKER
from tracker.domain.set_aside import SetAside
from tracker.errors import LogUnavailable, ViewsMissing, ViewsUnavailable
from tracker.log.contract import Log
from tracker.log.file_lock import lock
from tracker.projector import rebuild as views_rebuild
from tracker.projector.projector import Progress, compare_views
from tracker.server import cluster_stores, erasure_sync, stores
from tracker.server.sources import redacted_fields

MAX_DIFFERENCES = 20
MAX_SET_ASIDE = 100
POLL_SECONDS = 0.5
"""Between two looks whether another rebuild has ended."""
REBUILD_SUFFIX, FRESH_SUFFIX, COPY_SUFFIX = "-rebuild", "-check", "-held"
"""Files beside the views: of a rebuild; of a check, its fresh views and its copy of the views in use."""

_log = structlog.get_logger("rebuild")


class RebuildResult(msgspec.Struct, frozen=True):
    """The views are rebuilt up to `position`. `set_aside`: sessions that could not be built, at most `MAX_SET_ASIDE`."""

    position: int
    set_aside: list[SetAside]


class CheckResult(msgspec.Struct, frozen=True):
    """The views compared with a rebuild up to `position`; `behind`: records of the log that they lacked then."""

    position: int
    behind: int
    differences: list[str]


def add_to(subparsers: Subparsers) -> None:
    """Declare the command."""
    summary = "Rebuild the views from the log and swap them in."
    parser = add_command(subparsers, "rebuild", run, summary, as_json=True)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="only compare; exit 1 and print the first rows that differ")
    mode.add_argument("--wait", action="store_true", help="when another rebuild is running, wait for its end first")
    parser.add_argument(
        "--jobs", type=jobs, metavar="N", help="how many processes project at once; default: one for each CPU core"
    )


def jobs(text: str) -> int:
    """The type of `--jobs`."""
    number = int(text)
    if not 1 <= number <= views_rebuild.MAX_JOBS:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 to {views_rebuild.MAX_JOBS}")
    return number


def run(arguments: argparse.Namespace) -> int:
    """Rebuild the views, or with `--check` only compare them; 1 when they differ."""
    config: Config = arguments.config
    if arguments.end_with_parent:
        lower_priority()
    if arguments.check:
        return _run_check(config, arguments.jobs, as_json=arguments.json)
    with output.progress("rebuild", "records") as report:
        rebuilt = asyncio.run(rebuild(config, report, wait=arguments.wait, jobs=arguments.jobs))
    if arguments.json:
        print_json(rebuilt)
    else:
        for each in rebuilt.set_aside:
            print_line(printable(f"{each.session} is set aside: record {each.position}: {each.reason}"))
        print_line(f"the views at {config.views_path} are rebuilt up to position {rebuilt.position}")
    return 0


def _run_check(config: Config, jobs: int | None, *, as_json: bool) -> int:
    with output.progress("check", "records") as report:
        checked = asyncio.run(check(config, report, jobs=jobs))
    if as_json:
        print_json(checked)
    elif checked.differences:
        for line in checked.differences:
            print_line(printable(line))
        print_line(f"the views differ from the log at position {checked.position}: run `tracker rebuild`")
    else:
        behind = f"; {checked.behind} newer records are not projected yet" if checked.behind else ""
        print_line(f"the views match the log up to position {checked.position}{behind}")
    return 1 if checked.differences else 0


async def rebuild(
    config: Config, progress: Progress | None = None, *, wait: bool = False, jobs: int | None = None
) -> RebuildResult:
    """Build new views from the log beside the old ones, then swap them in; a running server changes over to them.

    `wait` until another rebuild ends: it may have read an older log than this one has to. `jobs`: see `build_views`.
    Raises `LogError` (`NodeDiverged`: the views would show what was not signed) and `ViewsUnavailable` (another rebuild is
    running, or the disk is full); then the old views stay.
    """
    async with _turn(config, wait=wait) as path:
        async with stores.reading_log(config) as log:
            await cluster_stores.expect_undiverged(config, log)
            last_erasure = await log.last_from_source(TRACKER) if config.log.engine == "jetstream" else 0
            position = await _build(config, log, path, progress, jobs)
        await stores.swap_views(path, config)
    if last_erasure:
        erasure_sync.save_position(config.views_path, last_erasure)
    async with stores.views_at(config.views_path, writable=False) as views:
        return RebuildResult(position, await views.set_aside(limit=MAX_SET_ASIDE))


async def check(
    config: Config, progress: Progress | None = None, *, limit: int = MAX_DIFFERENCES, jobs: int | None = None
) -> CheckResult:
    """Compare the views with views built from the log up to the same position. Changes nothing.

    Raises `LogError`, `ViewsMissing`, `ViewsOutdated`, `ViewsUnavailable`.
    """
    if not config.views_path.exists():
        raise ViewsMissing(f"there are no views at {config.views_path}: run `tracker rebuild`")
    with _scratch_path(config, FRESH_SUFFIX) as path, _scratch_path(config, COPY_SUFFIX) as copy:
        await stores.copy_views(config, copy)
        async with stores.reading_log(config) as log, stores.views_at(copy, writable=False) as current:
            position, head = await current.projected_position(), await log.head()
            if position > head:
                return CheckResult(position, 0, [f"the views are at position {position}, but the log ends at {head}"])
            await _build(config, log, path, progress, jobs, until=position)
            async with stores.views_at(path, writable=False) as fresh:
                return CheckResult(position, head - position, await compare_views(current, fresh, limit=limit))


def remove_check_leftovers(config: Config) -> None:
    """Remove the files that a killed check left beside the views; those of a running check stay."""
    for suffix in (FRESH_SUFFIX, COPY_SUFFIX):
        with contextlib.suppress(ViewsUnavailable), _scratch_path(config, suffix):
            pass


async def _build(
    config: Config, log: Log, path: Path, progress: Progress | None, jobs: int | None, *, until: int | None = None
) -> int:
    open_log = functools.partial(stores.reading_log, config)
    context = views_rebuild.RebuildContext(open_log, stores.new_views, redacted_fields(config))
    return await views_rebuild.build_views(log, path, context, progress=progress, until=until, jobs=jobs)


class _PathInUse(ViewsUnavailable):
    """Another process is working on this path. Callers see it as `ViewsUnavailable`."""


@contextlib.asynccontextmanager
async def _turn(config: Config, *, wait: bool) -> AsyncGenerator[Path]:
    """The scratch path of a rebuild; with `wait`, once no other process works on it."""
    is_waiting = False
    with contextlib.ExitStack() as stack:
        while True:
            try:
                path = stack.enter_context(_scratch_path(config, REBUILD_SUFFIX))
                break
            except _PathInUse as error:
                if not wait:
                    raise
                if not is_waiting:
                    _log.info("waiting for another rebuild to end", path=str(config.views_path), reason=str(error))
                is_waiting = True
            await asyncio.sleep(POLL_SECONDS)
        yield path


@contextlib.contextmanager
def _scratch_path(config: Config, suffix: str) -> Generator[Path]:
    """A locked path beside the views, on the same file system. Leftovers of an interrupted run are removed."""
    path = config.views_path.with_name(config.views_path.name + suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        locked = lock(path)
    except LogUnavailable as error:
        if error.reason != "locked":
            raise ViewsUnavailable(str(error)) from None
        raise _PathInUse(
            f"another rebuild or check, perhaps the server's own, is working on {path}: wait for its end, or use `--wait`"
        ) from None
    with locked:
        try:
            _remove(path)
            yield path
        finally:
            _remove(path)
            locked.path.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    views_rebuild.remove_parts(path)
    for ending in ("", "-wal", "-shm", "-journal", "-lock"):
        path.with_name(path.name + ending).unlink(missing_ok=True)

"""What the command line does without a server: each function does one whole piece of work on the stores and returns.

    begin         make the log                       import_files   files → log
    rebuild       log → new views, swapped in        check          log → fresh views, compared with those held
    records       the evidence, as it is

A server may run on the same stores meanwhile. If we die here nothing is half done: views get their name when they are
whole, imports are whole batches.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from pathlib import Path

import msgspec
import structlog

from tracker.domain import clock
from tracker.cli import desk_reading
from tracker.ingest import file_import
from tracker.projector import rebuild as rebuilding
from tracker.server import erasure_sync, stores
from tracker.evidence.bundle.record_lines import RecordLine, encode_line
from tracker.config.load import Config
from tracker.domain.deliveries import OURS, Record
from tracker.errors import ConfigInvalid, LogCorrupt, LogUnavailable, ViewsMissing, ViewsUnavailable
from tracker.ingest.file_import import FileReport
from tracker.log.contract import Log
from tracker.projector.projector import Progress, compare_views
from tracker.server.sources import build_source

MOST_DIFFERENCES = 20
PAGE = 1000
LOOK_SECONDS = 0.5

_log = structlog.get_logger("desk")


class RebuildResult(msgspec.Struct, frozen=True):
    """Views made anew up to `position`."""

    position: int


class CheckResult(msgspec.Struct, frozen=True):
    """Views compared with a rebuild at `position`; `behind`: records of the log they had not seen then."""

    position: int
    behind: int
    differences: list[str]


async def init(config: Config, told: Callable[[str], None] | None = None) -> list[Path]:
    """Make the empty log, its signing key, and the key store where master keys are configured; the files that were made.

    A log that is there already gets the signing key or the key store it lacks, when that was configured later. Raises `LogUnavailable`
    when everything is there already. `told`: of a cluster, whether its stream was made or joined.
    """
    made: list[Path] = []
    # First the keys: a log without them is no use, keys without a log are harmless.
    if config.sealing.masters and not config.sealing.path.exists():
        if config.log.path.exists():
            await stores.expect_unsealed(config)
        await stores.create_key_store(config)
        made.append(config.sealing.path)
    if stores.create_signer(config) is not None:
        made.append(config.evidence.key_file)
    if not (made and config.log.path.exists()):
        await stores.create_log(config, told)
        made.append(config.log.path)
    return made


async def rekey(config: Config, progress: Progress | None = None) -> int:
    """Wrap every data key with the current master key; how many were wrapped anew. A server may run meanwhile.

    Raises `ConfigInvalid` without master keys, `LogError`.
    """
    if not config.sealing.masters:
        raise ConfigInvalid("sealing.keys: there is no master key: name one to seal bodies")
    vault = await stores.open_key_store(config)
    try:
        # With the last position the older master's name goes, so it comes last.
        frames = await stores.rewrap_frames(config, vault)
        count, done = await vault.count_outdated(), 0
        after: int | None = 0
        while after is not None:
            if progress is not None:
                progress(done, count)
            left = await vault.count_outdated()
            after, done = await vault.rewrap(after), count - left
        return count + frames
    finally:
        await vault.close()


async def import_files(
    config: Config, source_name: str, files: Sequence[Path], progress: file_import.Progress | None = None
) -> list[FileReport]:
    """See `importer.import_files`. Raises `ConfigInvalid` for an unknown source, `LogError`."""
    source = build_source(config.source(source_name))
    async with stores.appending_log(config) as log:
        return await file_import.import_files(source, log, files, now=clock.now, progress=progress)


async def rebuild(config: Config, progress: Progress | None = None, *, waits: bool = False) -> RebuildResult:
    """Make the views anew from the log beside the old ones, then swap them in; a running server goes over to them.

    `waits` for another rebuild to end: what it read may be older than what has to show.
    Raises `LogError` (`NodeDiverged`: it would show what was not signed), `ViewsUnavailable` (another rebuild runs, or no
    room on the disk); the old views stay then.
    """
    async with _in_turn(config, "-rebuild", waits=waits) as path:
        async with stores.reading_log(config) as log:
            await stores.expect_undiverged(config, log)
            told = await log.last_from_source(OURS) if config.log.engine == "jetstream" else 0
            position = await _build(config, log, path, progress)
        await stores.swap_views(path, config)
    if told:
        erasure_sync.remember(config.views_path, told)
    return RebuildResult(position)


async def check(config: Config, progress: Progress | None = None, *, limit: int = MOST_DIFFERENCES) -> CheckResult:
    """Compare the views with a fresh reading of the log up to the position they are at. Changes nothing.

    Raises `LogError`, `ViewsMissing`, `ViewsOutdated`, `ViewsUnavailable`.
    """
    if not config.views_path.exists():
        raise ViewsMissing(f"there are no views at {config.views_path}: run `tracker rebuild`")
    with _beside(config, "-check") as path, _beside(config, "-held") as copy:
        await stores.copy_views(config, copy)
        async with stores.reading_log(config) as log, stores.views_at(copy, writable=False) as held:
            position, head = await held.projected_position(), await log.head()
            if position > head:
                return CheckResult(position, 0, [f"the views are at position {position}, but the log ends at {head}"])
            await _build(config, log, path, progress, until=position)
            async with stores.views_at(path, writable=False) as fresh:
                return CheckResult(position, head - position, await compare_views(held, fresh, limit=limit))


async def records(
    config: Config, *, session: str | None = None, source: str | None = None, after: int = 0, limit: int | None = None
) -> AsyncGenerator[Record]:
    """Records after a position, in order, at most `limit`; only those behind a session, only those of a source.

    Whoever stops before the end closes it (`contextlib.aclosing`): it holds the stores open. Raises `LogError`, `ViewsError`, `NotFound`, `Ambiguous`.
    """
    found = _all_records(config, after) if session is None else _records_behind(config, session, after)
    given = 0
    # Closed here, and not when it is collected: the threads of open stores would keep the process alive.
    async with contextlib.aclosing(found):
        async for record in found:
            if source is not None and record.source != source:
                continue
            if limit is not None and given >= limit:
                return
            given += 1
            yield record


async def lines_with_leaves(config: Config, found: AsyncGenerator[Record]) -> AsyncGenerator[bytes]:
    """These records as lines of JSON with their leaves, as bundles have them. Raises what `found` raises."""
    async with stores.reading_log(config) as log, contextlib.aclosing(found):
        async for record in found:
            leaf = await log.leaf(record.position)
            if leaf is None:
                raise LogCorrupt(f"the record at position {record.position} has no leaf: run `tracker verify`")
            yield encode_line(RecordLine(record, leaf._replace(salt=None) if record.erased_by is not None else leaf))


async def records_at(config: Config, positions: Sequence[int]) -> AsyncGenerator[Record]:
    """The records at these positions, as given; a position that is not in the log is left out."""
    async with stores.reading_log(config) as log:
        for position in positions:
            record = await log.record(position)
            if record is not None:
                yield record


async def _all_records(config: Config, after: int) -> AsyncGenerator[Record]:
    async with stores.reading_log(config) as log:
        async for chunk in log.read(after):
            for record in chunk:
                yield record


async def _records_behind(config: Config, any_id: str, after: int) -> AsyncGenerator[Record]:
    async with stores.reading_views(config) as views, stores.reading_log(config) as log:
        session = await desk_reading.only_session(views, any_id)
        while positions := await views.session_positions(session.id, limit=PAGE, after=after):
            for after in positions:  # noqa: PLR1704 - the next page begins after the last position given
                record = await log.record(after)
                if record is not None:
                    yield record


async def _build(config: Config, log: Log, path: Path, progress: Progress | None, *, until: int | None = None) -> int:
    context = rebuilding.RebuildContext(
        functools.partial(stores.reading_log, config), stores.new_views, stores.hidden(config)
    )
    return await rebuilding.build_views(log, path, context, progress=progress, until=until)


class _AtWork(ViewsUnavailable):
    """Somebody else is at work there. Leaves this file as `ViewsUnavailable`."""


@contextlib.asynccontextmanager
async def _in_turn(config: Config, suffix: str, *, waits: bool) -> AsyncGenerator[Path]:
    """`_beside`; `waits` until whoever is at work there has ended."""
    said = False
    with contextlib.ExitStack() as stack:
        while True:
            try:
                path = stack.enter_context(_beside(config, suffix))
                break
            except _AtWork as error:
                if not waits:
                    raise
                if not said:
                    _log.info("waiting for another rebuild to end", path=str(config.views_path), reason=str(error))
                said = True
            await asyncio.sleep(LOOK_SECONDS)
        yield path


@contextlib.contextmanager
def _beside(config: Config, suffix: str) -> Generator[Path]:
    """A path for views on the same file system, ours alone while we work; whatever an interrupted run left is removed."""
    path = config.views_path.with_name(config.views_path.name + suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        held = stores.lock(path)
    except LogUnavailable as error:
        if not isinstance(error.__cause__, BlockingIOError):
            raise ViewsUnavailable(str(error)) from None
        raise _AtWork(
            f"{path} is being made by another rebuild or check, maybe the server's own: wait for its end, or for `--wait`"
        ) from None
    with held:
        try:
            _remove(path)
            yield path
        finally:
            _remove(path)
            held.path.unlink(missing_ok=True)


def remove_left_over(config: Config, suffix: str) -> None:
    """Remove what a check that died left beside the views; one that runs keeps it."""
    with contextlib.suppress(ViewsUnavailable), _beside(config, suffix):
        pass


def _remove(path: Path) -> None:
    rebuilding.remove_part(path)
    for ending in ("", "-wal", "-shm", "-journal", "-lock"):
        path.with_name(path.name + ending).unlink(missing_ok=True)

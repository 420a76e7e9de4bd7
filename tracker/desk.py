"""What the command line does without a server: each function does one whole piece of work on the stores and returns.

    begin         make the log                       import_files   files → log
    rebuild       log → new views, swapped in        check          log → fresh views, compared with those held
    verify        the log, record by record          records, export_lines   the evidence, as it is

A server may run on the same stores meanwhile. If we die here nothing is half done: views get their name when they are
whole, imports are whole batches.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from tracker import desk_reading, importer, joining
from tracker.config import Config
from tracker.deliveries import Record
from tracker.errors import DeliveryRejected, KeyUnknown, LogUnavailable, ViewsMissing, ViewsUnavailable
from tracker.importer import FileReport
from tracker.log.contract import Log
from tracker.projector import Progress, Projector, differences
from tracker.sources import registry
from tracker.sources.contract import Source, SourceSettings
from tracker.sources.reverifying import delivery_again

MOST_FAULTS = 20
PAGE = 1000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Rebuilt(msgspec.Struct, frozen=True):
    """Views made anew up to `position`."""

    position: int


class Checked(msgspec.Struct, frozen=True):
    """Views compared with a rebuild at `position`; `behind`: records of the log they had not seen then."""

    position: int
    behind: int
    differences: list[str]


class Fault(msgspec.Struct, frozen=True):
    """Something in the log that cannot be right."""

    position: int
    what: str


class Verification(msgspec.Struct, kw_only=True):
    """What going over the log found.

    `proofs` counts records by what became of their proof:
    `checked` (verified again with the configured secret), `key unknown` (its key is no longer configured),
    `source unknown` (the source is no longer configured), `only the key is kept`, `import` (the operator's word).
    """

    records: int = 0
    proofs: dict[str, int] = {}
    faults: list[Fault] = []
    is_cut_short: bool = False


async def begin(config: Config) -> None:
    """Make the empty log. Raises `LogUnavailable` when there is something at its path already."""
    await joining.create_log(config)


async def import_files(
    config: Config, source_name: str, files: Sequence[Path], progress: importer.Progress | None = None
) -> list[FileReport]:
    """See `importer.import_files`. Raises `ConfigInvalid` for an unknown source, `LogError`."""
    source = joining.source(config.source(source_name))
    async with joining.reading_log(config) as log:
        return await importer.import_files(source, log, files, now=joining.now, progress=progress)


async def rebuild(config: Config, progress: Progress | None = None) -> Rebuilt:
    """Make the views anew from the log beside the old ones, then swap them in; a running server goes over to them.

    Raises `LogError`, `ViewsUnavailable` (another rebuild runs, or no room on the disk); the old views stay then.
    """
    with _beside(config, "-rebuild") as path:
        async with joining.reading_log(config) as log:
            position = await _build(log, path, progress)
        await joining.swap_views(path, config)
    return Rebuilt(position)


async def check(config: Config, progress: Progress | None = None, *, limit: int = MOST_FAULTS) -> Checked:
    """Compare the views with a fresh reading of the log up to the position they are at. Changes nothing.

    Raises `LogError`, `ViewsMissing`, `ViewsOutdated`, `ViewsUnavailable`.
    """
    if not config.views_path.exists():
        raise ViewsMissing(f"there are no views at {config.views_path}: run `tracker rebuild`")
    with _beside(config, "-check") as path, _beside(config, "-held") as copy:
        await joining.copy_views(config, copy)
        async with joining.reading_log(config) as log, joining.views_at(copy, writable=False) as held:
            position, head = await held.checkpoint(), await log.head()
            if position > head:
                return Checked(position, 0, [f"the views are at position {position}, but the log ends at {head}"])
            await _build(log, path, progress, until=position)
            async with joining.views_at(path, writable=False) as fresh:
                return Checked(position, head - position, await differences(held, fresh, limit=limit))


async def verify(config: Config, progress: Progress | None = None, *, limit: int = MOST_FAULTS) -> Verification:
    """Go over the whole log: positions, what each body is called and keyed by, and every proof that can be checked again."""
    found = Verification()
    proofs: Counter[str] = Counter()
    configured = joining.sources(config)
    readers: dict[tuple[str, str], Source] = {}
    async with joining.reading_log(config) as log:
        head = await log.head()
        expected = 1
        async for records in log.read(0):
            for record in records:
                if record.position != expected:
                    found.faults.append(Fault(record.position, f"expected position {expected} here"))
                expected = record.position + 1
                found.records += 1
                found.faults += [Fault(record.position, what) for what in _naming_faults(record, readers)]
                outcome, fault = _proof_again(record, configured)
                proofs[outcome] += 1
                if fault is not None:
                    found.faults.append(Fault(record.position, fault))
            if progress is not None:
                progress(expected - 1, max(head, expected - 1))
            if len(found.faults) >= limit:
                found.is_cut_short = True
                break
            await asyncio.sleep(0)
    found.proofs = dict(sorted(proofs.items()))
    found.faults = found.faults[:limit]
    return found


async def records(
    config: Config, *, session: str | None = None, source: str | None = None, after: int = 0, limit: int | None = None
) -> AsyncIterator[Record]:
    """Records after a position, in order, at most `limit`; only those behind a session, only those of a source.

    Raises `LogError`, `ViewsError`, `NotFound`, `Ambiguous`.
    """
    found = _all_records(config, after) if session is None else _records_behind(config, session, after)
    given = 0
    async for record in found:
        if source is not None and record.source != source:
            continue
        if limit is not None and given >= limit:
            return
        given += 1
        yield record


async def records_at(config: Config, positions: Sequence[int]) -> AsyncIterator[Record]:
    """The records at these positions, as given; a position that is not in the log is left out."""
    async with joining.reading_log(config) as log:
        for position in positions:
            record = await log.record(position)
            if record is not None:
                yield record


def envelope(record: Record) -> dict[str, Any]:
    """A record as one JSON object that the importer reads back: the body as text where it is UTF-8, else in base64.

    `received_at` is RFC 3339 with microseconds: nothing of the record is lost.
    """
    told: dict[str, Any] = {
        "position": record.position,
        "source": record.source,
        "vendor": record.vendor,
        "event": record.event,
        "dedupe_key": record.dedupe_key,
        "received_at": f"{EPOCH + timedelta(microseconds=record.received_at):%Y-%m-%dT%H:%M:%S.%fZ}",
        "origin": record.origin,
        "proof": json.loads(record.proof),
    }
    try:
        told["body_text"] = record.body.decode("utf-8")
    except UnicodeDecodeError:
        told["body_b64"] = base64.b64encode(record.body).decode()
    return told


async def _all_records(config: Config, after: int) -> AsyncIterator[Record]:
    async with joining.reading_log(config) as log:
        async for chunk in log.read(after):
            for record in chunk:
                yield record


async def _records_behind(config: Config, any_id: str, after: int) -> AsyncIterator[Record]:
    async with joining.reading_views(config) as views, joining.reading_log(config) as log:
        session = await desk_reading.only_session(views, any_id)
        while positions := await views.session_positions(session.id, limit=PAGE, after=after):
            for after in positions:  # noqa: PLR1704 - the next page begins after the last position given
                record = await log.record(after)
                if record is not None:
                    yield record


async def _build(log: Log, path: Path, progress: Progress | None, *, until: int | None = None) -> int:
    async with joining.new_views(path) as fresh:
        return await Projector(log, fresh, now=joining.now).catch_up(progress, until=until)


@contextlib.contextmanager
def _beside(config: Config, suffix: str) -> Generator[Path]:
    """A path for views on the same file system, ours alone while we work; whatever an interrupted run left is removed."""
    path = config.views_path.with_name(config.views_path.name + suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        held = joining.hold(path)
    except LogUnavailable as error:
        raise ViewsUnavailable(f"another rebuild or check is at work on {path}: {error}") from None
    with held:
        try:
            _remove(path)
            yield path
        finally:
            _remove(path)
            held.path.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    for ending in ("", "-wal", "-shm", "-journal", "-lock"):
        path.with_name(path.name + ending).unlink(missing_ok=True)


def _naming_faults(record: Record, readers: dict[tuple[str, str], Source]) -> list[str]:
    """What of a record does not follow from its body. `readers` are kept from record to record."""
    if record.vendor not in registry.VENDORS:
        return []
    of = record.source, record.vendor
    reader = readers.get(of)
    if reader is None:
        reader = readers[of] = registry.build(SourceSettings(name=record.source, vendor=record.vendor))
    named = reader.admit(record.body, received_at=record.received_at, proof={})
    faults: list[str] = []
    if named.event != record.event:
        faults.append(f"its body is a {named.event!r}, the record says {record.event!r}")
    if named.dedupe_key != record.dedupe_key:
        faults.append("its dedupe key does not follow from its body: one of them was changed")
    return faults


def _proof_again(record: Record, configured: Mapping[str, Source]) -> tuple[str, str | None]:
    """What became of a record's proof, and what is wrong with it."""
    if record.origin == "import":
        return "import", None
    source = configured.get(record.source)
    if source is None or source.vendor != record.vendor:
        return "source unknown", None
    delivery = delivery_again(record)
    if delivery is None:
        return "only the key is kept", None
    try:
        source.verify(delivery)
    except KeyUnknown:
        return "key unknown", None
    except DeliveryRejected as error:
        return "wrong", f"its proof does not fit any more: {error}"
    return "checked", None

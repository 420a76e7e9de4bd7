"""`tracker records` and `tracker export`: the raw records of a session or of the log."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from tracker.cli import bundle
from tracker.cli.arguments import Subparsers, add_command, limit, position
from tracker.cli.output import print_json, print_line, print_table
from tracker.cli.sessions import find_session
from tracker.config.load import Config
from tracker.domain.deliveries import Record
from tracker.domain.record_json import record_to_json
from tracker.errors import LogCorrupt, ParameterInvalid
from tracker.evidence.bundle.record_lines import RecordLine, encode_line
from tracker.log.private_files import create_private
from tracker.server import stores

PAGE = 1000
COLUMNS = ("position", "received", "source", "event", "origin", "bytes", "dedupe key")


def add_to(subparsers: Subparsers) -> None:
    """Declare the commands."""
    summary = "Show the raw records, of a session or of the log."
    records = add_command(subparsers, "records", run_records, summary, as_json=True)
    records.add_argument("id", metavar="ID", nargs="?", help="only those of this session")
    records.add_argument("--after", type=position, default=0, metavar="POSITION", help="only those after this position")
    records.add_argument("--limit", type=limit, default=50, help="at most 1000; default 50")
    records.add_argument(
        "--body", type=position, metavar="POSITION", help="print the exact bytes of this record's body, nothing else"
    )
    summary = "Write raw records as JSON Lines, which `tracker import` reads back."
    export = add_command(subparsers, "export", run_export, summary)
    export.add_argument("id", metavar="ID", nargs="?", help="only those of this session")
    export.add_argument("--source", help="only those of this source")
    export.add_argument("--after", type=position, default=0, metavar="POSITION", help="only those after this position")
    export.add_argument("--leaves", action="store_true", help="with each record's leaf in the tree, and its salt")
    export.add_argument(
        "--evidence",
        metavar="SESSION",
        help="the evidence bundle of this session instead: a zip that anybody can verify offline",
    )
    export.add_argument("--out", type=Path, metavar="FILE", help="a new file instead of standard output")


def run_records(arguments: argparse.Namespace) -> int:
    """Print records as a table, or one body exactly as it was received."""
    config: Config = arguments.config
    if arguments.body is not None:
        body = asyncio.run(_body(config, arguments.body))
        sys.stdout.buffer.write(body)
        sys.stdout.buffer.flush()
        return 0
    found = asyncio.run(
        _collect(read_records(config, session=arguments.id, after=arguments.after, limit=arguments.limit))
    )
    if arguments.json:
        print_json({"items": [record_to_json(record) for record in found], "next": None})
    else:
        print_table("Records", COLUMNS, [_row(record) for record in found])
    return 0


def run_export(arguments: argparse.Namespace) -> int:
    """Write records as JSON Lines, or the evidence bundle of a session."""
    if arguments.evidence is not None:
        return bundle.run_export(arguments)
    return asyncio.run(_export(arguments))


async def read_records(
    config: Config, *, session: str | None = None, source: str | None = None, after: int = 0, limit: int | None = None
) -> AsyncGenerator[Record]:
    """The records after a position, in order, at most `limit`; optionally only those of a session, or of a source.

    It holds the stores open: who stops early has to close it (`contextlib.aclosing`). Raises `LogError`, `ViewsError`,
    `NotFound`, `Ambiguous`.
    """
    found = _records_of_log(config, after) if session is None else _records_of_session(config, session, after)
    count = 0
    # Closed here, not when it is collected: the threads of open stores would keep the process alive.
    async with contextlib.aclosing(found):
        async for record in found:
            if source is not None and record.source != source:
                continue
            if limit is not None and count >= limit:
                return
            count += 1
            yield record


async def lines_with_leaves(config: Config, found: AsyncGenerator[Record]) -> AsyncGenerator[bytes]:
    """These records as lines of JSON with their leaves, in the format of bundles. Raises what `found` raises."""
    async with stores.reading_log(config) as log, contextlib.aclosing(found):
        async for record in found:
            leaf = await log.leaf(record.position)
            if leaf is None:
                raise LogCorrupt(f"the record at position {record.position} has no leaf: run `tracker verify`")
            yield encode_line(RecordLine(record, leaf._replace(salt=None) if record.erased_by is not None else leaf))


async def _records_of_log(config: Config, after: int) -> AsyncGenerator[Record]:
    async with stores.reading_log(config) as log:
        async for chunk in log.read(after):
            for record in chunk:
                yield record


async def _records_of_session(config: Config, any_id: str, after: int) -> AsyncGenerator[Record]:
    async with stores.reading_views(config) as views, stores.reading_log(config) as log:
        session = await find_session(views, any_id)
        while positions := await views.session_positions(session.id, limit=PAGE, after=after):
            for after in positions:  # noqa: PLR1704 - the next page begins after the last position
                record = await log.record(after)
                if record is not None:
                    yield record


async def _body(config: Config, at: int) -> bytes:
    async with stores.reading_log(config) as log:
        record = await log.record(at)
    if record is None:
        raise ParameterInvalid("--body", f"the log has no record at position {at}")
    return record.body


async def _export(arguments: argparse.Namespace) -> int:
    config: Config = arguments.config
    if arguments.out is not None and arguments.out.exists():
        raise ParameterInvalid("--out", f"{arguments.out} exists and is not overwritten: name a new file")
    found = read_records(config, session=arguments.id, after=arguments.after, source=arguments.source)
    lines = lines_with_leaves(config, found) if arguments.leaves else _lines(found)
    count = 0
    async with contextlib.aclosing(lines):
        if arguments.out is None:
            async for line in lines:
                sys.stdout.write(line.decode())
            return 0
        create_private(arguments.out)
        with arguments.out.open("wb") as file:
            async for line in lines:
                file.write(line)
                count += 1
    print_line(f"wrote {count} records to {arguments.out}")
    return 0


async def _lines(found: AsyncGenerator[Record]) -> AsyncGenerator[bytes]:
    async with contextlib.aclosing(found):
        async for record in found:
            yield msgspec.json.encode(record_to_json(record)) + b"\n"


async def _collect(found: AsyncGenerator[Record]) -> list[Record]:
    async with contextlib.aclosing(found):
        return [record async for record in found]


def _row(record: Record) -> Sequence[Any]:
    received = f"{datetime.fromtimestamp(record.received_at / 1_000_000).astimezone():%Y-%m-%d %H:%M:%S}"
    return (record.position, received, record.source, record.event, record.origin, len(record.body), record.dedupe_key)

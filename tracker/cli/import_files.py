"""`tracker import`: reads webhook bodies from JSON Lines, or events from a server's own log files, into the log."""

from __future__ import annotations

import argparse
import asyncio
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tracker.cli.arguments import Subparsers, add_command
from tracker.cli.output import print_json, print_table, progress
from tracker.config.load import Config
from tracker.domain import clock
from tracker.ingest import file_import
from tracker.ingest.file_import import Example, FileReport
from tracker.server import declarations, stores
from tracker.server.sources import build_source

MAX_LINES_SHOWN = 20


def add_to(subparsers: Subparsers) -> None:
    """Declare the command."""
    summary = "Read webhook bodies from JSON Lines files, or events from a server's own log files, into the log."
    parser = add_command(subparsers, "import", run, summary, as_json=True)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="write nothing: say what would be new, known, skipped and unreadable, with three examples of each",
    )
    parser.add_argument("source", metavar="SOURCE", help="the name of the source in config.toml")
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        type=Path,
        help="a file, or a folder: its log files and JSON Lines, also rotated and .gz",
    )


def run(arguments: argparse.Namespace) -> int:
    """Import the files; 1 when something could not be read."""
    with progress(f"import into {arguments.source}", "bytes") as report:
        reports = asyncio.run(
            import_files(
                arguments.config,
                arguments.source,
                arguments.files,
                lambda _file, done, total: report(done, total),
                dry_run=arguments.dry_run,
            )
        )
    if arguments.json:
        print_json(reports)
    else:
        _print_reports(reports, "Would be imported" if arguments.dry_run else "Imported")
    return 1 if any(each.unreadable or each.error for each in reports) else 0


async def import_files(
    config: Config,
    source_name: str,
    files: Sequence[Path],
    progress: file_import.Progress | None = None,
    *,
    dry_run: bool = False,
) -> list[FileReport]:
    """See `ingest.file_import.import_files`. Raises `ConfigInvalid` for an unknown source, `LogError`."""
    source = build_source(config.source(source_name))
    read = functools.partial(file_import.import_files, source, now=clock.now, progress=progress, examples=dry_run)
    if dry_run:
        async with stores.known_deliveries(config) as known:
            return await read(files=files, log=known)
    async with stores.appending_log(config) as log:
        await declarations.declare(config, log, source_name)
        return await read(files=files, log=log)


def _print_reports(reports: Sequence[FileReport], title: str) -> None:
    columns = ("file", "lines", "new", "already known", "unreadable", "skipped", "unreadable lines", "problem")
    print_table(title, columns, [_row(each) for each in reports if each.not_read is None])
    left_out = [(each.file, why, lines) for each in reports for why, lines in each.reasons.items()]
    if left_out:
        print_table("Lines left out", ("file", "why", "lines"), left_out)
    examples = [(Path(each.file).name, *_example(shown)) for each in reports for shown in each.examples]
    if examples:
        print_table("Examples", ("file", "line", "outcome", "why", "begins"), examples)
    not_read = [(each.file, each.not_read) for each in reports if each.not_read is not None]
    if not_read:
        print_table("Not read", ("file", "why"), not_read)


def _example(shown: Example) -> Sequence[Any]:
    return shown.line, shown.outcome, shown.why, shown.text


def _row(report: FileReport) -> Sequence[Any]:
    lines = ", ".join(map(str, report.unreadable[:MAX_LINES_SHOWN]))
    more = " …" if len(report.unreadable) > MAX_LINES_SHOWN else ""
    problem = report.error or (f"line {report.partial} is still being written" if report.partial else None)
    return (
        report.file, report.lines, report.new, report.known, len(report.unreadable), report.skipped, lines + more, problem,
    )  # fmt: skip

"""What each command of the command line does: call `service` or `desk`, show what came out, give the exit code.

0 done · 1 found a problem (raised errors become 1 or 2 in `cli`)
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

from tracker.domain import clock
from tracker.cli import output as printing
from tracker.cli import bundle, desk, desk_copying, desk_erasing, desk_reading
from tracker.server import stores, logging_setup, server
from tracker.api.auth import SCOPES, mint_token
from tracker.api.parameters import parse_micros
from tracker.cli.tables import sessions_table, timeline_table
from tracker.config.load import Config
from tracker.config.values import micros
from tracker.domain.deliveries import Record
from tracker.domain.record_json import envelope
from tracker.privacy.erasure import Plan, Selection
from tracker.errors import ConfigInvalid, ParameterInvalid
from tracker.ingest.file_import import FileReport
from tracker.server.sources import load_config

try:
    from uvloop import new_event_loop
except ImportError:  # not for Windows; asyncio's own loop does the same, slower
    new_event_loop = None


def init(arguments: argparse.Namespace) -> int:
    """Make config.toml where there is none, then the log."""
    path = Path(arguments.config)
    if not path.exists():
        _write_new(path, _example(arguments.engine))
        printing.print_line(f"wrote {path}: add your sources to it")
    config = load_config(path, os.environ)
    if arguments.engine not in {None, config.log.engine}:
        raise ConfigInvalid(
            f'log.engine: {path} says "{config.log.engine}": write engine = "{arguments.engine}" under [log]'
        )
    made = asyncio.run(desk.init(config, printing.print_line))
    printing.print_line(f"made {' and '.join(map(str, made))}; start with `tracker serve --config {path}`")
    key = stores.public_key(config)
    if config.log.engine == "jetstream" and key is not None:
        printing.print_line(f"the key that this node {'signs' if config.jetstream.signs else 'cosigns'} with: {key}")
    if not config.sealing.masters:
        printing.print_line(
            "bodies are kept in clear: name a master key under [sealing] to seal them, before the first call"
        )
    return 0


def _example(engine: str | None) -> bytes:
    """The example to begin with; of a cluster with its table."""
    text = (resources.files("tracker.config") / "example.toml").read_bytes()
    if engine != "jetstream":
        return text
    before, after = text.replace(b'engine = "sqlite"   ', b'engine = "jetstream"').split(b"# [jetstream]\n")
    table, rest = after.split(b"\n\n", 1)
    # The name stays a comment: each node has its own, and all may have one file.
    lines = [line if line.startswith(b"# node") else line.removeprefix(b"# ") for line in table.split(b"\n")]
    return before + b"\n".join([b"[jetstream]", *lines, b"", rest])


def serve(arguments: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT."""
    logging_setup.configure()

    def ready(address: str, link: str | None) -> None:
        # The link is a secret: it goes to the terminal, never into the structured log.
        printing.print_line(f"tracker serves on {address}")
        if link is not None:
            why = "" if arguments.link else "no [access] keys: "
            printing.print_line(f"{why}open this link once to read: {address}{link}")

    def showing() -> contextlib.AbstractContextManager[Callable[[int, int], None]]:
        return printing.progress("catch up with the stream", "messages")

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(
            server.serve(
                arguments.config,
                port=arguments.port,
                link=arguments.link,
                role=arguments.role,
                ready=ready,
                showing=showing,
            )
        )
    return 0


def import_files(arguments: argparse.Namespace) -> int:
    """Read files into the log; 1 when something could not be read."""
    with printing.progress(f"import into {arguments.source}", "bytes") as bar:
        reports = asyncio.run(
            desk.import_files(
                arguments.config, arguments.source, arguments.files, lambda _file, done, of: bar(done, of)
            )
        )
    if arguments.json:
        printing.print_json(reports)
    else:
        columns = ("file", "lines", "new", "already known", "unreadable", "skipped", "unreadable lines", "problem")
        printing.table("Imported", columns, [_report_row(report) for report in reports])
    return 1 if any(report.unreadable or report.error for report in reports) else 0


def rebuild(arguments: argparse.Namespace) -> int:
    """Make the views anew, or with `--check` only compare; 1 when they differ."""
    config: Config = arguments.config
    if not arguments.check:
        with printing.progress("rebuild", "records") as bar:
            rebuilt = asyncio.run(desk.rebuild(config, bar, waits=arguments.wait))
        if arguments.json:
            printing.print_json(rebuilt)
        else:
            printing.print_line(f"the views at {config.views_path} are new, up to position {rebuilt.position}")
        return 0
    with printing.progress("check", "records") as bar:
        checked = asyncio.run(desk.check(config, bar))
    if arguments.json:
        printing.print_json(checked)
    elif checked.differences:
        for line in checked.differences:
            printing.print_line(printing.printable(line))
        printing.print_line(
            f"the views are not what the log says at position {checked.position}: run `tracker rebuild`"
        )
    else:
        behind = f"; {checked.behind} newer records are not projected yet" if checked.behind else ""
        printing.print_line(f"the views are what the log says, up to position {checked.position}{behind}")
    return 1 if checked.differences else 0


def rekey(arguments: argparse.Namespace) -> int:
    """Wrap every data key with the current master key."""
    with printing.progress("rekey", "keys") as bar:
        count = asyncio.run(desk.rekey(arguments.config, bar))
    current = arguments.config.sealing.masters[0].id
    printing.print_line(f"{count} data keys are wrapped anew; the key {current!r} opens all of them")
    return 0


def erase(arguments: argparse.Namespace) -> int:
    """List what an erasure would touch, or with `--yes` carry it out; 1 when something of it is kept in clear."""
    config: Config = arguments.config
    selections = asyncio.run(_selections(arguments))
    with printing.progress("erase", "records") as bar:
        if arguments.yes:
            plans = asyncio.run(desk_erasing.erase(config, selections, bar))
        else:
            plans = [asyncio.run(desk_erasing.plan(config, selection, bar)) for selection in selections]
    if arguments.json:
        printing.print_json({"done": arguments.yes, "items": plans})
    else:
        _show_plans(plans, done=arguments.yes)
    return 1 if any(plan.in_clear for plan in plans) else 0


def copy(arguments: argparse.Namespace) -> int:
    """Copy the log into that of another config.toml; both have the same root then."""
    to = load_config(arguments.to, os.environ)
    with printing.progress("copy", "records") as bar:
        copied = asyncio.run(desk_copying.copy(arguments.config, to, bar))
    if arguments.json:
        printing.print_json(copied)
    else:
        printing.print_line(
            f"{copied.records} records are in both ({copied.new} of them new), with {copied.checkpoints} checkpoints; "
            f"root {copied.root}"
        )
        if unnamed := desk_copying.unnamed(copied, to):
            keys = ", ".join(f'"{key}"' for key in unnamed)
            printing.print_line(
                f"the checkpoints are signed with a key that {to.path} does not name: bring its file to "
                f"{to.evidence.key_file}, or write under [evidence]: former_keys = [{keys}]"
            )
    return 0


def sessions(arguments: argparse.Namespace) -> int:
    """A table of sessions."""
    found = asyncio.run(desk_reading.find_sessions(arguments.config, _session_query(arguments)))
    if arguments.json:
        printing.print_json(found)
        return 0
    printing.out().print(sessions_table(found["items"]))
    if found["next"] is not None:
        printing.print_error(f"there are more than {arguments.limit}: raise --limit or narrow with --from and --to")
    return 0


def timeline(arguments: argparse.Namespace) -> int:
    """The entries of one session, all of them."""
    entries = asyncio.run(
        desk_reading.timeline(arguments.config, arguments.id, kinds=arguments.kind, subject=arguments.subject)
    )
    if arguments.json:
        printing.print_json({"items": entries, "next": None})
        return 0
    printing.out().print(timeline_table(arguments.id, entries))
    return 0


def records(arguments: argparse.Namespace) -> int:
    """The raw records of a session or of the log, or one body exactly as it came."""
    config: Config = arguments.config
    if arguments.body is not None:
        found = asyncio.run(_collected(desk.records_at(config, [arguments.body])))
        if not found:
            raise ParameterInvalid("--body", f"the log has no record at position {arguments.body}")
        sys.stdout.buffer.write(found[0].body)
        sys.stdout.buffer.flush()
        return 0
    chosen = desk.records(config, session=arguments.id, after=arguments.after, limit=arguments.limit)
    found = asyncio.run(_collected(chosen))
    if arguments.json:
        printing.print_json({"items": [envelope(record) for record in found], "next": None})
        return 0
    columns = ("position", "received", "source", "event", "origin", "bytes", "dedupe key")
    printing.table("Records", columns, [_record_row(record) for record in found])
    return 0


def export(arguments: argparse.Namespace) -> int:
    """JSON Lines of records, or the evidence bundle of a session."""
    if arguments.evidence is not None:
        return bundle.make(arguments)
    return asyncio.run(_export(arguments))


def token(arguments: argparse.Namespace) -> int:
    """Mint a read token and print it alone."""
    config: Config = arguments.config
    scopes = [scope for given in arguments.scope for scope in given.split()]
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown:
        raise ConfigInvalid(f"--scope: {unknown[0]!r} is unknown; known are {', '.join(SCOPES)}")
    for name in arguments.source:
        config.source(name)
    keys = [key for key in config.access.keys if arguments.key in {None, key.id}]
    if not keys:
        wanted = "key" if arguments.key is None else f"key with id {arguments.key!r}"
        raise ConfigInvalid(
            f"access.keys: there is no {wanted}: add one to {config.path}, see docs/reference/configuration.md"
        )
    # RS256 and EdDSA keys may be there for checking only.
    signing = next((key for key in keys if key.secret or key.private_key), keys[0])
    printing.print_line(
        mint_token(
            stores.access_key(signing),
            scopes=scopes,
            sources=arguments.source or None,
            expires_s=max(1, micros(arguments.expires, "--expires") // 1_000_000),
            now=clock.now(),
            subject=arguments.subject,
            audience=config.access.audience,
            issuer=config.access.issuer,
        )
    )
    return 0


def demo(arguments: argparse.Namespace) -> int:
    """The show."""
    from tracker.demo import show  # noqa: PLC0415 - only this command needs an HTTP client

    return show.run(speed=arguments.speed, keep=arguments.keep, port=arguments.port)


async def _selections(arguments: argparse.Namespace) -> list[Selection]:
    config: Config = arguments.config
    if arguments.source and not arguments.before:
        raise ParameterInvalid("--source", "goes with --before only")
    if arguments.identity is not None:
        return [await desk_erasing.selection_of_person(config, arguments.identity)]
    if arguments.session is not None:
        return [await desk_erasing.selection_of_session(config, arguments.session)]
    if arguments.retention:
        return desk_erasing.selections_of_retention(config)
    try:
        before = parse_micros(arguments.before)
    except ValueError as error:
        raise ParameterInvalid("--before", str(error)) from None
    names = tuple(config.source(name).name for name in arguments.source)
    return [Selection(why="before", before=before, sources=names or None)]


def _show_plans(plans: Sequence[Plan], *, done: bool) -> None:
    for plan in plans:
        of = ", ".join(f"{count} of {source}" for source, count in sorted(plan.sources.items())) or "none"
        what = "erased" if done else "would be erased"
        printing.print_line(
            f"{len(plan.positions)} records {what} ({of}), {plan.bytes} bytes, {plan.people} people ({plan.why})"
        )
        if plan.positions:
            printing.print_line(f"positions {printing.ranges(plan.positions)}")
        if plan.erasures:
            printing.print_line(
                f"earlier erasures {'told' if done else 'tell'} of them: {printing.ranges(plan.erasures)}, told again without"
            )
        if plan.already_erased:
            printing.print_line(f"{plan.already_erased} more were erased before")
        if plan.in_clear:
            first = ", ".join(map(str, plan.in_clear[:10]))
            printing.print_line(f"{len(plan.in_clear)} are kept in clear and cannot be erased: positions {first} …")
    if not done:
        printing.print_line("nothing was changed: add --yes to erase; it cannot be undone")
    elif any(plan.positions or plan.erasures for plan in plans):
        printing.print_line(
            "the views are made anew without them; copies of log, key store and exports elsewhere are not reached"
        )


async def _export(arguments: argparse.Namespace) -> int:
    config: Config = arguments.config
    if arguments.out is not None and arguments.out.exists():
        raise ParameterInvalid("--out", f"{arguments.out} exists and is not overwritten: name a new file")
    chosen = desk.records(config, session=arguments.id, after=arguments.after, source=arguments.source)
    lines = desk.lines_with_leaves(config, chosen) if arguments.leaves else _lines(chosen)
    count = 0
    async with contextlib.aclosing(lines):
        if arguments.out is None:
            async for line in lines:
                sys.stdout.write(line.decode())
            return 0
        with arguments.out.open("xb") as file:
            async for line in lines:
                file.write(line)
                count += 1
    printing.print_line(f"wrote {count} records to {arguments.out}")
    return 0


async def _lines(found: AsyncGenerator[Record]) -> AsyncGenerator[bytes]:
    async with contextlib.aclosing(found):
        async for record in found:
            yield printing.json_line(envelope(record)).encode()


async def _collected(found: AsyncGenerator[Record]) -> list[Record]:
    async with contextlib.aclosing(found):
        return [record async for record in found]


def _write_new(path: Path, text: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(text)
    except OSError as error:
        raise ConfigInvalid(
            f"{path} cannot be written ({error.strerror}): choose another place with --config"
        ) from None


def _session_query(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """The options as the query parameters of `GET /v1/sessions`: one meaning for both."""
    single: dict[str, Any] = {
        "source": arguments.source, "room": arguments.room, "identity": arguments.identity, "q": arguments.q,
        "state": arguments.state, "from": arguments.from_, "to": arguments.to, "min_duration_ms": arguments.min_duration_ms,
        "limit": arguments.limit,
    }  # fmt: skip
    if arguments.has:
        single["has"] = ",".join(arguments.has)
    return [(name, str(value)) for name, value in single.items() if value is not None]


def _report_row(report: FileReport) -> Sequence[Any]:
    numbers = ", ".join(map(str, report.unreadable[:20])) + (" …" if len(report.unreadable) > 20 else "")
    problem = report.error or (f"line {report.partial} is still being written" if report.partial else None)
    return (
        report.file,
        report.lines,
        report.new,
        report.known,
        len(report.unreadable),
        report.skipped,
        numbers,
        problem,
    )


def _record_row(record: Record) -> Sequence[Any]:
    received = f"{datetime.fromtimestamp(record.received_at / 1_000_000).astimezone():%Y-%m-%d %H:%M:%S}"
    return (record.position, received, record.source, record.event, record.origin, len(record.body), record.dedupe_key)

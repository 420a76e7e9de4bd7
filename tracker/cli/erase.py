"""`tracker erase`: erases a person, a session or old records, then rebuilds the views without them."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from tracker.api.parameters import parse_micros
from tracker.cli import output, rebuild
from tracker.cli.arguments import Subparsers, add_command
from tracker.cli.output import print_json, print_line
from tracker.cli.sessions import find_session
from tracker.config.load import Config
from tracker.domain import clock
from tracker.errors import ConfigInvalid, ParameterInvalid, ViewsUnavailable
from tracker.privacy.erasure import SECRET_BYTES, Eraser, Plan, Progress, Selection, finish, is_too_short
from tracker.server import stores
from tracker.views.contract import ViewsReader

PAGE = 1000
MAX_LAG = 1_000
"""Records that the views may lack: views further behind may not know every id of a person."""
MAX_POSITIONS_SHOWN = 10
UNFINISHED_SUFFIX = "-erasing"
"""A file beside the views while they may still show what is erased. If we die, the next erasure finds it and rebuilds."""


def add_to(subparsers: Subparsers) -> None:
    """Declare the command."""
    summary = "Erase a person, a session, or old records; without --yes only list them."
    parser = add_command(subparsers, "erase", run, summary, as_json=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--identity", metavar="X", help="every record that mentions this person, by identity or name")
    what.add_argument("--session", metavar="ID", help="every record behind this session")
    what.add_argument("--before", metavar="TIME", help="every record received before, like 2026-01-01")
    what.add_argument("--retention", action="store_true", help="every record older than the `retention` of its source")
    parser.add_argument("--source", action="append", default=[], metavar="NAME", help="with --before: only this source")
    parser.add_argument("--yes", action="store_true", help="erase; this cannot be undone")


def run(arguments: argparse.Namespace) -> int:
    """List what an erasure would erase, or with `--yes` erase it. Returns 1 if some of the records are not encrypted."""
    config: Config = arguments.config
    selections = asyncio.run(_selections(arguments))
    with output.progress("erase", "records") as report:
        if arguments.yes:
            plans = asyncio.run(erase(config, selections, report))
        else:
            plans = [asyncio.run(plan(config, selection, report)) for selection in selections]
    if arguments.json:
        print_json({"done": arguments.yes, "items": plans})
    else:
        _print_plans(plans, done=arguments.yes)
    return 1 if any(each.in_clear for each in plans) else 0


async def _selections(arguments: argparse.Namespace) -> list[Selection]:
    config: Config = arguments.config
    if arguments.source and not arguments.before:
        raise ParameterInvalid("--source", "goes with --before only")
    if arguments.identity is not None:
        return [await select_person(config, arguments.identity)]
    if arguments.session is not None:
        return [await select_session(config, arguments.session)]
    if arguments.retention:
        return select_expired(config)
    try:
        before = parse_micros(arguments.before)
    except ValueError as error:
        raise ParameterInvalid("--before", str(error)) from None
    names = tuple(config.source(name).name for name in arguments.source)
    return [Selection(why="before", before=before, sources=names or None)]


def _print_plans(plans: Sequence[Plan], *, done: bool) -> None:
    for each in plans:
        counts = ", ".join(f"{count} of {source}" for source, count in sorted(each.sources.items())) or "none"
        what = "erased" if done else "would be erased"
        print_line(
            f"{len(each.positions)} records {what} ({counts}), {each.bytes} bytes, {each.people} people ({each.why})"
        )
        if each.positions:
            print_line(f"positions {output.ranges(each.positions)}")
        if each.erasures:
            print_line(
                f"earlier erasure records mention them: {output.ranges(each.erasures)}; "
                f"they {'were' if done else 'would be'} replaced by records that do not"
            )
        if each.already_erased:
            print_line(f"{each.already_erased} more were erased before")
        if each.in_clear:
            first = ", ".join(map(str, each.in_clear[:MAX_POSITIONS_SHOWN]))
            print_line(f"{len(each.in_clear)} are kept in clear and cannot be erased: positions {first} …")
    if not done:
        print_line("nothing was changed: add --yes to erase; this cannot be undone")
    elif any(each.positions or each.erasures for each in plans):
        print_line(
            "the views are rebuilt without them; copies of the log, the key store and exports elsewhere are not erased"
        )


async def select_person(config: Config, identity: str) -> Selection:
    """Everything that mentions a person by this identity, or by an id that the views know them by. Raises `ViewsError`."""
    async with _current_views(config) as views:
        return Selection(why="identity", needles=await _identifiers(views, identity))


async def select_session(config: Config, any_id: str) -> Selection:
    """Everything behind one session. Raises `NotFound`, `Ambiguous`, `ViewsError`."""
    positions: list[int] = []
    async with _current_views(config) as views:
        session = await find_session(views, any_id)
        while page := await views.session_positions(session.id, limit=PAGE, after=positions[-1] if positions else 0):
            positions += page
    return Selection(why="session", positions=tuple(positions))


def select_expired(config: Config) -> list[Selection]:
    """Everything older than the `retention` of its source."""
    return [
        Selection(why="retention", before=clock.now() - source.retention, sources=(source.name,))
        for source in config.sources
        if source.retention is not None
    ]


async def plan(config: Config, selection: Selection, progress: Progress | None = None) -> Plan:
    """What an erasure would erase. Changes nothing. Raises `LogError`."""
    async with stores.reading_log(config) as log:
        return await Eraser(log, selection, now=clock.now).plan(progress)


async def erase(config: Config, selections: Sequence[Selection], progress: Progress | None = None) -> list[Plan]:
    """Plan and erase, then rebuild the views. A server may run meanwhile, and changes over to the new views.

    Raises `ConfigInvalid` where nothing is encrypted, and `LogError`: then running it again does the rest.
    """
    if not config.sealing.masters:
        raise ConfigInvalid("sealing.keys: records are kept in clear: without a master key nothing can be erased")
    done: list[Plan] = []
    unfinished = config.views_path.with_name(config.views_path.name + UNFINISHED_SUFFIX)
    async with stores.appending_log(config) as log:
        await finish(log)
        saved_secret = _read_secret(unfinished)
        for selection in selections:
            eraser = Eraser(log, selection, now=clock.now, secret=saved_secret)
            found = await eraser.plan(progress)
            if found.positions or found.erasures:
                _save_secret(unfinished, eraser.secret)
            await eraser.erase(found, progress)
            done.append(found)
    if saved_secret is not None or any(found.positions or found.erasures for found in done):
        rebuild.remove_check_leftovers(config)
        await rebuild.rebuild(config, progress, wait=True)
        await stores.remove_damaged_views(config)
        unfinished.unlink(missing_ok=True)
    return done


def _read_secret(path: Path) -> bytes | None:
    """The pseudonym secret of an erasure that died, so that the rest of a person gets the same pseudonym."""
    try:
        found = bytes.fromhex(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        found = b""
    return found if len(found) == SECRET_BYTES else secrets.token_bytes(SECRET_BYTES)


def _save_secret(path: Path, secret: bytes) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(secret.hex())
        file.flush()
        os.fsync(file.fileno())


@contextlib.asynccontextmanager
async def _current_views(config: Config) -> AsyncGenerator[ViewsReader]:
    """The views, current enough to select from. Raises `ViewsUnavailable` when they lack many records."""
    async with stores.reading_log(config) as log, stores.reading_views(config) as views:
        position, head = await views.projected_position(), await log.head()
        if head - position > MAX_LAG:
            raise ViewsUnavailable(
                f"the views are at position {position} of {head}, and an erasure would miss what they lack: wait until the "
                "server is ready, or run `tracker rebuild --wait` first"
            )
        yield views


async def _identifiers(views: ViewsReader, identity: str) -> tuple[str, ...]:
    """The identity, and the identities and connection ids of everybody whom the views find by it."""
    found: set[str] = {identity}
    cursor: str | None = None
    while True:
        people, cursor = await views.participants(
            session_id=None, identity=identity, sources=None, limit=PAGE, cursor=cursor
        )
        for person in people:
            if person.identity:
                found.add(person.identity)
            found |= await _connection_ids(views, person.session_id, person.id)
        if cursor is None:
            return (identity, *sorted(text for text in found - {identity} if not is_too_short(text)))


async def _connection_ids(views: ViewsReader, session_id: str, participant: str) -> set[str]:
    """The ids of one person's connections. A second join with the same id is `id~2` in the views; records have only `id`."""
    found: set[str] = set()
    cursor: str | None = None
    while True:
        rows, cursor = await views.connections(session_id, limit=PAGE, cursor=cursor)
        found |= {row.id for row in rows if row.participant == participant}
        if cursor is None:
            return {one for one in found if not (one.rpartition("~")[2].isdigit() and one.rpartition("~")[0] in found)}

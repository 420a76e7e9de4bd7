"""Erasing from the command line: find what identifies a person, plan, carry out, and make views without them."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from tracker.cli import desk, desk_reading
from tracker.domain import clock
from tracker.server import stores
from tracker.config.load import Config
from tracker.privacy.erasure import SECRET_BYTES, Eraser, Plan, Progress, Selection, finish, is_too_short
from tracker.errors import ConfigInvalid, ViewsUnavailable
from tracker.views.contract import ViewsReader

PAGE = 1000
MOST_BEHIND = 1_000
"""Records: views that lack more do not know well enough by which ids a person went."""
UNFINISHED = "-erasing"
"""Beside the views while they may show what is erased already: if we die, the next erasure makes them anew all the same."""


async def selection_of_person(config: Config, identity: str) -> Selection:
    """Everything that mentions a person: what was asked for, and the ids that views know them by. Raises `ViewsError`."""
    async with _present_views(config) as views:
        return Selection(why="identity", needles=await _needles(views, identity))


async def selection_of_session(config: Config, any_id: str) -> Selection:
    """Everything behind one session. Raises `NotFound`, `Ambiguous`, `ViewsError`."""
    positions: list[int] = []
    async with _present_views(config) as views:
        session = await desk_reading.only_session(views, any_id)
        while page := await views.session_positions(session.id, limit=PAGE, after=positions[-1] if positions else 0):
            positions += page
    return Selection(why="session", positions=tuple(positions))


@contextlib.asynccontextmanager
async def _present_views(config: Config) -> AsyncGenerator[ViewsReader]:
    """Views that know of what is to be erased. Raises `ViewsUnavailable` where they lack much of the log."""
    async with stores.reading_log(config) as log, stores.reading_views(config) as views:
        position, head = await views.projected_position(), await log.head()
        if head - position > MOST_BEHIND:
            raise ViewsUnavailable(
                f"the views are at position {position} of {head}, and what is not in them would be missed: wait until the "
                "server is ready, or run `tracker rebuild --wait` first"
            )
        yield views


def selections_of_retention(config: Config) -> list[Selection]:
    """What is older than its source's `retention`."""
    return [
        Selection(why="retention", before=clock.now() - source.retention, sources=(source.name,))
        for source in config.sources
        if source.retention is not None
    ]


async def plan(config: Config, selection: Selection, progress: Progress | None = None) -> Plan:
    """What an erasure would touch. Changes nothing. Raises `LogError`."""
    async with stores.reading_log(config) as log:
        return await Eraser(log, selection, now=clock.now).plan(progress)


async def erase(config: Config, selections: Sequence[Selection], progress: Progress | None = None) -> list[Plan]:
    """Plan and carry out; then make the views anew. A server may run meanwhile, and goes over to the new views.

    Raises `ConfigInvalid` where nothing is sealed, `LogError`: then running it again does the rest.
    """
    if not config.sealing.masters:
        raise ConfigInvalid("sealing.keys: records are kept in clear: without a master key nothing can be erased")
    done: list[Plan] = []
    unfinished = config.views_path.with_name(config.views_path.name + UNFINISHED)
    async with stores.appending_log(config) as log:
        await finish(log)
        died = _secret_of(unfinished)
        for selection in selections:
            eraser = Eraser(log, selection, now=clock.now, secret=died)
            found = await eraser.plan(progress)
            if found.positions or found.erasures:
                _keep_secret(unfinished, eraser.secret)
            await eraser.erase(found, progress)
            done.append(found)
    if died is not None or any(found.positions or found.erasures for found in done):
        for ending in ("-check", "-held"):
            desk.remove_left_over(config, ending)
        await desk.rebuild(config, progress, waits=True)
        unfinished.unlink(missing_ok=True)
    return done


def _secret_of(path: Path) -> bytes | None:
    """What an erasure that died made its pseudonyms with, so that the rest of a person gets the same one."""
    try:
        found = bytes.fromhex(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        found = b""
    return found if len(found) == SECRET_BYTES else secrets.token_bytes(SECRET_BYTES)


def _keep_secret(path: Path, secret: bytes) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(secret.hex())
        file.flush()
        os.fsync(file.fileno())


async def _needles(views: ViewsReader, identity: str) -> tuple[str, ...]:
    found: set[str] = {identity}
    cursor: str | None = None
    while True:
        people, cursor = await views.participants(
            session_id=None, identity=identity, sources=None, limit=PAGE, cursor=cursor
        )
        for person in people:
            if person.identity:
                found.add(person.identity)
            found |= await _connections(views, person.session_id, person.id)
        if cursor is None:
            return (identity, *sorted(text for text in found - {identity} if not is_too_short(text)))


async def _connections(views: ViewsReader, session_id: str, participant: str) -> set[str]:
    found: set[str] = set()
    cursor: str | None = None
    while True:
        rows, cursor = await views.connections(session_id, limit=PAGE, cursor=cursor)
        # A repeated id has a suffix in the views (`~2`) that no record knows.
        found |= {row.id.partition("~")[0].partition("@")[0] for row in rows if row.participant == participant}
        if cursor is None:
            return found

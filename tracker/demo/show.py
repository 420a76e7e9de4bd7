"""The show: a tracker on a temporary log, and signed calls of all five vendors played into its own hooks over HTTP.

    act 1   five calls as they happen, in order
    act 2   five more calls after the fact: shuffled, repeated, every third event lost, forged deliveries in between
    then    what each source sent and got, the sessions that came out, one timeline, the addresses to look at;
            where somebody stays to look, calls go on to begin, run and end until Ctrl-C

Nothing is shortened: the same service, the same hooks, the same proofs and the same log as in production.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import secrets
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, final

import aiohttp
import jwt
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from tracker.cli.output import out as standard_output
from tracker.cli.tables import sessions_table, timeline_table
from tracker.domain import clock
from tracker.demo.calls import CALL_SECONDS, ISSUERS, VENDORS, SampleDelivery, sign, whole_call
from tracker.demo.process import ServerProcess, ServerFailed, start_server
from tracker.errors import TrackerError


SOURCES: dict[str, str] = dict(zip(VENDORS, ("ov", "meet", "lk", "pnm", "rec"), strict=True))
ENCORE_PACE = 0.5
ENCORE_SECONDS = 12.0
"""After the show a call begins every so often, twice as fast as in life."""
SHOWN = "lk"
"""The source whose first session is shown as a timeline."""


class ReadFailed(TrackerError):
    """The API did not answer what the show wanted to print."""


class Tally(msgspec.Struct):
    """What one source sent and what it was answered."""

    sent: int = 0
    recorded: int = 0
    duplicate: int = 0
    refused: int = 0
    failed: int = 0


class Step(Protocol):
    """Call it when that many deliveries were answered."""

    def __call__(self, count: int = 1, /) -> None: ...


class Request(msgspec.Struct, frozen=True):
    """One request of the demo: `forged` ones have to be answered 401."""

    vendor: str
    sent: SampleDelivery
    headers: dict[str, str]
    suffix: str
    body: bytes
    forged: bool = False


def run(*, speed: float = 20.0, keep: bool | None = None, port: int = 0, console: Console | None = None) -> int:
    """Play the show; 0 when everything was answered as it must be, 1 otherwise.

    `speed`: how many seconds of a call pass in one second. `keep`: serve on until Ctrl-C after the show (None: when
    standard output is a terminal). `port` 0 takes a free one.
    """
    out = console or standard_output()
    stays = sys.stdout.isatty() if keep is None else keep
    with tempfile.TemporaryDirectory(prefix="tracker-demo-") as folder:
        try:
            return asyncio.run(_show(Path(folder), out, speed=max(speed, 0.1), stays=stays, port=port))
        except KeyboardInterrupt:
            return 0
        except (ServerFailed, ReadFailed) as problem:
            out.print(str(problem), style="red", markup=False)
            return 1


async def _show(folder: Path, out: Console, *, speed: float, stays: bool, port: int) -> int:
    keys = {vendor: secrets.token_urlsafe(32) for vendor in VENDORS}
    read_key = secrets.token_urlsafe(32)
    config = folder / "config.toml"
    config.write_text(config_text(folder, keys, read_key, port), "utf-8")
    async with start_server(config) as house, aiohttp.ClientSession() as web:
        out.print(f"[bold]Tracker[/] serves on {house.url} from a temporary log in {folder}\n")
        token = read_token(read_key)
        if stays:
            out.print("[bold]Watch it[/]: this link opens once, and signs you in\n")
            out.print(f"  {house.link}\n", soft_wrap=True, highlight=False)
        stage = Player(out, web, house, keys)
        await stage.play_live(1 / speed)
        await stage.play_hostile(1 / speed)
        is_right = stage.print_tallies()
        sessions = await _sessions_shown(out, web, house, token, stage.head)
        out.print("\n[bold]Look at it[/]" if stays else "\n[bold]Addresses[/]")
        for path in ("/", "/statistics", "/sources", "/docs", "/openapi.json", "/metrics"):
            out.print(f"  {house.url}{path}", highlight=False)
        if stays:
            out.print(
                f"\nIn another browser sign in with this read token:\n\n{token}\n", soft_wrap=True, highlight=False
            )
            out.print(f'  curl -H "Authorization: Bearer {token}" {house.url}/v1/sessions\n', soft_wrap=True)
            out.print(
                "Calls go on, one every few seconds: watch them come and go. Ctrl-C ends it and deletes the temporary log."
            )
            async with asyncio.TaskGroup() as group:
                playing = group.create_task(stage.play_on())
                await house.ended()
                playing.cancel()
        return 0 if is_right and sessions >= 2 * len(VENDORS) else 1


@final
class Player:
    """Plays calls into the hooks and counts the answers."""

    def __init__(self, out: Console, web: aiohttp.ClientSession, house: ServerProcess, keys: dict[str, str]) -> None:
        self._out = out
        self._web = web
        self._house = house
        self._keys = keys
        self._random = random.Random(7)  # noqa: S311 - the same show every time
        self.tallies = {vendor: Tally() for vendor in VENDORS}
        self.head = 0

    async def play_live(self, pace: float) -> None:
        """Act 1: five calls at once, each delivery at its moment."""
        start = clock.now()
        calls = {vendor: whole_call(vendor, start, pace=pace) for vendor in VENDORS}

        async def play(vendor: str, step: Step) -> None:
            for sent in calls[vendor]:
                await asyncio.sleep(max(0.0, (sent.at - clock.now()) / 1_000_000))
                await self._fire(self._signed(vendor, sent))
                step()

        with self._progress("Act 1: five calls as they happen", sum(map(len, calls.values()))) as step:
            async with asyncio.TaskGroup() as group:
                for vendor in VENDORS:
                    group.create_task(play(vendor, step))

    async def play_hostile(self, pace: float) -> None:
        """Act 2: calls that ended just now, in the worst shape a network can give them."""
        start = clock.now() - round(CALL_SECONDS * pace * 1_000_000)
        shots: list[Request] = []
        for vendor in VENDORS:
            kept = [sent for n, sent in enumerate(whole_call(vendor, start, seed=1, pace=pace)) if n % 3 != 1]
            signed = [self._signed(vendor, sent) for sent in kept]
            # A retry repeats bytes and proof; which ones are repeated is drawn.
            shots += signed + [shot for shot in signed if self._random.random() < 0.5] + self._forged(vendor, kept[0])
        self._random.shuffle(shots)
        with self._progress("Act 2: shuffled, repeated, forged, a third lost", len(shots)) as step:
            for at in range(0, len(shots), 8):
                await asyncio.gather(*(self._fire(shot) for shot in shots[at : at + 8]))
                step(len(shots[at : at + 8]))

    async def play_on(self) -> None:
        """Calls of all vendors one after the other, several at a time, for as long as the tracker answers."""

        async def play(vendor: str, seed: int) -> None:
            with contextlib.suppress(aiohttp.ClientError):
                for sent in whole_call(vendor, clock.now(), seed=seed, pace=ENCORE_PACE):
                    await asyncio.sleep(max(0.0, (sent.at - clock.now()) / 1_000_000))
                    await self._fire(self._signed(vendor, sent))

        async with asyncio.TaskGroup() as group:
            for seed in itertools.count(2):
                group.create_task(play(VENDORS[seed % len(VENDORS)], seed))
                await asyncio.sleep(ENCORE_SECONDS)

    def print_tallies(self) -> bool:
        """The table of deliveries; True when every delivery was answered as it must be."""
        table = Table(title="Deliveries", title_justify="left")
        table.add_column("source")
        for column in ("sent", "recorded", "duplicate", "refused (401)", "wrong answers"):
            table.add_column(column, justify="right")
        for vendor, tally in self.tallies.items():
            row = (tally.sent, tally.recorded, tally.duplicate, tally.refused, tally.failed)
            table.add_row(f"{SOURCES[vendor]} ({vendor})", *map(str, row))
        self._out.print(table)
        return not any(tally.failed for tally in self.tallies.values())

    def _signed(self, vendor: str, sent: SampleDelivery) -> Request:
        headers, suffix, _ = sign(vendor, sent.body, self._keys[vendor], clock.now())
        return Request(vendor, sent, headers, suffix, sent.body)

    def _forged(self, vendor: str, sent: SampleDelivery) -> list[Request]:
        """One delivery with a secret that is not ours; where the body is signed, one with a changed body as well."""
        headers, suffix, _ = sign(vendor, sent.body, "guessed-" + "x" * 32, clock.now())
        forged = [Request(vendor, sent, headers, suffix, sent.body, forged=True)]
        if vendor in {"openvidu_meet", "livekit", "plugnmeet"}:
            headers, suffix, _ = sign(vendor, sent.body, self._keys[vendor], clock.now())
            forged.append(Request(vendor, sent, headers, suffix, sent.body.replace(b"{", b"{ ", 1), forged=True))
        return forged

    async def _fire(self, shot: Request) -> None:
        tally = self.tallies[shot.vendor]
        tally.sent += 1
        url = f"{self._house.url}/hooks/{SOURCES[shot.vendor]}{shot.suffix}"
        post = self._web.post(url, data=shot.body, headers=shot.headers, params=shot.sent.query)
        async with post as answer:
            said = json.loads(await answer.read() or b"{}")
        if answer.status == (401 if shot.forged else 200):
            if shot.forged:
                tally.refused += 1
            elif said.get("duplicate"):
                tally.duplicate += 1
            else:
                tally.recorded += 1
            self.head = max(self.head, said.get("position", 0))
            return
        tally.failed += 1
        self._out.print(f"[red]{shot.vendor} {shot.sent.event}: {answer.status} {said.get('detail', said)}[/]")

    def _progress(self, title: str, total: int) -> _Steps:
        return _Steps(self._out, title, total)


@final
class _Steps:
    """A progress bar on a terminal, one line at the end elsewhere: `with _Steps(…) as step: step()`."""

    def __init__(self, out: Console, title: str, total: int) -> None:
        self._out = out
        self._title = title
        self._total = total
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._bar = Progress(*columns, console=out, disable=not out.is_terminal)
        self._task = self._bar.add_task(title, total=total)

    def __enter__(self) -> Step:
        self._bar.start()
        return self._step

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if not self._out.is_terminal:
            self._out.print(f"{self._title}: {self._total} deliveries")

    def _step(self, count: int = 1, /) -> None:
        self._bar.advance(self._task, count)


async def _sessions_shown(out: Console, web: aiohttp.ClientSession, house: ServerProcess, token: str, head: int) -> int:
    """Print the sessions and one timeline, as the API tells them; the number of sessions."""
    headers = {"Authorization": f"Bearer {token}"}

    async def read(path: str, **query: str) -> Any:
        async with web.get(house.url + path, params=query, headers=headers) as answer:
            body = await answer.json(content_type=None)
            if answer.status != 200:
                raise ReadFailed(f"GET {path}: {answer.status} {body}")
            return body

    sessions: Sequence[dict[str, Any]] = (await read("/v1/sessions", at_least=str(head), limit="100"))["items"]
    out.print(sessions_table(sessions))
    of_shown = [each for each in sessions if each["source"] == SHOWN]
    if of_shown:
        shown = min(of_shown, key=lambda each: each["first_position"])["id"]
        entries = (await read(f"/v1/sessions/{shown}/timeline", limit="1000"))["items"]
        out.print(timeline_table(shown, entries))
    return len(sessions)


def config_text(folder: Path, keys: dict[str, str], read_key: str, port: int) -> str:
    """The demo's config.toml: five sources with the given secrets, one read key, everything inside `folder`."""
    lines = [
        "[server]", 'host = "127.0.0.1"', f"port = {port}",
        "[log]", 'engine = "sqlite"', f"path = {json.dumps(str(folder / 'log.db'))}",
        "[views]", f"path = {json.dumps(str(folder / 'views.db'))}",
        "[access]", f'keys = [{{ id = "demo", algorithm = "HS256", secret = "{read_key}" }}]',
    ]  # fmt: skip
    for vendor, name in SOURCES.items():
        lines += ["[[sources]]", f'name = "{name}"', f'vendor = "{vendor}"']
        if vendor in ISSUERS:
            lines.append(f'keys = {{ {ISSUERS[vendor]} = "{keys[vendor]}" }}')
        elif vendor == "openvidu_meet":
            lines.append(f'secrets = ["{keys[vendor]}"]')
        else:
            lines.append(f'secret = "{keys[vendor]}"')
    return "\n".join(lines) + "\n"


def read_token(key: str) -> str:
    """A token for everything, for a day."""
    now = clock.now() // 1_000_000
    claims = {"sub": "demo", "scope": "read:sessions read:records", "iat": now, "exp": now + 86_400}
    return jwt.encode(claims, key, algorithm="HS256", headers={"kid": "demo"})

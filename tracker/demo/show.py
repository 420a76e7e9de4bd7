"""The demo: a tracker on a temporary log, and signed calls of every vendor sent to its hooks over HTTP.

    act 1   one call of each vendor as it happens, in order
    act 2   one more of each after the fact: shuffled, repeated, every third event lost, forged deliveries in between
    then    what each source sent and was answered, the sessions, one timeline, and the addresses to look at;
            where somebody stays to look, calls keep starting until Ctrl-C

It runs the same server with the same hooks, proofs and log as in production.
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
from rich.text import Text

from tracker.demo.calls import DECLARATIONS, ISSUERS, SOURCES, VENDORS, settings, sign, whole_call
from tracker.demo.process import ServerFailed, ServerProcess, start_server
from tracker.domain import clock
from tracker.errors import TrackerError
from tracker.sources import registry
from tracker.sources.sample_calls import CALL_SECONDS, SampleDelivery

LOOP_PACE = 0.5
LOOP_SECONDS = 12.0
"""After act 2 a call starts every 12 s and runs at twice the speed of life."""
SHOWN_SOURCE = "lk"
"""The source whose first session is printed as a timeline."""
PIPE_WIDTH = 200
"""Columns of a table that is not printed on a terminal."""

SESSION_COLUMNS = ("session", "state", "started", "lasted", "people", "recordings", "end", "completeness", "anomalies")
ENTRY_COLUMNS = ("at", "what", "about", "who", "how we know", "record")


class ReadFailed(TrackerError):
    """The API did not answer what the demo wanted to print."""


class Tally(msgspec.Struct):
    """How many deliveries a source sent, and how they were answered."""

    sent: int = 0
    recorded: int = 0
    duplicate: int = 0
    refused: int = 0
    failed: int = 0


class Advance(Protocol):
    """Moves a progress bar forward by `count` answered deliveries."""

    def __call__(self, count: int = 1, /) -> None: ...


class Request(msgspec.Struct, frozen=True):
    """One request to a hook; a `forged` one has to be answered 401."""

    vendor: str
    sent: SampleDelivery
    headers: dict[str, str]
    suffix: str
    body: bytes
    forged: bool = False


def run(*, speed: float = 20.0, keep: bool | None = None, port: int = 0, console: Console | None = None) -> int:
    """Run the demo; returns 0 if every delivery got the right answer, 1 otherwise.

    `speed`: how many seconds of a call pass in one second. `keep`: keep serving after act 2 until Ctrl-C (None: when
    standard output is a terminal). `port` 0 takes a free one.
    """
    is_terminal = sys.stdout.isatty()
    out = console or Console(soft_wrap=False, width=None if is_terminal else PIPE_WIDTH, highlight=False, emoji=False)
    keeps_serving = is_terminal if keep is None else keep
    with tempfile.TemporaryDirectory(prefix="tracker-demo-") as folder:
        try:
            return asyncio.run(_run(Path(folder), out, speed=max(speed, 0.1), keeps_serving=keeps_serving, port=port))
        except KeyboardInterrupt:
            return 0
        except (ServerFailed, ReadFailed) as problem:
            out.print(str(problem), style="red", markup=False)
            return 1


async def _run(folder: Path, out: Console, *, speed: float, keeps_serving: bool, port: int) -> int:
    keys = {vendor: secrets.token_urlsafe(32) for vendor in VENDORS}
    read_key = secrets.token_urlsafe(32)
    config = folder / "config.toml"
    config.write_text(config_text(folder, keys, read_key, port), "utf-8")
    async with start_server(config) as server, aiohttp.ClientSession() as web:
        out.print(f"[bold]Tracker[/] serves on {server.url} from a temporary log in {folder}\n")
        token = read_token(read_key)
        if keeps_serving:
            out.print("[bold]Watch it[/]: this link opens once, and signs you in\n")
            out.print(f"  {server.link}\n", soft_wrap=True, highlight=False)
        player = Player(out, web, server, keys)
        await player.play_live(1 / speed)
        await player.play_hostile(1 / speed)
        is_right = player.print_tallies()
        sessions = await _print_sessions(out, web, server, token, player.head)
        out.print("\n[bold]Look at it[/]" if keeps_serving else "\n[bold]Addresses[/]")
        for path in ("/", "/statistics", "/sources", "/docs", "/openapi.json", "/metrics"):
            out.print(f"  {server.url}{path}", highlight=False)
        if keeps_serving:
            out.print(
                f"\nIn another browser sign in with this read token:\n\n{token}\n", soft_wrap=True, highlight=False
            )
            out.print(f'  curl -H "Authorization: Bearer {token}" {server.url}/v1/sessions\n', soft_wrap=True)
            out.print("A new call starts every few seconds. Ctrl-C ends the demo and deletes the temporary log.")
            async with asyncio.TaskGroup() as group:
                playing = group.create_task(player.play_on())
                await server.ended()
                playing.cancel()
        return 0 if is_right and sessions >= 2 * len(VENDORS) else 1


@final
class Player:
    """Sends calls to the hooks and counts the answers."""

    def __init__(self, out: Console, web: aiohttp.ClientSession, server: ServerProcess, keys: dict[str, str]) -> None:
        self._out = out
        self._web = web
        self._server = server
        self._keys = keys
        self._random = random.Random(7)  # noqa: S311 - the same demo every time
        self.tallies = {vendor: Tally() for vendor in VENDORS}
        self._rejected = {vendor: registry.build(settings(vendor, "x")).rejected_status for vendor in VENDORS}
        self.head = 0
        """The highest position that a delivery was recorded at."""

    async def play_live(self, pace: float) -> None:
        """Act 1: one call of each vendor at once, each delivery at its moment."""
        start = clock.now()
        calls = {vendor: whole_call(vendor, start, pace=pace) for vendor in VENDORS}

        async def play(vendor: str, advance: Advance) -> None:
            for sent in calls[vendor]:
                await asyncio.sleep(max(0.0, (sent.at - clock.now()) / 1_000_000))
                await self._post(self._signed(vendor, sent))
                advance()

        with self._progress("Act 1: a call of each vendor as it happens", sum(map(len, calls.values()))) as advance:
            async with asyncio.TaskGroup() as group:
                for vendor in VENDORS:
                    group.create_task(play(vendor, advance))

    async def play_hostile(self, pace: float) -> None:
        """Act 2: calls that ended just now, in the worst shape a network can give them."""
        start = clock.now() - round(CALL_SECONDS * pace * 1_000_000)
        requests: list[Request] = []
        for vendor in VENDORS:
            received = [sent for n, sent in enumerate(whole_call(vendor, start, seed=1, pace=pace)) if n % 3 != 1]
            signed = [self._signed(vendor, sent) for sent in received]
            # A retry repeats bytes and proof; which ones are repeated is random.
            repeated = [request for request in signed if self._random.random() < 0.5]
            requests += signed + repeated + self._forged(vendor, received[0])
        self._random.shuffle(requests)
        with self._progress("Act 2: shuffled, repeated, forged, a third lost", len(requests)) as advance:
            for first in range(0, len(requests), 8):
                batch = requests[first : first + 8]
                await asyncio.gather(*(self._post(request) for request in batch))
                advance(len(batch))

    async def play_on(self) -> None:
        """Start one call after the other, several at a time, as long as the server answers."""

        async def play(vendor: str, seed: int) -> None:
            with contextlib.suppress(aiohttp.ClientError):
                for sent in whole_call(vendor, clock.now(), seed=seed, pace=LOOP_PACE):
                    await asyncio.sleep(max(0.0, (sent.at - clock.now()) / 1_000_000))
                    await self._post(self._signed(vendor, sent))

        async with asyncio.TaskGroup() as group:
            for seed in itertools.count(2):
                group.create_task(play(VENDORS[seed % len(VENDORS)], seed))
                await asyncio.sleep(LOOP_SECONDS)

    def print_tallies(self) -> bool:
        """Print the table of deliveries; returns whether every delivery got the right answer."""
        columns = ("source", "sent", "recorded", "duplicate", "refused", "wrong answers")
        rows = [
            (f"{SOURCES[vendor]} ({vendor})", tally.sent, tally.recorded, tally.duplicate, tally.refused, tally.failed)
            for vendor, tally in self.tallies.items()
        ]
        self._out.print(_table("Deliveries", columns, rows))
        return not any(tally.failed for tally in self.tallies.values())

    def _signed(self, vendor: str, sent: SampleDelivery) -> Request:
        headers, suffix, _ = sign(vendor, sent.body, self._keys[vendor], clock.now())
        return Request(vendor, sent, headers, suffix, sent.body)

    def _forged(self, vendor: str, sent: SampleDelivery) -> list[Request]:
        """One delivery with a wrong secret; where the body is signed, also one with a changed body."""
        headers, suffix, _ = sign(vendor, sent.body, "guessed-" + "x" * 32, clock.now())
        forged = [Request(vendor, sent, headers, suffix, sent.body, forged=True)]
        if registry.VENDORS[vendor].signs_body:
            headers, suffix, _ = sign(vendor, sent.body, self._keys[vendor], clock.now())
            forged.append(Request(vendor, sent, headers, suffix, sent.body + b" ", forged=True))
        return forged

    async def _post(self, request: Request) -> None:
        tally = self.tallies[request.vendor]
        tally.sent += 1
        url = f"{self._server.url}/hooks/{SOURCES[request.vendor]}{request.suffix}"
        post = self._web.post(url, data=request.body, headers=request.headers, params=request.sent.query)
        async with post as response:
            answer = json.loads(await response.read() or b"{}")
        if response.status == (self._rejected[request.vendor] if request.forged else 200):
            if request.forged:
                tally.refused += 1
            elif answer.get("duplicate"):
                tally.duplicate += 1
            else:
                tally.recorded += 1
            self.head = max(self.head, answer.get("position", 0))
            return
        tally.failed += 1
        event = f"{request.vendor} {request.sent.event}"
        self._out.print(f"[red]{event}: {response.status} {answer.get('detail', answer)}[/]")

    def _progress(self, title: str, total: int) -> _ProgressBar:
        return _ProgressBar(self._out, title, total)


@final
class _ProgressBar:
    """A progress bar on a terminal, one line at the end elsewhere: `with _ProgressBar(…) as advance: advance()`."""

    def __init__(self, out: Console, title: str, total: int) -> None:
        self._out = out
        self._title = title
        self._total = total
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._bar = Progress(*columns, console=out, disable=not out.is_terminal)
        self._task = self._bar.add_task(title, total=total)

    def __enter__(self) -> Advance:
        self._bar.start()
        return self._advance

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if not self._out.is_terminal:
            self._out.print(f"{self._title}: {self._total} deliveries")

    def _advance(self, count: int = 1, /) -> None:
        self._bar.advance(self._task, count)


async def _print_sessions(
    out: Console, web: aiohttp.ClientSession, server: ServerProcess, token: str, head: int
) -> int:
    """Print the sessions and one timeline, as the API answers them; the number of sessions."""
    headers = {"Authorization": f"Bearer {token}"}

    async def read(path: str, **query: str) -> Any:
        async with web.get(server.url + path, params=query, headers=headers) as answer:
            body = await answer.json(content_type=None)
            if answer.status != 200:
                raise ReadFailed(f"GET {path}: {answer.status} {body}")
            return body

    sessions: Sequence[dict[str, Any]] = (await read("/v1/sessions", at_least=str(head), limit="100"))["items"]
    out.print(_table("Sessions", SESSION_COLUMNS, [_session_row(each) for each in sessions]))
    of_shown = [each for each in sessions if each["source"] == SHOWN_SOURCE]
    if of_shown:
        shown = min(of_shown, key=lambda each: each["first_position"])["id"]
        entries = (await read(f"/v1/sessions/{shown}/timeline", limit="1000"))["items"]
        out.print(_table(f"Timeline of {shown}", ENTRY_COLUMNS, [_entry_row(each) for each in entries]))
    return len(sessions)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """Rows as a table; numbers are aligned to the right."""
    table = Table(title=title, title_justify="left")
    for n, column in enumerate(columns):
        is_numeric = all(isinstance(row[n], int) for row in rows)
        table.add_column(column, justify="right" if is_numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    return table


def _session_row(session: dict[str, Any]) -> Sequence[Any]:
    lasted = session["duration_ms"]
    return (
        session["id"],
        "stuck" if session["stuck"] else session["state"],
        _moment(session["started_at"] or session["created_at"], 19),
        None if lasted is None else f"{lasted / 1000:.1f} s",
        session["participants"],
        session["recordings"],
        session["end"]["provenance"] if session["end"] else None,
        session["completeness"],
        ", ".join(sorted({anomaly["kind"] for anomaly in session["anomalies"]})),
    )


def _entry_row(entry: dict[str, Any]) -> Sequence[Any]:
    about = f"{entry['subject']['type']} {entry['subject']['id'] or ''}".strip()
    return (_moment(entry["at"], 23), entry["kind"], about, entry["actor"], entry["provenance"], entry["position"])


def _moment(at: str | None, characters: int) -> str | None:
    return None if at is None else at[:characters].replace("T", " ")


def config_text(folder: Path, keys: dict[str, str], read_key: str, port: int) -> str:
    """The demo's config.toml: a source of every vendor with the given secrets, one read key, every file in `folder`."""
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
        else:
            lines.append(f'secret = "{keys[vendor]}"')
        hook_url = settings(vendor, "").hook_url
        if hook_url:
            lines.append(f"hook_url = {json.dumps(hook_url)}")
        if vendor in DECLARATIONS:
            lines.append(f'declaration = "{DECLARATIONS[vendor]}"')
    return "\n".join(lines) + "\n"


def read_token(key: str) -> str:
    """A token that may read everything for a day."""
    now = clock.now() // 1_000_000
    claims = {"sub": "demo", "scope": "read:sessions read:records", "iat": now, "exp": now + 86_400}
    return jwt.encode(claims, key, algorithm="HS256", headers={"kid": "demo"})

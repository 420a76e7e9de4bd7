"""What one more event of a room costs, with many earlier runs of that room: `python -m bench.rooms [--sizes 1000 …]`.

For each vendor and each order (forwards, backwards, shuffled) a log with n short runs of one room is projected, as a server
catches up. All times are processor time. Printed for each n: milliseconds an event; the same relative to the smallest n, and
relative to the same runs in rooms of that smallest n each; and what each of `--single` further events took alone (median
and longest). The goals: at most 1.5 times the cost in small rooms, 20 ms for one more event.

The ratio to the smallest n also contains what is not the room's: all of a small log fits into a batch or two, so a session is
rendered once for several of its events. The ratio to small rooms compares logs of the same length, in the same order.

By default: 1,000 and 4,000 runs. `--sizes 1000 16000 64000` takes hours for all vendors and orders; `--orders` and `--vendors`
choose some. Every measurement has a process of its own, so that no memory is left over. Exit code 1: a goal was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bench import report
from bench.report import Row
from tracker.demo.calls import ISSUERS
from tracker.log.sqlite.log import SqliteLog
from tracker.projector import gc_tuning
from tracker.projector.projector import Projector
from tracker.sources import registry
from tracker.sources.contract import SourceSettings
from tracker.views.sqlite.views import SqliteViews

START = 1_700_000_000
APART = 200
"""Seconds between the starts of two runs."""
ROOM_KEYS = {"name", "sessionId", "roomId", "room_id", "client_id"}
ORDERS = ("forwards", "backwards", "shuffled")
SIZES = (1_000, 4_000)
MAX_RATIO, MAX_SINGLE_MS = 1.5, 20

Body = tuple[int, dict]
"""The second at which it is received, and the body."""


def livekit(n: int) -> Iterator[Body]:
    at = START + n * APART
    room = {"sid": f"RM_{n:06}", "name": "room", "creationTime": str(at)}
    who = {"sid": f"PA_{n:06}", "identity": "ann", "joinedAt": str(at + 5)}
    yield at, {"event": "room_started", "room": room, "id": f"a{n}", "createdAt": str(at)}
    yield (
        at + 5,
        {
            "event": "participant_joined",
            "room": room,
            "participant": who | {"state": "ACTIVE"},
            "id": f"b{n}",
            "createdAt": str(at + 5),
        },
    )
    yield (
        at + 50,
        {"event": "participant_left", "room": room, "participant": who, "id": f"c{n}", "createdAt": str(at + 50)},
    )
    yield at + 60, {"event": "room_finished", "room": room, "id": f"d{n}", "createdAt": str(at + 60)}


def openvidu(n: int) -> Iterator[Body]:
    """As servers before 2.17: only starts and ends name the run."""
    at = (START + n * APART) * 1000
    who = {"participantId": f"con_{n}", "connectionId": f"con_{n}", "clientData": "Ann"}
    for seconds, name, more in (
        (0, "sessionCreated", {}),
        (5, "participantJoined", who),
        (50, "participantLeft", who | {"startTime": at + 5_000, "duration": 45, "reason": "disconnect"}),
        (60, "sessionDestroyed", {"startTime": at, "duration": 60, "reason": "lastParticipantLeft"}),
    ):
        yield at // 1000 + seconds, {"sessionId": "room", "timestamp": at + seconds * 1000, "event": name, **more}


def openvidu_meet(n: int) -> Iterator[Body]:
    at = (START + n * APART) * 1000
    room = {"roomId": "room-1", "roomName": "Room"}
    who = {"participantIdentity": f"ann-{n}", "participantName": "Ann", "joinDate": at + 5_000}
    for seconds, name, more in (
        (0, "meetingStarted", {}),
        (5, "participantJoined", {"participant": who}),
        (50, "participantLeft", {"participant": who | {"leaveDate": at + 50_000}}),
        (60, "meetingEnded", {}),
    ):
        yield at // 1000 + seconds, {"event": name, "creationDate": at + seconds * 1000, "data": room | more}


def plugnmeet(n: int, *, with_sid: bool = True) -> Iterator[Body]:
    at = START + n * APART
    room = {"room_id": "room", "creation_time": str(at)} | ({"sid": f"sid-{n:06}"} if with_sid else {})
    who = {"sid": f"PA_{n}", "identity": "ann", "joined_at": str(at + 5)}
    for seconds, name, more in (
        (0, "room_started", {}),
        (5, "participant_joined", {"participant": who | {"state": "ACTIVE"}}),
        (50, "participant_left", {"participant": who}),
        (60, "room_finished", {}),
    ):
        yield at + seconds, {"event": name, "room": room, "id": f"{name}{n}", "created_at": str(at + seconds), **more}


def plugnmeet_without_sid(n: int) -> Iterator[Body]:
    return plugnmeet(n, with_sid=False)


def streamrec(n: int, *, with_session: bool = False) -> Iterator[Body]:
    """As the platform sends it: nothing at the start, and no session id."""
    at = START + n * APART
    named = {"client_id": "agent"} | ({"session_id": f"s-{n:06}"} if with_session else {})
    rec = {"rec_id": f"rec-{n:06}"}
    span = {"recording_started_at": iso(at + 2), "recording_stopped_at": iso(at + 50)}
    yield at + 55, {"status": "upload_failed", "upload_status_code": 503, **rec, **named}
    yield at + 60, {"status": "upload_ready", **rec, **span, **named}
    yield at + 70, {"status": "session_finished", "started_at": iso(at), "stopped_at": iso(at + 60), **rec, **named}


def streamrec_with_session(n: int) -> Iterator[Body]:
    return streamrec(n, with_session=True)


def iso(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


VENDORS: dict[str, tuple[str, Callable[[int], Iterator[Body]]]] = {
    "livekit": ("livekit", livekit),
    "openvidu": ("openvidu", openvidu),
    "openvidu_meet": ("openvidu_meet", openvidu_meet),
    "plugnmeet": ("plugnmeet", plugnmeet),
    "plugnmeet_without_sid": ("plugnmeet", plugnmeet_without_sid),
    "streamrec": ("streamrec", streamrec),
    "streamrec_with_session": ("streamrec", streamrec_with_session),
}


def runs_of(name: str, first: int, until: int, per_room: int) -> list[Body]:
    """The bodies of these runs, with `per_room` successive runs in each room."""
    found: list[Body] = []
    for n in range(first, until):
        for at, body in VENDORS[name][1](n):
            found.append((at, in_room(body, n // per_room) if n >= per_room else body))
    return found


def in_room(value: dict, number: int) -> dict:
    """The same body with another room."""
    return {
        key: in_room(inner, number) if key in {"room", "data"} else f"{inner}-{number}" if key in ROOM_KEYS else inner
        for key, inner in value.items()
    }


def bodies(name: str, runs: int, order: str, per_room: int) -> list[Body]:
    found = runs_of(name, 0, runs, per_room)
    if order == "backwards":
        found.reverse()
    elif order == "shuffled":
        random.Random(runs).shuffle(found)
    return found


async def append(log: SqliteLog, name: str, given: list[Body]) -> None:
    vendor = VENDORS[name][0]
    keys = {ISSUERS[vendor]: "x" * 40} if vendor in ISSUERS else {}
    source = registry.build(SourceSettings(name="s", vendor=vendor, secrets=() if keys else ("x" * 40,), keys=keys))
    for first in range(0, len(given), 5_000):
        await log.append_all([
            source.verify_trusted(msgspec.json.encode(body), received_at=at * 1_000_000, proof={"scheme": "import"})
            for at, body in given[first : first + 5_000]
        ])  # fmt: skip


async def measure(name: str, runs: int, order: str, single: int, per_room: int) -> None:
    """Print milliseconds an event, median and longest of single events (ms): one line."""
    given = bodies(name, runs, order, per_room)
    if order == "shuffled":
        later, given = given[len(given) - single :], given[: len(given) - single]
    elif order == "backwards":
        later = runs_of(name, -1 - single // 3, 0, per_room)[::-1][:single]
    else:
        later = runs_of(name, runs, runs + 1 + single // 3, max(per_room, 2 * runs))[:single]
    with tempfile.TemporaryDirectory() as folder:
        await SqliteLog.create(Path(folder) / "log.db")
        log = await SqliteLog.open(Path(folder) / "log.db")
        await append(log, name, given)
        await SqliteViews.create(Path(folder) / "views.db")
        views = await SqliteViews.open(Path(folder) / "views.db", writable=True)
        projector = Projector(log, views)
        with gc_tuning.collect_rarely(gc_tuning.SERVING):
            began = time.process_time()
            await projector.catch_up()
            took = time.process_time() - began
            alone: list[float] = []
            for body in later:
                await append(log, name, [body])
                began = time.process_time()
                await projector.catch_up()
                alone.append((time.process_time() - began) * 1000)
        await views.close()
        await log.close()
    print(took * 1000 / len(given), statistics.median(alone or [0]), max(alone, default=0))


def measured(name: str, runs: int, order: str, single: int, per_room: int) -> tuple[float, float, float]:
    command = [
        sys.executable, "-m", "bench.rooms", "--one", name, order, str(runs), str(per_room), "--single", str(single),
    ]  # fmt: skip
    # The last line: the log may warn that a disk is slow.
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1].split()
    return float(answer[0]), float(answer[1]), float(answer[2])


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; returns 1 if a goal was missed."""
    parser = report.parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--orders", nargs="+", choices=ORDERS, default=list(ORDERS))
    parser.add_argument("--vendors", nargs="+", choices=VENDORS, default=list(VENDORS))
    parser.add_argument("--single", type=int, default=20)
    parser.add_argument("--one", nargs=4, metavar=("VENDOR", "ORDER", "RUNS", "PER_ROOM"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.smoke:
        options.sizes, options.orders, options.vendors, options.single = [10, 20], ["shuffled"], list(VENDORS)[:1], 2
    if options.one:
        name, order, runs, per_room = options.one
        asyncio.run(measure(name, int(runs), order, options.single, int(per_room)))
        return 0
    missed, rows = 0, list[Row]()
    least = min(options.sizes)
    print(
        f"{'vendor':24}{'order':>10}{'runs':>8}{'ms/event':>10}{'ratio':>7}{'to small rooms':>16}{'one more: median':>18}{'longest':>9}"
    )
    for name in options.vendors:
        for order in options.orders:
            smallest = 0.0
            for runs in sorted(options.sizes):
                each, median, longest = measured(name, runs, order, options.single, runs)
                smallest = smallest or each
                small_rooms = each if runs == least else measured(name, runs, order, 0, least)[0]
                is_missed = each / small_rooms > MAX_RATIO or longest > MAX_SINGLE_MS
                missed += is_missed
                what = f"{name}, {order}, {runs:,} runs of one room, an event"
                rows.append(Row("rooms", what, each * 1000, "µs", each / small_rooms, f"rooms of {least:,} runs"))
                print(
                    f"{name:24}{order:>10}{runs:>8}{each:>10.3f}{each / smallest:>7.2f}{each / small_rooms:>16.2f}{median:>18.1f}{longest:>9.1f}"
                    f"{'  missed' if is_missed else ''}",
                    flush=True,
                )
    report.write(rows, options)
    return 1 if missed and not options.smoke else 0


if __name__ == "__main__":
    report.run(main)

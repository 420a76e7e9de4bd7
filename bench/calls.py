"""The calls of a deployment, for benchmarks: five vendors, varied lengths and people, an arrival curve over the day.

Nothing is measured here. `calls(sessions, begin, days)` yields plans in the order they begin. `deliveries(plan)` returns
what the vendor's servers send, in causal order: a sample call of the vendor with more people, with a recording only where
the plan has one, and with persons of a population instead of Alice and Bob. The same arguments give the same bytes.
"""

from __future__ import annotations

import bisect
import itertools
import math
import random
import re
from collections.abc import Iterator
from typing import NamedTuple

from tracker.demo.calls import SampleDelivery, whole_call

MIX = (("openvidu", 20), ("openvidu_meet", 20), ("livekit", 30), ("plugnmeet", 15), ("streamrec", 15))
"""Vendor → its share of the calls, percent."""

HOURS = (2, 1, 1, 1, 2, 4, 10, 30, 70, 95, 100, 95, 80, 85, 95, 100, 90, 65, 40, 25, 15, 10, 6, 4)
"""Calls that begin in each hour of a day, in percent of the busiest hour."""

MINUTES = 14.0
"""The median length of a call. One in six is more than twice as long, one in six less than half as long."""
STORY_MINUTES = 150 / 60
LONGEST = 480.0

RECORDED = 0.3
ASSISTED = 0.25
"""The share of calls that are recorded, and the share whose second person is the same assistant."""

CALLS_A_ROOM = 12
CALLS_A_PERSON = 8
MOST_PEOPLE = 60
SECOND = 1_000_000
HOUR = 3_600 * SECOND
DAY = 24 * HOUR

_OF_RECORDING = re.compile(r"record|egress|upload|artifact|analytics", re.IGNORECASE)
_OWN = re.compile(rb"(?:PA|TR|EV)_\w{8,}")


class Plan(NamedTuple):
    """One call to generate: `start` in µs, `pace` stretches it, `persons` are numbers in the population."""

    vendor: str
    start: int
    room: int
    pace: float
    persons: tuple[int, ...]
    recorded: bool


def calls(sessions: int, begin: int, days: int, *, seed: int = 1) -> Iterator[Plan]:
    """`sessions` calls that begin within `days` days from `begin` (µs). The first has 300 people, for one long timeline."""
    chance = random.Random(seed)
    vendors = [vendor for vendor, share in MIX for _ in range(share)]
    rooms, population = max(5, sessions // CALLS_A_ROOM), max(50, sessions * 3 // CALLS_A_PERSON)
    for n, start in enumerate(_starts(sessions, begin, days, chance)):
        people = min(MOST_PEOPLE, 2 + int(chance.expovariate(0.9)))
        persons = tuple(chance.randrange(1, population) for _ in range(people))
        if chance.random() < ASSISTED:
            persons = (persons[0], 0, *persons[2:])
        minutes = min(LONGEST, chance.lognormvariate(math.log(MINUTES), 0.75))
        plan = Plan(
            chance.choice(vendors), start, chance.randrange(rooms), round(minutes / STORY_MINUTES, 3), persons,
            chance.random() < RECORDED,
        )  # fmt: skip
        yield plan if n else plan._replace(vendor="livekit", persons=tuple(range(1, 301)))


def deliveries(plan: Plan) -> list[SampleDelivery]:
    """The deliveries of this call, by time."""
    story = whole_call(plan.vendor, plan.start, seed=plan.room, pace=plan.pace)
    sends = [_named(sent, plan.persons) for sent in story if plan.recorded or not _OF_RECORDING.search(sent.event)]
    if len(plan.persons) > 2 and plan.vendor != "streamrec":
        for k in range(2, len(plan.persons)):
            # The second person's events at another pace, so that this person joins and leaves at other times.
            pace = plan.pace * (0.3 + 0.9 * ((k * 0.6180339887) % 1))
            sends += _another(whole_call(plan.vendor, plan.start, seed=plan.room, pace=pace), k, plan.persons)
    return sorted(sends, key=lambda sent: sent.at)


def _starts(sessions: int, begin: int, days: int, chance: random.Random) -> Iterator[int]:
    """Start times (µs), ascending, distributed over each day by `HOURS`."""
    ends = list(itertools.accumulate(HOURS))
    whole = ends[-1] * days
    weight = 0.0
    for _ in range(sessions):
        weight = min(weight + chance.expovariate(sessions / whole), whole - 1e-6)
        day, rest = divmod(weight, ends[-1])
        hour = bisect.bisect_right(ends, rest)
        part = (rest - (ends[hour - 1] if hour else 0)) / HOURS[hour]
        yield begin + int(day) * DAY + int((hour + part) * HOUR)


def _named(sent: SampleDelivery, persons: tuple[int, ...]) -> SampleDelivery:
    """The delivery with persons of the population instead of Alice and Bob."""
    body = sent.body
    for name, person in ((b"lice", persons[0]), (b"ob", persons[1])):
        first = b"a" if name == b"lice" else b"b"
        body = body.replace(first + name, b"p%d" % person).replace(first.upper() + name, b"Person %d" % person)
    return SampleDelivery(sent.event, body, sent.at, sent.query)


def _another(story: list[SampleDelivery], k: int, persons: tuple[int, ...]) -> Iterator[SampleDelivery]:
    """The deliveries about Bob, changed to person `k` of this call."""
    joined = next(sent.body for sent in story if b"Bob" in sent.body)
    own = re.search(rb"PA_\w+|con_\w+", joined)
    mark = own[0] if own else b"Bob"
    suffix = b"%03x" % k
    for sent in story:
        if mark not in sent.body:
            continue
        body = _OWN.sub(lambda found: found[0][:-3] + suffix, sent.body)
        if mark.startswith(b"con_"):
            body = body.replace(mark, mark[:-3] + suffix)
        yield _named(SampleDelivery(sent.event, body, sent.at, sent.query), (persons[0], persons[k]))

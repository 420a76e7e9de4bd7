"""Varied deliveries for measurements, of two kinds.

calls     the demo's sample calls, with other people, rooms, places and devices
samples   the bodies of tests/samples, with all the fields that vendors send, repeated with every id, number, address and
          time changed

No two deliveries have the same ids or times. Each body is signed as its vendor signs, and verified as by ingest, so that
dedupe keys and proofs are real.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Iterator

import msgspec

from tests.support.samples import samples
from tracker.domain.deliveries import Verified
from tracker.demo.calls import SampleDelivery, delivery, settings, whole_call
from tracker.sources import registry
from tracker.sources.contract import Source


START = 1_700_000_000_000_000
SECRET = "bench-secret-of-at-least-32-bytes!!"  # noqa: S105 - signs nothing real
MINUTE = 60_000_000
SYLLABLES = "an bel cor da el fi gar hu iv jo kal lin mar ne ol per qua ris sam to ul ver wen xi yas zo".split()
CITIES = "Berlin, Germany|Madrid, Spain|Lyon, France|Porto, Portugal|Graz, Austria|Gdańsk, Poland|Turku, Finland".split(
    "|"
)
PLATFORMS = (
    "Chrome {} on Linux 64-bit", "Chrome {} on Windows 10 64-bit", "Firefox {} on Windows 11", "Safari {} on OS X 10.15.7",
    "Microsoft Edge {} on Windows 10 64-bit", "Chrome Mobile {} on Android 14", "Safari {} on iOS 17.5",
)  # fmt: skip


def source_of(vendor: str) -> Source:
    """The source that verifies the results of `deliveries`; its name is the vendor's."""
    return registry.build(settings(vendor, SECRET, name=vendor))


def with_other_people(body: bytes, chance: random.Random, people: tuple[str, str], room: str) -> bytes:
    """A body of a sample call with other people, rooms, places and devices."""
    text = body.decode()
    for known, name in zip(("Alice", "Bob"), people, strict=True):
        text = text.replace(known, name).replace(known.lower(), name.lower())
    for known in (
        "daily-standup",
        "algebra-101",
        "Team sync",
        "team-sync",
        "consultation",
        "agent-0042",
        "supervisor-7",
    ):
        text = text.replace(known, room)
    for known in ("192.0.2.17", "198.51.100.4"):
        text = text.replace(known, ".".join(str(chance.randrange(1, 255)) for _ in range(4)))
    text = text.replace("Berlin, Germany", chance.choice(CITIES))
    version = f"{chance.randrange(100, 140)}.0.{chance.randrange(9999)}.{chance.randrange(200)}"
    text = text.replace("Chrome 128.0.0.0 on Linux 64-bit", chance.choice(PLATFORMS).format(version))
    return text.encode()


# Ids (letters and digits mixed), hexadecimal pieces of UUIDs, and numbers of four digits and more.
CHANGING = re.compile(r"[0-9]{4,}|(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{8,}|(?<=-)[0-9a-f]{4}(?=-)")


def with_other_ids(text: str, chance: random.Random, known: dict[str, str]) -> str:
    """A body with other ids, numbers and times; `known` maps each id to the same other id everywhere."""

    def another(found: re.Match[str]) -> str:
        old = found.group()
        if old not in known:
            if old.isdigit():  # keep the first digits, so that times stay plausible
                fixed = min(len(old) // 3, 4)
                known[old] = old[:fixed] + "".join(chance.choices(string.digits, k=len(old) - fixed))
            elif set(old) <= set(string.hexdigits.lower()):
                known[old] = "".join(chance.choices("0123456789abcdef", k=len(old)))
            else:
                fixed = re.match(r"(TR_|PA_|EV_|RM_|EG_|str_|con_)?", old).end()  # type: ignore[union-attr]
                letters = string.ascii_letters + string.digits
                known[old] = old[:fixed] + "".join(chance.choices(letters, k=len(old) - fixed))
        return known[old]

    return CHANGING.sub(another, text)


def sample_deliveries(vendor: str, seed: int = 0) -> Iterator[Verified]:
    """Endless verified deliveries: the samples of a vendor, repeated with other ids."""
    source = source_of(vendor)
    chance = random.Random(f"samples:{vendor}:{seed}")
    bodies = sorted({sample.body.decode("latin1") for sample in samples() if sample.vendor == vendor})
    now = START
    while True:
        known: dict[str, str] = {}
        for text in bodies:
            now += chance.randrange(MINUTE)
            body = with_other_ids(text, chance, known).encode("latin1")
            sent = SampleDelivery("", body, now)
            yield source.verify(delivery(vendor, sent, SECRET, name=vendor, received_at=now))


def _name(chance: random.Random, least: int, most: int) -> str:
    return "".join(chance.choices(SYLLABLES, k=chance.randint(least, most)))


def deliveries(vendor: str, seed: int = 0) -> Iterator[Verified]:
    """Endless verified deliveries: calls some minutes apart, each with other people in another room."""
    source = source_of(vendor)
    chance = random.Random(f"{vendor}:{seed}")
    now = START + chance.randrange(10**12)
    while True:
        now += chance.randrange(MINUTE, 9 * MINUTE)
        people = (_name(chance, 2, 4).title(), f"{_name(chance, 1, 3)} {_name(chance, 2, 4)}".title())
        room = f"{_name(chance, 1, 4)}-{''.join(chance.choices(string.ascii_lowercase + string.digits, k=chance.randrange(6)))}"
        place = chance.getrandbits(60)
        for sent in whole_call(vendor, now, seed=chance.getrandbits(30), pace=chance.uniform(0.2, 20)):
            body = with_other_people(sent.body, random.Random(place), people, room)
            changed = msgspec.structs.replace(sent, body=body)
            arrived = sent.at + chance.randrange(500_000)
            yield source.verify(delivery(vendor, changed, SECRET, name=vendor, received_at=arrived))


KINDS = {"calls": deliveries, "samples": sample_deliveries}

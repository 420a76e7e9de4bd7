"""Varied deliveries to measure with: whole calls of the demo, told about other people, rooms, places and devices.

No two calls have the same names, addresses, ids or times; each body is signed as its vendor signs and verified as ingest
does, so that dedupe keys and proofs are the real ones.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterator

from tracker.deliveries import Delivery, Verified
from tracker.demo_calls import ISSUERS, sign, whole_call
from tracker.sources import registry
from tracker.sources.contract import Source, SourceSettings

START = 1_700_000_000_000_000
SECRET = "bench-secret-of-at-least-32-bytes!!"  # noqa: S105 - signs nothing real
MINUTE = 60_000_000
SYLLABLES = "an bel cor da el fi gar hu iv jo kal lin mar ne ol per qua ris sam to ul ver wen xi yas zo".split()
CITIES = "Berlin, Germany|Madrid, Spain|Lyon, France|Porto, Portugal|Graz, Austria|Gdańsk, Poland|Turku, Finland".split("|")
PLATFORMS = (
    "Chrome {} on Linux 64-bit", "Chrome {} on Windows 10 64-bit", "Firefox {} on Windows 11", "Safari {} on OS X 10.15.7",
    "Microsoft Edge {} on Windows 10 64-bit", "Chrome Mobile {} on Android 14", "Safari {} on iOS 17.5",
)  # fmt: skip


def source_of(vendor: str) -> Source:
    """The source that verifies what `deliveries` makes; its name is the vendor's."""
    keys = {ISSUERS[vendor]: SECRET} if vendor in ISSUERS else {}
    return registry.build(SourceSettings(name=vendor, vendor=vendor, secrets=() if keys else (SECRET,), keys=keys))


def told_of_others(body: bytes, chance: random.Random, people: tuple[str, str], room: str) -> bytes:
    """A body of the demo with its people, rooms, places and devices replaced."""
    text = body.decode()
    for known, name in zip(("Alice", "Bob"), people, strict=True):
        text = text.replace(known, name).replace(known.lower(), name.lower())
    for known in ("daily-standup", "algebra-101", "Team sync", "team-sync", "consultation", "agent-0042", "supervisor-7"):
        text = text.replace(known, room)
    for known in ("192.0.2.17", "198.51.100.4"):
        text = text.replace(known, ".".join(str(chance.randrange(1, 255)) for _ in range(4)))
    text = text.replace("Berlin, Germany", chance.choice(CITIES))
    version = f"{chance.randrange(100, 140)}.0.{chance.randrange(9999)}.{chance.randrange(200)}"
    text = text.replace("Chrome 128.0.0.0 on Linux 64-bit", chance.choice(PLATFORMS).format(version))
    return text.encode()


def _name(chance: random.Random, least: int, most: int) -> str:
    return "".join(chance.choices(SYLLABLES, k=chance.randint(least, most)))


def deliveries(vendor: str, seed: int = 0) -> Iterator[Verified]:
    """Without end: calls some minutes apart, each of two people in a room of its own, verified."""
    source = source_of(vendor)
    chance = random.Random(f"{vendor}:{seed}")
    now = START + chance.randrange(10**12)
    while True:
        now += chance.randrange(MINUTE, 9 * MINUTE)
        people = (_name(chance, 2, 4).title(), f"{_name(chance, 1, 3)} {_name(chance, 2, 4)}".title())
        room = f"{_name(chance, 1, 4)}-{''.join(chance.choices(string.ascii_lowercase + string.digits, k=chance.randrange(6)))}"
        place = chance.getrandbits(60)
        for sent in whole_call(vendor, now, seed=chance.getrandbits(30), pace=chance.uniform(0.2, 20)):
            body = told_of_others(sent.body, random.Random(place), people, room)
            headers, suffix, query = sign(vendor, body, SECRET, sent.at)
            yield source.verify(
                Delivery(
                    source=vendor, body=body, received_at=sent.at + chance.randrange(500_000),
                    headers={name.lower(): value for name, value in headers.items()}, query=query | sent.query,
                    token=suffix.removeprefix("/") or None,
                )
            )  # fmt: skip

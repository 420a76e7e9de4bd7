"""One event in several records is one entry: webhook and CDR file in different encodings, and copies of loggers.

Law: with copies in any order and batches, timeline and participants equal those of the readable copies alone.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.memory_log import MemoryLog
from tests.support.paths import SAMPLES
from tracker.domain.deliveries import Record
from tracker.domain.redaction import pseudonymize_everyone
from tracker.domain.rows import EntryRow
from tracker.projector.projector import Projector
from tracker.sources import registry
from tracker.sources.contract import SourceSettings
from tracker.views.sqlite.views import SqliteViews

FIELD = SAMPLES / "field"
CDR = (FIELD / "openvidu-03" / "CDR.2020-09-13_08-00-00.log").read_bytes().splitlines()
OTHER = (FIELD / "openvidu-03" / "CDR.2020-09-24_08-00-00.log").read_bytes().splitlines()
WEBHOOKS = (FIELD / "openvidu-03" / "webhooks-latin1.txt").read_bytes().splitlines()
SESSION = "src:kelas-12_1600000000000"
SOURCE = registry.build(SourceSettings(name="src", vendor="openvidu"))


def shown(entry: EntryRow) -> tuple[Any, ...]:
    detail = {name: value for name, value in entry.detail.items() if name != "erased"}
    return entry.kind, entry.at, entry.subject_id, entry.actor, json.dumps(detail, sort_keys=True, ensure_ascii=False)


async def outcome(
    bodies: Sequence[bytes], batch: int = 2_000, session: str | None = SESSION, *, former_keys: bool = False
) -> tuple[list[Any], list[Any]]:
    """(the timeline, the participants) of these records, projected in batches, read in pages of three.

    `former_keys`: recorded under the dedupe keys of earlier versions.
    """
    log = MemoryLog()
    for n, body in enumerate(bodies):
        verified = SOURCE.verify_trusted(body, received_at=1_800_000_000_000_000 + n, proof={})
        if former_keys:
            (key,) = registry.VENDORS["openvidu"].former_keys(body)
            verified = msgspec.structs.replace(verified, dedupe_key=key)
        await log.append(verified)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "views.db"
        await SqliteViews.create(path)
        views = await SqliteViews.open(path, writable=True)
        try:
            await Projector(log, views, batch_size=batch).catch_up()
            entries: list[EntryRow] = []
            cursor = None
            while True:
                page, cursor = await views.timeline(session, kinds=(), subject=None, limit=3, cursor=cursor)
                entries += page
                if cursor is None:
                    break
            people, _ = await views.participants(
                session_id=session, identity=None, sources=None, limit=100, cursor=None
            )
            live = await views.entries_after(0, 0, limit=1000)
        finally:
            await views.close()
    assert {entry.id for entry in entries} <= {entry.id for entry in live}
    return [shown(entry) for entry in entries], [(each.identity, each.name) for each in people]


def test_latin_webhooks_and_the_readable_file_give_the_timeline_of_the_file_in_any_order() -> None:
    expected = asyncio.run(outcome(CDR))
    assert "علی رضایی" in {name for _, name in expected[1]}
    assert asyncio.run(outcome([*WEBHOOKS, *CDR])) == expected
    assert asyncio.run(outcome([*CDR, *WEBHOOKS])) == expected


@settings(max_examples=25, deadline=None)
@given(
    copies=st.lists(st.sampled_from([*CDR, *WEBHOOKS]), max_size=20),
    batch=st.sampled_from([1, 2, 5, 2_000]),
    shuffle=st.randoms(use_true_random=False),
)
def test_copies_in_any_order_number_and_batches_give_the_readable_timeline(
    copies: list[bytes], batch: int, shuffle: random.Random
) -> None:
    bodies = [*CDR, *copies]
    shuffle.shuffle(bodies)
    assert asyncio.run(outcome(bodies, batch)) == asyncio.run(outcome(CDR))


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["con_a", "con_b"]), st.text("ab?!سلامخدا李雷é😀", max_size=4)),
        max_size=8, unique=True,
    ),
    st.randoms(use_true_random=False),
)  # fmt: skip
def test_every_signal_that_cannot_be_a_damaged_copy_of_another_is_shown(
    signals: list[tuple[int, str, str]], shuffle: random.Random
) -> None:
    def body(ms: int, sender: str, data: str) -> bytes:
        fields = {
            "sessionId": "S",
            "timestamp": 1600000000000 + ms,
            "from": sender,
            "to": [],
            "type": "t",
            "data": data,
        }
        return json.dumps({"signalSent": fields}, ensure_ascii=False).encode()

    readable = [(ms, sender, data) for ms, sender, data in signals if "?" not in data]
    bodies = [body(*signal) for signal in readable]
    damaged = [
        body(ms, sender, data.encode("iso-8859-1", "replace").decode("iso-8859-1")) for ms, sender, data in readable
    ]
    session = "src:S_1600000000000"
    expected, _ = asyncio.run(outcome([body(0, "con_x", "first"), *bodies], session=None if not bodies else session))
    mixed = [*bodies, *damaged]
    shuffle.shuffle(mixed)
    found, _ = asyncio.run(outcome([body(0, "con_x", "first"), *mixed], session=None if not bodies else session))
    assert sorted(found) == sorted(expected)


def test_a_pro_servers_copies_that_an_older_version_recorded_twice_are_one_entry() -> None:
    lines = (FIELD / "openvidu-04" / "a-openvidu-server.log").read_text().splitlines()
    events = [
        line[line.index("{") :].encode() for line in lines if '"elastic_type":"cdr"' in line or "LoggerFile" in line
    ]
    expected = asyncio.run(
        outcome([body for body in events if b"elastic_type" not in body], session="src:897_1616601461172")
    )
    assert len(expected[0]) == 6

    for bodies in (events, events[::-1]):
        assert asyncio.run(outcome(bodies, session="src:897_1616601461172", former_keys=True)) == expected


def test_one_room_of_many_names_has_each_person_once() -> None:
    found = asyncio.run(outcome([*OTHER, *OTHER], session="src:kelas-13_1601000000000"))
    assert len(found[0]) == 21
    assert len({name for _, name in found[1]}) == 20


@pytest.mark.parametrize("first", ["webhooks", "file"])
def test_a_readable_join_and_a_damaged_leave_give_the_readable_name(first: str) -> None:
    joins, leaves = CDR[:3], [body for body in WEBHOOKS if b"participantLeft" in body]
    bodies = [*joins, *leaves] if first == "file" else [*leaves, *joins]
    _, people = asyncio.run(outcome(bodies))
    assert ("con_Aaaaaaaaa3", "علی رضایی") in people


def test_copies_are_one_event_after_an_erasure_and_contain_no_hash_of_a_name() -> None:
    def remaining(body: bytes) -> Any:
        verified = SOURCE.verify_trusted(body, received_at=1, proof={})
        record = msgspec.convert(msgspec.structs.asdict(verified) | {"position": 1}, type=Record)
        (fact,) = registry.interpret(record)
        return pseudonymize_everyone(fact, lambda name: f"erased-{hash(name) & 0xFFFF:012x}", room_is_person=False)

    readable, damaged = remaining(CDR[1]), remaining(WEBHOOKS[1])
    assert readable.copy.key == damaged.copy.key
    assert readable.copy.damage < damaged.copy.damage
    assert (readable.copy.text, damaged.copy.text) == (None, None)
    verified = SOURCE.verify_trusted(CDR[0], received_at=1, proof={})
    assert verified.dedupe_key not in msgspec.json.encode(remaining(CDR[0])).decode()

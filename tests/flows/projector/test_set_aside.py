"""A session whose facts cannot be placed, or whose rows cannot be made or stored, is set aside and says why.

Everything else goes on: live, in a rebuild, an erasure and an upgrade. A later reading that can heals it.
"""

from __future__ import annotations

import json
import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.flows.privacy.test_erasure import sealed_config
from tests.support.server import Running, now

VENDOR = '''
"""A vendor whose events Tracker can prove, but not place, fold, render, store or show."""

import hashlib
import json

from tracker.domain.deliveries import Verified
from tracker.domain.facts import ParticipantJoined, RecordingFact, RecordingReady, RunRules, SessionRef, SessionStarted, SignalSent
from tracker.sources.contract import Vendor


class OddSource:
    def __init__(self, settings):
        self.name, self.vendor = settings.name, settings.vendor

    def verify(self, delivery):
        return self._named(delivery.body, delivery.received_at, "webhook", b'{"scheme":"header"}')

    def verify_trusted(self, body, *, received_at, proof):
        return self._named(body, received_at, "import", json.dumps(proof).encode())

    def _named(self, body, received_at, origin, proof):
        return Verified(
            source=self.name, vendor=self.vendor, event="e", dedupe_key=hashlib.sha256(body).hexdigest(),
            received_at=received_at, origin=origin, proof=proof, body=body,
        )


class Unhashable(str):
    __hash__ = None


def interpret(record):
    body = json.loads(record.body)
    at, run = body["at"], body["run"]
    about = {"at": at, "place": SessionRef(at=at, run=run, room=run)}
    joined = ParticipantJoined(**about, connection=body["who"], identity=body["who"])
    how = HOW.get(body["how"], "good")
    if how == "fold":
        return (joined, RecordingFact(**about, recording="r"))
    if how == "render":
        return (joined, RecordingReady(**about, recording="r", size_bytes=2**70))
    if how == "store":
        return (joined, RecordingReady(**about, recording="r", started_at=2**63))
    if how == "show":
        return (joined, SignalSent(**about, detail={"wide": 2**70}))
    if how == "start":
        return (joined, SessionStarted(**about, started_at=2**70))
    places = {
        "time": SessionRef(at=2**63, room=run),
        "name": SessionRef(at=at, run=run, room="\\ud800"),
        "learn": SessionRef(at=at, run=Unhashable(run), room=run),
        "find": SessionRef(at=at, room=run, anchor=Unhashable("r")),
    }
    if how in places:
        return (joined, SignalSent(at=at, place=places[how], clock="receiver"))
    if how == "late":
        return (joined, SignalSent(at=-(2**70), server_run="x"))
    if how == "interpret":
        raise KeyError("nothing can be read")
    return (joined,)


HOW = {how: how for how in ("fold", "render", "store", "show", "start", "time", "name", "learn", "find", "late", "interpret")}
VENDOR = Vendor(
    name="odd", title="Odd", build=OddSource, interpret=interpret, rules=RunRules(), needs="secrets", first_steps="",
)
'''

AT_START = """
import os

from tracker.projector import rebuild
from tracker.sources import registry

registry.load("odd_vendor")
if "IN_PARTS" in os.environ:
    rebuild.MIN_PART_RECORDS, rebuild.HEAD_START_RECORDS = 1, 0
"""
"""Python runs `sitecustomize` at the start of every process: of the server, of its projector and of commands."""

SET_ASIDE = "SELECT id, anomalies FROM sessions JOIN set_aside ON session = number ORDER BY id"
SOURCE = '\n[[sources]]\nname = "odd"\nvendor = "odd"\nsecret = "a-secret-of-at-least-thirty-two-bytes"\n'
REASONS = {
    "fold": r"this record cannot be folded into it \(KeyError in _recording\)",
    "render": r"its rows cannot be made \(OverflowError in render\)",
    "store": r"the views cannot store its rows \(OverflowError in \w+\)",
    "start": r"its rows cannot be made \(ValueError in _asked\)",
    "time": r"this record cannot be folded into it \(a time of its session is none\)",
    "name": r"this record cannot be folded into it \(a name of its session is no text\)",
    "learn": r"this record cannot be folded into it \(its room cannot learn it, TypeError in \w+\)",
    "find": r"this record cannot be folded into it \(its run cannot be found, TypeError in \w+\)",
}
SESSIONS = {how: f"odd:run-{how}" + ("_000000000000" if how in {"time", "find"} else "") for how in REASONS}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Running:
    (tmp_path / "odd_vendor.py").write_text(VENDOR)
    (tmp_path / "sitecustomize.py").write_text(AT_START)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    config = sealed_config(tmp_path) + SOURCE
    return Running(tmp_path, config=config)


async def post(server: Running, web: aiohttp.ClientSession, how: str, n: int = 0) -> int:
    body: dict[str, Any] = {"how": how, "run": f"run-{how}", "who": f"person-{how}-{n}", "at": now() + n}
    async with web.post(f"{server.url}/hooks/odd", json=body) as answer:
        assert answer.status == 200
        return int((await answer.json())["position"])


async def test_a_session_that_cannot_be_projected_is_set_aside_and_all_others_continue(
    server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In a process of its own, which knows the odd vendor.
    assert (await server.run("init"))[0] == 0
    await server.start()
    try:
        async with aiohttp.ClientSession() as web:
            at = {how: await post(server, web, how) for how in ("good", *REASONS, "show", "late", "interpret")}
            last = str(at["interpret"])
            for how, reason in REASONS.items():
                session = await server.get(web, f"/v1/sessions/{SESSIONS[how]}", at_least=last)
                (anomaly,) = session["anomalies"]
                assert (anomaly["kind"], anomaly["position"]) == ("set_aside", at[how])
                assert re.fullmatch(reason, anomaly["detail"]), anomaly
                status, page = await server.text(web, f"/sessions/{SESSIONS[how]}")
                assert status == 200
                assert anomaly["detail"] in page
            timeline = await server.get(web, "/v1/sessions/odd:run-show/timeline")
            assert "cannot store this event" in json.dumps(timeline["items"])
            await server.until(web, "/metrics", f"tracker_sessions_set_aside {len(REASONS)}.0")
            # Later events of good and bad sessions are recorded and projected.
            for how in (*REASONS, "show", "store", "good"):
                last = str(await post(server, web, how, 1))
            good = await server.get(web, "/v1/sessions/odd:run-good", at_least=last)
            assert (good["participants"], good["anomalies"][0]["kind"]) == (2, "missing_start")
            assert (await server.get(web, "/v1/sessions/odd:run-show"))["participants"] == 2
            assert (await server.get(web, "/v1/sessions/odd:run-store"))["anomalies"][0]["position"] == int(last) - 1
        code, out, stderr = await server.run("rebuild", "--check")
        assert (code, out) == (0, f"the views match the log up to position {last}\n"), out
        monkeypatch.setenv("IN_PARTS", "1")
        code, out, stderr = await server.run("rebuild", "--check")
        assert (code, out) == (0, f"the views match the log up to position {last}\n"), out
        code, out, _ = await server.run("rebuild", "--json")
        set_aside = {each["session"]: each for each in json.loads(out)["set_aside"]}
        assert (code, sorted(set_aside)) == (0, sorted(SESSIONS.values()))
        code, out, _ = await server.run("rebuild")
        assert code == 0
        assert re.search(r"odd:run-fold is set aside: record 2: this record cannot be folded", out)
        code, out, stderr = await server.run("erase", "--identity", "person-fold-0", "--yes")
        assert code == 0, stderr
        async with aiohttp.ClientSession() as web:
            good = await server.get(web, "/v1/sessions/odd:run-good", at_least=last)
            assert good["participants"] == 2
    finally:
        assert await server.stop() == 0

    with closing(sqlite3.connect(tmp_path / "views.db")) as views:
        before = views.execute(SET_ASIDE).fetchall()
        views.execute("UPDATE meta SET value = 'of an earlier version' WHERE key = 'stamp'")
        views.commit()
    await server.start()
    async with aiohttp.ClientSession() as web:
        await server.get(web, "/v1/sessions/odd:run-good", at_least=last)
        assert await server.stop() == 0
    with closing(sqlite3.connect(tmp_path / "views.db")) as views:
        assert views.execute(SET_ASIDE).fetchall() == before

    (tmp_path / "odd_vendor.py").write_text(VENDOR.replace("HOW = {how: how for", "HOW = {} and {how: how for"))
    code, out, _ = await server.run("rebuild", "--json")
    assert (code, json.loads(out)["set_aside"]) == (0, [])
    code, out, _ = await server.run("sessions", "--json")
    assert "set_aside" not in out
    assert {each["participants"] for each in json.loads(out)["items"]} == {1, 2}

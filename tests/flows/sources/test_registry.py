"""A vendor can be added with the registry alone: its deliveries become sessions on pages and in the API."""

from __future__ import annotations

import sys
from pathlib import Path

import aiohttp
import pytest

from tests.support.server import READ_KEY, Running, now

VENDOR = '''
"""A vendor of another package: one header proves, one event starts a room, one ends it."""

import hashlib
import json

from tracker.domain.deliveries import Verified
from tracker.domain.facts import RunRules, SessionEnded, SessionRef, SessionStarted
from tracker.errors import SignatureMismatch
from tracker.sources.contract import Vendor


class SixthSource:
    rejected_status = 401

    def __init__(self, settings):
        self.name, self.vendor, self._secrets = settings.name, settings.vendor, settings.secrets

    def verify(self, delivery):
        if delivery.headers.get("x-sixth") not in self._secrets:
            raise SignatureMismatch("the header X-Sixth does not hold a secret of this source")
        return self._named(delivery.body, delivery.received_at, "webhook", b'{"scheme":"header"}')

    def verify_trusted(self, body, *, received_at, proof):
        return self._named(body, received_at, "import", json.dumps(proof).encode())

    def _named(self, body, received_at, origin, proof):
        key = hashlib.sha256(body).hexdigest()
        return Verified(
            source=self.name, vendor=self.vendor, event=json.loads(body)["what"], dedupe_key=key,
            received_at=received_at, origin=origin, proof=proof, body=body,
        )


def interpret(record):
    body = json.loads(record.body)
    at = body["at"] * 1000
    place = SessionRef(at=at, run=body["id"], room=body["room"], room_name=body["room"])
    kind = SessionStarted if body["what"] == "started" else SessionEnded
    return (kind(at=at, clock="server", precision="ms", place=place),)


VENDOR = Vendor(
    name="sixth", title="The Sixth", build=SixthSource, interpret=interpret, rules=RunRules(), needs="secrets",
    first_steps="Turn the sixth dial.",
)
'''

AT_START = """
from tracker.sources import registry

registry.load("sixth_vendor")
"""
"""Python runs `sitecustomize` at the start of every process: of the server, of its projector and of commands."""

CONFIG = """
[server]
port = 0
[log]
path = "log.db"
[views]
path = "views.db"
[access]
keys = [{{ id = "demo", secret = "{key}" }}]
[[sources]]
name = "six"
vendor = "sixth"
secret = "dial"
[[sources]]
name = "silent"
vendor = "sixth"
secret = "dial"
"""


async def test_a_vendor_added_by_the_registry_alone_has_its_sessions_on_the_page_and_in_the_api(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sixth_vendor.py").write_text(VENDOR)
    (tmp_path / "sitecustomize.py").write_text(AT_START)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    server = Running(tmp_path, config=CONFIG.format(key=READ_KEY))
    # The vendor is known to processes that start from here on, not to this one.
    assert (await server.run("init"))[0] == 0
    await server.start()
    try:
        async with aiohttp.ClientSession() as web:
            body = {"what": "started", "id": "run-1", "room": "green-room", "at": now() // 1000}
            async with web.post(f"{server.url}/hooks/six", json=body, headers={"X-Sixth": "guess"}) as answer:
                assert answer.status == 401
            async with web.post(f"{server.url}/hooks/six", json=body, headers={"X-Sixth": "dial"}) as answer:
                assert (answer.status, (await answer.json())["position"]) == (200, 1)
            (session,) = (await server.get(web, "/v1/sessions", at_least="1"))["items"]
            assert (session["id"], session["source"], session["vendor"]) == ("six:run-1", "six", "sixth")
            assert (session["room"]["name"], session["state"]) == ("green-room", "open")
            status, page = await server.text(web, "/")
            assert status == 200
            assert "green-room" in page
            status, page = await server.text(web, "/sources")
            assert status == 200
            assert "Turn the sixth dial." in page
    finally:
        assert await server.stop() == 0


async def test_without_the_registry_the_vendor_is_unknown(tmp_path: Path) -> None:
    server = Running(tmp_path, config=CONFIG.format(key=READ_KEY))
    code, _, stderr = await server.run("init")
    assert code == 2
    assert "sources[0].vendor: 'sixth' is unknown; known are" in stderr

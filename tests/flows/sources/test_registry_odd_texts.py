"""Odd texts that stores may not accept: every delivery with one is recorded and projected."""

from __future__ import annotations

import json
from pathlib import Path

import aiohttp

from tests.support.server import Running
from tracker.demo.calls import SampleDelivery


def events(n: int, room: str, name: str) -> list[SampleDelivery]:
    described = {"sid": room, "name": name}
    joined = {"participant": {"sid": f"PA_{n}", "identity": name}}
    bodies = [
        {"event": "room_started", "id": f"EV_{n}", "createdAt": "1700000000", "room": described},
        {"event": "participant_joined", "id": f"EP_{n}", "createdAt": "1700000001", "room": described} | joined,
        {"event": "room_finished", "id": f"EF_{n}", "createdAt": "1700000009", "room": described},
    ]
    return [SampleDelivery(event=str(body["event"]), body=json.dumps(body).encode(), at=0) for body in bodies]


ODD = ("\0", "a\0b", "\ud800", "\x7f", "\u2028", "\ufffe", "\U0010ffff", "'", '"', "%", "a" * 5000)


async def test_rooms_with_odd_names_are_projected_and_equal_a_rebuild(tmp_path: Path) -> None:
    running = await Running(tmp_path).start(init=True)
    async with aiohttp.ClientSession() as web:
        for n, odd in enumerate(ODD):
            for sent in events(n, f"RM_{n}_{odd}", odd):  # one by one, so that each pass reads the saved state
                status, answer = await running.post(web, "livekit", sent)
                assert status == 200
                found = await running.get(web, "/v1/sessions", at_least=str(answer["position"]))
            assert len(found["items"]) == n + 1, repr(odd)
    assert await running.stop() == 0
    code, out, stderr = await running.run("rebuild", "--check")
    assert code == 0, out + stderr

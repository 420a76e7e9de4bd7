"""A sample call of Jitsi's event_sync: times in seconds, no ids of events or runs; the last event lists everybody."""

from __future__ import annotations

import json

from tracker.domain.facts import Micros
from tracker.sources.sample_calls import CallScript, Json, SignedRequest


def play(script: CallScript) -> None:
    """Write every delivery of one call."""
    name = script.reusable("daily")
    room: Json = {"room_name": name, "room_jid": f"{name}@conference.meet.example.org", "is_breakout": False}

    def second(seconds: float) -> int:
        return script.at(seconds) // 1_000_000

    def send(seconds: float, event: str, **more: object) -> None:
        script.send(seconds, event, {"event_name": event} | room | more)

    def occupant(name: str, joined: float) -> Json:
        return {
            "occupant_jid": f"{script.uuid()}@meet.example.org/{script.id(8)}", "id": f"user-{name.lower()}", "name": name,
            "email": f"{name.lower()}@example.org", "joined_at": second(joined),
        }  # fmt: skip

    alice, bob = occupant("Alice", 2), occupant("Bob", 20)
    recorder: Json = {"occupant_jid": f"recorder@recorder.meet.example.org/{script.id(8)}", "joined_at": second(30)}
    send(0, "muc-room-created", created_at=second(0))
    send(2, "muc-occupant-joined", occupant=alice, active_occupants_count=1)
    send(20, "muc-occupant-joined", occupant=bob, active_occupants_count=2)
    send(30, "muc-occupant-joined", occupant=recorder, active_occupants_count=3)
    gone = [
        (90, recorder | {"left_at": second(90)}),
        (120, bob | {"left_at": second(120), "total_dominant_speaker_time": 21_500}),
        (150, alice | {"left_at": second(150), "total_dominant_speaker_time": 64_000}),
    ]
    for left, (seconds, person) in enumerate(gone):
        send(seconds, "muc-occupant-left", occupant=person, active_occupants_count=2 - left)
    everybody = [person for _, person in gone]
    send(160, "muc-room-destroyed", created_at=second(0), destroyed_at=second(160), all_occupants=everybody)


def sign(body: bytes, secret: str, _now: Micros, _issuer: str) -> SignedRequest:
    """The fixed header, and the address that event_sync appends for this event."""
    _, subject, what = json.loads(body)["event_name"].split("-")
    return {"Content-Type": "application/json", "Authorization": secret}, f"/events/{subject}/{what}", {}

"""A sample call of JaaS: every event has an id and the run; the recording is named only by its upload."""

from __future__ import annotations

import base64
import hashlib
import hmac

from tracker.domain.facts import Micros
from tracker.sources.sample_calls import CallScript, Json, SignedRequest


def play(script: CallScript) -> None:
    """Write every delivery of one call."""
    app = "vpaas-magic-cookie-4f9c2d7e"
    room = script.reusable("lesson")
    session = script.uuid()
    conference = {"conference": f"{room}@conference.{app}.8x8.vc", "isBreakout": False}

    def send(seconds: float, event: str, data: Json) -> None:
        body: Json = {
            "idempotencyKey": script.uuid(), "customerId": "4f9c2d7e", "appId": app, "eventType": event,
            "sessionId": session, "timestamp": script.ms(seconds), "fqn": f"{app}/{room}", "data": data,
        }  # fmt: skip
        script.send(seconds, event, body)

    def person(name: str, *, moderator: bool) -> Json:
        jid = script.uuid()
        return conference | {
            "id": f"user-{name.lower()}", "name": name, "email": f"{name.lower()}@example.org", "group": "class-7",
            "moderator": moderator, "participantJid": f"{jid}@{app}.8x8.vc", "participantId": jid[:8],
            "avatar": f"https://example.org/avatars/{name.lower()}.png",
        }  # fmt: skip

    alice, bob = person("Alice", moderator=True), person("Bob", moderator=False)
    send(0, "ROOM_CREATED", conference)
    send(2, "PARTICIPANT_JOINED", alice)
    send(20, "PARTICIPANT_JOINED", bob)
    send(30, "RECORDING_STARTED", conference)
    send(90, "RECORDING_ENDED", conference)
    send(120, "PARTICIPANT_LEFT", bob | {"moderator": "false", "disconnectReason": "left"})
    send(150, "PARTICIPANT_LEFT", alice | {"moderator": "true", "disconnectReason": "left"})
    send(160, "ROOM_DESTROYED", conference)
    uploaded: Json = {
        "recordingSessionId": script.id(16), "initiatorId": "user-alice", "share": True,
        "startTimestamp": script.ms(30), "endTimestamp": script.ms(90),
        "durationSec": (script.ms(90) - script.ms(30)) // 1000,
        "preAuthenticatedLink": f"https://recordings.example.org/{script.id(20)}?signature={script.id(40)}",
        "participants": [{"id": "user-alice", "name": "Alice"}, {"id": "user-bob", "name": "Bob"}],
    }  # fmt: skip
    send(165, "RECORDING_UPLOADED", uploaded)


def sign(body: bytes, secret: str, now: Micros, _issuer: str) -> SignedRequest:
    """The HMAC of time and body."""
    stamp = str(now // 1_000_000)
    digest = hmac.new(secret.encode(), stamp.encode() + b"." + body, hashlib.sha256).digest()
    signature = base64.b64encode(digest).decode()
    return {"Content-Type": "application/json", "X-Jaas-Signature": f"t={stamp},v1={signature}"}, "", {}

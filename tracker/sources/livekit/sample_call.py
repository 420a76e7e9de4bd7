"""A sample call of LiveKit 1.13: camelCase protojson without zero values, in seconds, milliseconds and nanoseconds."""

from __future__ import annotations

from typing import Any

from tracker.domain.facts import Micros
from tracker.sources.sample_calls import CallScript, Json, SignedRequest
from tracker.sources.webhook_jwt import sign_jwt


def play(script: CallScript) -> None:
    """Write every delivery of one call."""
    minimal: Json = {"sid": f"RM_{script.id(12)}", "name": script.reusable("daily-standup")}
    room = minimal | {
        "emptyTimeout": 300, "departureTimeout": 20, "creationTime": script.s(0), "creationTimeMs": str(script.ms(0)),
        "turnPassword": script.id(43), "enabledCodecs": [{"mime": "audio/opus"}, {"mime": "video/VP8"}],
    }  # fmt: skip
    alice, bob = f"PA_{script.id(12)}", f"PA_{script.id(12)}"
    egress_id = f"EG_{script.id(12)}"

    def send(seconds: float, event: str, fields: Json) -> None:
        tail = {"id": f"EV_{script.id(12)}", "createdAt": script.s(seconds)}
        script.send(seconds, event, {"event": event} | fields | tail)

    def person(sid: str, name: str, joined: float, reason: str | None = None) -> Json:
        fields: Json = {
            "sid": sid, "identity": f"user-{name.lower()}", "state": "DISCONNECTED" if reason else "ACTIVE",
            "joinedAt": script.s(joined), "joinedAtMs": str(script.ms(joined)), "name": name, "version": 3,
            "permission": {"canSubscribe": True, "canPublish": True, "canPublishData": True}, "isPublisher": True,
        }  # fmt: skip
        return {"room": room, "participant": fields | ({"disconnectReason": reason} if reason else {})}

    camera: Json = {
        "sid": f"TR_VC{script.id(12)}", "type": "VIDEO", "width": 1280, "height": 720, "simulcast": True,
        "source": "CAMERA", "mimeType": "video/VP8", "mid": "2", "stream": "camera",
        "version": {"unixMicro": str(script.at(4))},
    }  # fmt: skip
    micro: Json = {
        "sid": f"TR_AM{script.id(12)}", "source": "MICROPHONE", "mimeType": "audio/red", "mid": "1",
        "stream": "camera", "version": {"unixMicro": str(script.at(22))},
    }  # fmt: skip

    def track(sid: str, name: str, media: Json) -> Json:
        return {"room": minimal, "participant": {"sid": sid, "identity": f"user-{name}"}, "track": media}

    def egress(seconds: float, **more: Any) -> Json:
        head: Json = {"egressId": egress_id, "roomId": minimal["sid"], "roomName": minimal["name"]}
        request = {"roomComposite": {"roomName": minimal["name"], "layout": "grid"}}
        return {"egressInfo": head | more | {"updatedAt": script.ns(seconds)} | request}

    begun = script.ns(31)
    lasted = str(int(script.ns(90)) - int(begun))
    file = {"filename": "rec/daily-standup.mp4", "startedAt": begun, "endedAt": script.ns(90), "duration": lasted}
    file |= {"size": "28311552", "location": "https://recordings.example.org/rec/daily-standup.mp4"}
    done = {
        "startedAt": begun,
        "endedAt": script.ns(90),
        "fileResults": [file],
        "details": "End reason: StopEgress API",
    }
    send(0, "room_started", {"room": room})
    send(2.5, "participant_joined", person(alice, "Alice", 2))
    send(4.2, "track_published", track(alice, "alice", camera))
    send(20.5, "participant_joined", person(bob, "Bob", 20))
    send(22.2, "track_published", track(bob, "bob", micro))
    send(30, "egress_started", egress(30))
    send(31.2, "egress_updated", egress(31.1, status="EGRESS_ACTIVE", startedAt=begun))
    send(90, "egress_updated", egress(90, status="EGRESS_ENDING", startedAt=begun))
    send(94, "egress_ended", egress(94, status="EGRESS_COMPLETE", **done))
    send(120, "track_unpublished", track(bob, "bob", micro))
    send(120.1, "participant_left", person(bob, "Bob", 20, "CLIENT_INITIATED"))
    send(150, "track_unpublished", track(alice, "alice", camera))
    send(150.1, "participant_left", person(alice, "Alice", 2, "CLIENT_INITIATED"))
    send(160, "room_finished", {"room": room})


def sign(body: bytes, secret: str, now: Micros, issuer: str) -> SignedRequest:
    """A token that names the body, signed with the API secret."""
    token = sign_jwt(issuer, secret, body=body, now=now)
    return {"Content-Type": "application/webhook+json", "Authorization": token}, "", {}

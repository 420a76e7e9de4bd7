"""A sample call of BigBlueButton: forms of bbb-webhooks 3.4, and the analytics callback after the meeting."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from urllib.parse import urlencode

from tracker.domain.facts import Micros
from tracker.sources.sample_calls import CallScript, Json, SampleDelivery, SignedRequest

HOOK_URL = "https://tracker.example/hooks/bbb"
"""The address that the sample's checksums cover."""


def play(script: CallScript) -> None:
    """Write every delivery of one call."""
    room = script.reusable("algebra")
    run = f"{hashlib.sha1(room.encode() + script.id(8).encode(), usedforsecurity=False).hexdigest()}-{script.ms(0)}"
    meeting: Json = {"internal-meeting-id": run, "external-meeting-id": room}

    def send(seconds: float, event: str, attributes: Json, *, in_seconds: bool = False) -> None:
        ts = script.ms(seconds) // 1000 if in_seconds else script.ms(seconds)
        element: Json = {
            "data": {"type": "event", "id": event, "attributes": {"meeting": meeting} | attributes, "event": {"ts": ts}}
        }
        text = json.dumps([element], ensure_ascii=False, separators=(",", ":"))
        form = {"domain": "bbb.example.org", "event": text, "timestamp": str(script.ms(seconds))}
        script.deliveries.append(SampleDelivery(event, urlencode(form).encode(), script.at(seconds)))

    def person(name: str) -> Json:
        user = {"internal-user-id": f"w_{script.id(12).lower()}", "external-user-id": f"user-{name.lower()}"}
        return user | {"name": name, "role": "VIEWER", "presenter": False, "guest": False, "userdata": {}}

    def brief(user: Json) -> Json:
        return {name: user[name] for name in ("internal-user-id", "external-user-id")}

    alice, bob = person("Alice") | {"role": "MODERATOR", "presenter": True}, person("Bob")
    camera = f"{alice['internal-user-id']}_{script.id(8).lower()}"
    created = meeting | {
        "name": "Algebra", "is-breakout": False, "parent-id": "bbb-none", "duration": 0, "create-time": script.ms(0),
        "create-date": script.iso(0), "moderator-pass": script.id(8), "viewer-pass": script.id(8), "record": True,
        "voice-conf": "70001", "dial-number": "", "max-users": 0, "metadata": {"course": "7"},
    }  # fmt: skip
    send(0, "meeting-created", {"meeting": created})
    send(2, "user-joined", {"user": alice})
    send(4, "user-cam-broadcast-start", {"user": brief(alice) | {"stream": camera}})
    send(
        5,
        "user-audio-voice-enabled",
        {"user": brief(alice) | {"listening-only": False, "sharing-mic": True, "muted": False}},
    )
    send(20, "user-joined", {"user": bob})
    send(30, "meeting-recording-started", {})
    send(90, "meeting-recording-stopped", {})
    send(120, "user-left", {"user": brief(bob) | {"guest": False}})
    off = {"listening-only": False, "sharing-mic": False, "muted": True}
    send(149, "user-audio-voice-disabled", {"user": brief(alice) | off})
    send(149.5, "user-cam-broadcast-end", {"user": brief(alice) | {"stream": camera}})
    send(150, "user-left", {"user": brief(alice) | {"guest": False}})
    send(160, "meeting-ended", {})
    attendee: Json = {"chats": 0, "talks": 3, "raisehand": 0, "emojis": 1, "poll_votes": 0, "talk_time": 41}
    analytics: Json = {
        "version": "1.0", "meeting_id": room, "internal_meeting_id": run,
        "data": {
            "metadata": {"course": "7"}, "duration": (script.ms(160) - script.ms(0)) // 1000, "start": script.iso(0), "finish": script.iso(160),
            "attendees": [
                {
                    "ext_user_id": who["external-user-id"], "name": who["name"], "moderator": who is alice, "joins": [script.iso(since)],
                    "leaves": [script.iso(until)], "duration": (script.ms(until) - script.ms(since)) // 1000,
                    "recent_talking_time": script.iso(100), "engagement": attendee,
                }
                for who, since, until in ((alice, 2, 150), (bob, 20, 120))
            ],
            "files": [], "polls": [],
        },
    }  # fmt: skip
    script.send(162, "analytics-callback", analytics)
    published: Json = {
        "record-id": run, "success": True, "step-time": 8_123, "workflow": "video",
        "recording": {
            "name": "Algebra", "is-breakout": "false", "start-time": str(script.ms(30)), "end-time": str(script.ms(90)), "size": "5120000",
            "metadata": {}, "playback": {"format": "video", "link": f"https://bbb.example.org/playback/video/{run}/"},
        },
    }  # fmt: skip
    send(165, "rap-publish-ended", published, in_seconds=True)


def sign(body: bytes, secret: str, now: Micros, _issuer: str) -> SignedRequest:
    """The checksum of address and body; of the analytics, the token of the script that sends them."""
    if not body.startswith(b"{"):
        checksum = hashlib.sha256(HOOK_URL.encode() + body + secret.encode()).hexdigest()
        return {"Content-Type": "application/x-www-form-urlencoded;charset=UTF-8"}, f"?checksum={checksum}", {}
    parts: list[Json] = [{"alg": "HS512", "typ": "JWT"}, {"exp": now // 1_000_000 + 86_400}]
    signed = b".".join(_base64url(json.dumps(part, separators=(",", ":")).encode()) for part in parts)
    token = signed + b"." + _base64url(hmac.digest(secret.encode(), signed, "sha512"))
    return {"Content-Type": "application/json", "Authorization": f"Bearer {token.decode()}"}, "", {}


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")

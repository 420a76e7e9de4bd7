"""A sample call of a declared source: Zoom's events, as `shipped/zoom.toml` reads them."""

from __future__ import annotations

import base64
import hashlib
import hmac

from tracker.domain.facts import Micros
from tracker.sources.sample_calls import CallScript, Json, SignedRequest

DECLARATION = "zoom"


def play(script: CallScript) -> None:
    """Write every delivery of one call."""
    number = 85_700_000_001 + script.seed
    uuid = base64.b64encode(script.uuid().replace("-", "").encode()[:16]).decode()
    meeting: Json = {
        "id": str(number), "uuid": uuid, "host_id": "host-1", "topic": script.reusable("weekly"), "type": 2,
        "timezone": "UTC", "start_time": script.iso(0),
    }  # fmt: skip

    def send(seconds: float, event: str, **more: object) -> None:
        body: Json = {
            "event": event, "event_ts": script.ms(seconds), "payload": {"account_id": "acc-1", "object": meeting | more}
        }  # fmt: skip
        script.send(seconds, event, body)

    def person(name: str, number: int) -> Json:
        return {
            "user_id": str(16_778_240 + number), "participant_uuid": script.uuid(), "id": f"user-{name.lower()}",
            "user_name": name, "email": f"{name.lower()}@example.org",
        }  # fmt: skip

    alice, bob = person("Alice", 1), person("Bob", 2)
    send(0, "meeting.started")
    send(2, "meeting.participant_joined", participant=alice | {"join_time": script.iso(2)})
    send(20, "meeting.participant_joined", participant=bob | {"join_time": script.iso(20)})
    send(30, "recording.started", recording_file={"recording_start": script.iso(30), "recording_end": ""})
    stopped = {"recording_start": script.iso(30), "recording_end": script.iso(90)}
    send(90, "recording.stopped", recording_file=stopped)
    send(
        120,
        "meeting.participant_left",
        participant=bob | {"leave_time": script.iso(120), "leave_reason": "left the meeting"},
    )
    send(
        150,
        "meeting.participant_left",
        participant=alice | {"leave_time": script.iso(150), "leave_reason": "left the meeting"},
    )
    send(160, "meeting.ended", end_time=script.iso(160))
    send(165, "recording.completed", total_size=3_400_000, share_url=f"https://zoom.example/rec/share/{script.id(24)}")


def sign(body: bytes, secret: str, now: Micros, _issuer: str) -> SignedRequest:
    """The HMAC of version, time and body."""
    stamp = str(now // 1_000_000)
    digest = hmac.new(secret.encode(), f"v0:{stamp}:".encode() + body, hashlib.sha256).hexdigest()
    headers = {"Content-Type": "application/json", "x-zm-request-timestamp": stamp, "x-zm-signature": f"v0={digest}"}
    return headers, "", {}

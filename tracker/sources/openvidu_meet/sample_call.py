"""A sample call of OpenVidu Meet 3.9: an envelope without ids; recording dates and durations are floats."""

from __future__ import annotations

import hashlib
import hmac

from tracker.domain.facts import Micros
from tracker.sources.sample_calls import CallScript, Json, SignedRequest


def play(script: CallScript) -> None:
    """Write every delivery of one call."""
    room: Json = {"roomId": f"team-sync-{script.id(15).lower()}", "roomName": "Team sync"}
    recording_id = f"{room['roomId']}--EG_{script.id(12)}--{script.id(8)}"
    url = f"https://meet.example.org/room/{room['roomId']}"

    def send(seconds: float, event: str, data: Json) -> None:
        script.send(seconds, event, {"event": event, "creationDate": script.ms(seconds), "data": room | data})

    def meeting(status: str) -> Json:
        rights = {"recordingControl": True, "meetingJoin": True, "mediaPublishVideo": True, "chatWrite": True}
        access_link = {"enabled": True, "url": f"{url}?secret={script.random.getrandbits(40):x}"}
        return {
            "owner": "admin", "creationDate": script.ms(-86_400), "status": status, "meetingEndAction": "none",
            "config": {"chat": {"enabled": True}, "recording": {"enabled": True, "layout": "grid"}},
            "roles": {"moderator": {"permissions": rights}, "speaker": {"permissions": rights}},
            "access": {"anonymous": {"moderator": access_link, "speaker": access_link}, "user": {"enabled": False, "url": url}},
            "rolesUpdatedAt": script.ms(-86_400),
        }  # fmt: skip

    def person(name: str, role: str, joined: float, left: float | None = None) -> Json:
        fields: Json = {
            "participantIdentity": f"{name.lower()}-{hashlib.sha256(name.encode()).hexdigest()[:6]}",
            "participantName": name, "externalId": f"user-{name.lower()}", "role": role, "joinDate": script.ms(joined),
        }  # fmt: skip
        if left is not None:
            lasted = round((script.ms(left) - script.ms(joined)) / 1000)
            fields |= {"leaveDate": script.ms(left), "durationSeconds": lasted, "leaveReason": "voluntary_leave"}
        return {"participant": fields}

    def recording(status: str, **more: float | str) -> Json:
        head: Json = {"recordingId": recording_id, "layout": "grid", "encoding": "H264_720P_30", "status": status}
        return head | {"filename": f"{recording_id}.mp4"} | more

    begun, ended = script.ms(31) + 0.1235, script.ms(90) + 0.4568
    send(0, "meetingStarted", meeting("active_meeting"))
    send(2.2, "participantJoined", person("Alice", "moderator", 2))
    send(20.2, "participantJoined", person("Bob", "speaker", 20))
    send(30, "recordingStarted", recording("starting"))
    send(31.2, "recordingUpdated", recording("active", startDate=begun))
    send(90, "recordingUpdated", recording("ending", startDate=begun))
    send(120.2, "participantLeft", person("Bob", "speaker", 20, 120))
    send(150.2, "participantLeft", person("Alice", "moderator", 2, 150))
    send(160, "meetingEnded", meeting("open"))
    done: Json = {"startDate": begun, "endDate": ended, "duration": (ended - begun) * 0.001, "size": 7_340_032}
    send(164, "recordingEnded", recording("complete", **done, details="End reason: StopEgress API"))


def sign(body: bytes, secret: str, now: Micros, _issuer: str) -> SignedRequest:
    """The HMAC of time and body, keyed with the API key."""
    stamp = str(now // 1000)
    signature = hmac.new(secret.encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return {"Content-Type": "application/json", "X-Timestamp": stamp, "X-Signature": signature}, "", {}

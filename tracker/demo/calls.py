"""Whole calls of the five vendors, as their servers would send them, and the proof each of them attaches.

`whole_call(vendor, start, seed=, pace=)` is deterministic; the bodies have the shape of OpenVidu 2.32, OpenVidu Meet
3.9, LiveKit 1.13, plugNmeet 2.4 and StreamRec (with the messages an application relays). Every call tells one story:

    0 s created · 2 s Alice joins · 4 s she publishes · 20 s Bob joins · 30–90 s recording · 120 s Bob leaves
    150 s Alice leaves · 160 s over · later: the recording is ready

Seconds are multiplied by `pace`, so that a demo can live through a call in moments and still tell the truth about time.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import random
import uuid
import warnings
from collections.abc import Callable
from typing import Any, final

import jwt
import msgspec

from tracker.domain.facts import Micros


VENDORS = ("openvidu", "openvidu_meet", "livekit", "plugnmeet", "streamrec")
ISSUERS = {"livekit": "APIdemo", "plugnmeet": "plugnmeet"}
"""The `iss` that `sign` puts into its tokens unless told otherwise."""

CALL_SECONDS = 166
"""From the first event to the last, at pace 1."""

Json = dict[str, Any]


class SampleDelivery(msgspec.Struct, frozen=True):
    """One delivery of a call: its event, the exact body, when it is sent (µs), and the query of its hook address."""

    event: str
    body: bytes
    at: Micros
    query: dict[str, str] = {}


@final
class CallScript:
    """The clock, the ids and the deliveries of one call while it is being told."""

    def __init__(self, vendor: str, start: Micros, seed: int, pace: float) -> None:
        self.start = start - start % 1000
        self.pace = pace
        self.seed = seed
        self.random = random.Random(f"{vendor}:{start}:{seed}")  # noqa: S311 - ids of a demo, not secrets
        self.sent: list[SampleDelivery] = []

    def at(self, seconds: float) -> Micros:
        """That second of the story, in whole milliseconds (µs)."""
        return self.start + round(seconds * self.pace * 1000) * 1000

    def ms(self, seconds: float) -> int:
        """The same in ms."""
        return self.at(seconds) // 1000

    def s(self, seconds: float) -> str:
        """The same in whole seconds, as protojson writes 64-bit integers."""
        return str(self.at(seconds) // 1_000_000)

    def ns(self, seconds: float) -> str:
        """The same in ns, as protojson writes 64-bit integers."""
        return str(self.at(seconds) * 1000)

    def iso(self, seconds: float) -> str:
        """The same in ISO 8601 with milliseconds and Z."""
        moment = dt.datetime.fromtimestamp(self.ms(seconds) / 1000, dt.UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{self.ms(seconds) % 1000:03d}Z"

    def name(self, length: int) -> str:
        """A random id of letters and digits."""
        return "".join(self.random.choices("ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz23456789", k=length))

    def numbered(self, name: str) -> str:
        """A reusable name: calls of one seed meet in the same room, those of another in another."""
        return f"{name}-{self.seed + 1}" if self.seed else name

    def uuid(self) -> str:
        """A random UUIDv4."""
        return str(uuid.UUID(int=self.random.getrandbits(128), version=4))

    def send(self, seconds: float, event: str, body: Json, **query: str) -> None:
        """One more delivery, in the compact JSON all five senders write."""
        self.sent.append(SampleDelivery(event, msgspec.json.encode(body), self.at(seconds), query))


def whole_call(vendor: str, start: Micros, *, seed: int = 0, pace: float = 1.0) -> list[SampleDelivery]:
    """Every delivery of one call in causal order; the same arguments give the same bytes.

    `vendor` is one of `VENDORS`; `start` in µs is when the room is created. Raises KeyError for another vendor.
    """
    tell: dict[str, Callable[[CallScript], None]] = {
        "openvidu": _openvidu,
        "openvidu_meet": _openvidu_meet,
        "livekit": _livekit,
        "plugnmeet": _plugnmeet,
        "streamrec": _streamrec,
    }
    story = CallScript(vendor, start, seed, pace)
    tell[vendor](story)
    return story.sent


def sign(
    vendor: str, body: bytes, secret: str, now: Micros, *, issuer: str | None = None
) -> tuple[dict[str, str], str, dict[str, str]]:
    """What the vendor's server would attach: (headers, path suffix after /hooks/{source}, query).

    `secret` is the fixed header value (openvidu), the API key (openvidu_meet), the API secret (livekit, plugnmeet) or
    the token of the address (streamrec). `now` in µs goes into what is signed. Raises KeyError for another vendor.
    """
    headers = {"Content-Type": "application/json"}
    if vendor == "openvidu":
        return {**headers, "Authorization": secret}, "", {}
    if vendor == "openvidu_meet":
        stamp = str(now // 1000)
        signature = hmac.new(secret.encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
        return {**headers, "X-Timestamp": stamp, "X-Signature": signature}, "", {}
    if vendor == "streamrec":
        return headers, f"/{secret}", {}
    seconds = now // 1_000_000
    claims = {
        "iss": issuer or ISSUERS[vendor],
        "nbf": seconds,
        "iat": seconds,
        "exp": seconds + 300,
        "sha256": base64.b64encode(hashlib.sha256(body).digest()).decode(),
    }
    with warnings.catch_warnings():
        # LiveKit's development secret is six letters: a sender does not refuse it, so neither does its double.
        warnings.simplefilter("ignore")
        token = jwt.encode(claims, secret, algorithm="HS256")
    if vendor == "livekit":
        return {"Content-Type": "application/webhook+json", "Authorization": token}, "", {}
    return {**headers, "Authorization": token, "Hash-Token": token}, "", {}


def _openvidu(story: CallScript) -> None:
    """OpenVidu CE 2.32: flat bodies, `event` last, milliseconds; nothing but a fixed header proves them."""
    session = f"consultation-{story.name(6)}"
    alice, bob = f"con_{story.name(10)}", f"con_{story.name(10)}"
    camera, micro = f"str_CAM_{story.name(4)}_{alice}", f"str_MIC_{story.name(4)}_{bob}"

    def send(seconds: float, event: str, fields: Json, *, since: float | None = None, duration: float = -1) -> None:
        head: Json = {"sessionId": session, "uniqueSessionId": f"{session}_{story.ms(0)}"}
        head["timestamp"] = story.ms(seconds)
        if since is not None:
            whole = (story.ms(seconds) - story.ms(since)) // 1000
            head |= {"startTime": story.ms(since), "duration": whole if duration < 0 else duration}
        story.send(seconds, event, head | fields | {"event": event})

    def person(connection: str, name: str, ip: str) -> Json:
        return {
            "participantId": connection, "connectionId": connection, "location": "Berlin, Germany", "ip": ip,
            "platform": "Chrome 128.0.0.0 on Linux 64-bit", "clientData": f'{{"clientData":"{name}"}}',
            "serverData": "",
        }  # fmt: skip

    def leg(connection: str, stream: str, sender: str | None = None) -> Json:
        fields: Json = {"streamId": stream, "participantId": connection, "connectionId": connection}
        fields |= {"connection": "INBOUND", "receivingFrom": sender} if sender else {"connection": "OUTBOUND"}
        if "_CAM_" in stream:
            size = '{"width":1280,"height":720}'
            fields |= {"videoSource": "CAMERA", "videoFramerate": 30, "videoDimensions": size}
        return fields | {"audioEnabled": True, "videoEnabled": "_CAM_" in stream}

    def recording(status: str, size: int) -> Json:
        return {
            "id": session, "name": session, "outputMode": "COMPOSED", "resolution": "1280x720", "frameRate": 25,
            "recordingLayout": "BEST_FIT", "hasAudio": True, "hasVideo": True, "size": size, "status": status,
        }  # fmt: skip

    left, stopped = {"reason": "disconnect"}, {"reason": "recordingStoppedByServer"}
    send(0, "sessionCreated", {})
    send(2, "participantJoined", person(alice, "Alice", "192.0.2.17"))
    send(4, "webrtcConnectionCreated", leg(alice, camera))
    send(20, "participantJoined", person(bob, "Bob Çelik", "198.51.100.4"))
    send(21, "webrtcConnectionCreated", leg(bob, camera, alice))
    send(22, "webrtcConnectionCreated", leg(bob, micro))
    send(23, "webrtcConnectionCreated", leg(alice, micro, bob))
    send(30, "recordingStatusChanged", recording("started", 0), since=30, duration=0.0)
    send(45, "signalSent", {"from": bob, "to": [alice, bob], "type": "chat", "data": '{"message":"hello"}'})
    send(90, "recordingStatusChanged", stopped | recording("stopped", 0), since=30, duration=0.0)
    send(96, "recordingStatusChanged", stopped | recording("ready", 9_731_442), since=30, duration=59.6 * story.pace)
    send(120, "webrtcConnectionDestroyed", left | leg(alice, micro, bob), since=23)
    send(120, "webrtcConnectionDestroyed", left | leg(bob, camera, alice), since=21)
    send(120, "webrtcConnectionDestroyed", left | leg(bob, micro), since=22)
    send(120, "participantLeft", left | person(bob, "Bob Çelik", "198.51.100.4"), since=20)
    send(150, "webrtcConnectionDestroyed", left | leg(alice, camera), since=4)
    send(150, "participantLeft", left | person(alice, "Alice", "192.0.2.17"), since=2)
    send(150, "sessionDestroyed", {"reason": "lastParticipantLeft"}, since=0)


def _openvidu_meet(story: CallScript) -> None:
    """OpenVidu Meet 3.9: an envelope without ids; recording dates and durations are floats."""
    room: Json = {"roomId": f"team-sync-{story.name(15).lower()}", "roomName": "Team sync"}
    recording_id = f"{room['roomId']}--EG_{story.name(12)}--{story.name(8)}"
    url = f"https://meet.example.org/room/{room['roomId']}"

    def send(seconds: float, event: str, data: Json) -> None:
        story.send(seconds, event, {"event": event, "creationDate": story.ms(seconds), "data": room | data})

    def meeting(status: str) -> Json:
        rights = {"recordingControl": True, "meetingJoin": True, "mediaPublishVideo": True, "chatWrite": True}
        door = {"enabled": True, "url": f"{url}?secret={story.random.getrandbits(40):x}"}
        return {
            "owner": "admin", "creationDate": story.ms(-86_400), "status": status, "meetingEndAction": "none",
            "config": {"chat": {"enabled": True}, "recording": {"enabled": True, "layout": "grid"}},
            "roles": {"moderator": {"permissions": rights}, "speaker": {"permissions": rights}},
            "access": {"anonymous": {"moderator": door, "speaker": door}, "user": {"enabled": False, "url": url}},
            "rolesUpdatedAt": story.ms(-86_400),
        }  # fmt: skip

    def person(name: str, role: str, joined: float, left: float | None = None) -> Json:
        fields: Json = {
            "participantIdentity": f"{name.lower()}-{hashlib.sha256(name.encode()).hexdigest()[:6]}",
            "participantName": name, "externalId": f"user-{name.lower()}", "role": role, "joinDate": story.ms(joined),
        }  # fmt: skip
        if left is not None:
            lasted = round((story.ms(left) - story.ms(joined)) / 1000)
            fields |= {"leaveDate": story.ms(left), "durationSeconds": lasted, "leaveReason": "voluntary_leave"}
        return {"participant": fields}

    def recording(status: str, **more: float | str) -> Json:
        head: Json = {"recordingId": recording_id, "layout": "grid", "encoding": "H264_720P_30", "status": status}
        return head | {"filename": f"{recording_id}.mp4"} | more

    begun, ended = story.ms(31) + 0.1235, story.ms(90) + 0.4568
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


def _livekit(story: CallScript) -> None:
    """LiveKit: camelCase protojson, zero values absent, seconds beside milliseconds beside nanoseconds."""
    minimal: Json = {"sid": f"RM_{story.name(12)}", "name": story.numbered("daily-standup")}
    room = minimal | {
        "emptyTimeout": 300, "departureTimeout": 20, "creationTime": story.s(0), "creationTimeMs": str(story.ms(0)),
        "turnPassword": story.name(43), "enabledCodecs": [{"mime": "audio/opus"}, {"mime": "video/VP8"}],
    }  # fmt: skip
    alice, bob = f"PA_{story.name(12)}", f"PA_{story.name(12)}"
    egress_id = f"EG_{story.name(12)}"

    def send(seconds: float, event: str, fields: Json) -> None:
        tail = {"id": f"EV_{story.name(12)}", "createdAt": story.s(seconds)}
        story.send(seconds, event, {"event": event} | fields | tail)

    def person(sid: str, name: str, joined: float, reason: str | None = None) -> Json:
        fields: Json = {
            "sid": sid, "identity": f"user-{name.lower()}", "state": "DISCONNECTED" if reason else "ACTIVE",
            "joinedAt": story.s(joined), "joinedAtMs": str(story.ms(joined)), "name": name, "version": 3,
            "permission": {"canSubscribe": True, "canPublish": True, "canPublishData": True}, "isPublisher": True,
        }  # fmt: skip
        return {"room": room, "participant": fields | ({"disconnectReason": reason} if reason else {})}

    camera: Json = {
        "sid": f"TR_VC{story.name(12)}", "type": "VIDEO", "width": 1280, "height": 720, "simulcast": True,
        "source": "CAMERA", "mimeType": "video/VP8", "mid": "2", "stream": "camera",
        "version": {"unixMicro": str(story.at(4))},
    }  # fmt: skip
    micro: Json = {
        "sid": f"TR_AM{story.name(12)}", "source": "MICROPHONE", "mimeType": "audio/red", "mid": "1",
        "stream": "camera", "version": {"unixMicro": str(story.at(22))},
    }  # fmt: skip

    def track(sid: str, name: str, media: Json) -> Json:
        return {"room": minimal, "participant": {"sid": sid, "identity": f"user-{name}"}, "track": media}

    def egress(seconds: float, **more: Any) -> Json:
        head: Json = {"egressId": egress_id, "roomId": minimal["sid"], "roomName": minimal["name"]}
        request = {"roomComposite": {"roomName": minimal["name"], "layout": "grid"}}
        return {"egressInfo": head | more | {"updatedAt": story.ns(seconds)} | request}

    begun = story.ns(31)
    lasted = str(int(story.ns(90)) - int(begun))
    file = {"filename": "rec/daily-standup.mp4", "startedAt": begun, "endedAt": story.ns(90), "duration": lasted}
    file |= {"size": "28311552", "location": "https://recordings.example.org/rec/daily-standup.mp4"}
    done = {"startedAt": begun, "endedAt": story.ns(90), "fileResults": [file], "details": "End reason: StopEgress API"}
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


def _plugnmeet(story: CallScript) -> None:
    """PlugNmeet 2.4: snake_case; events relayed from LiveKit carry `EV_` ids, its own carry UUIDs."""
    brief: Json = {"sid": story.uuid(), "room_id": story.numbered("algebra-101")}
    metadata = '{"room_title":"Algebra 101","parent_room_id":"","is_breakout_room":false,"extra_data":{"course":"42"}}'
    alice, bob = f"PA_{story.name(12)}", f"PA_{story.name(12)}"
    recording_id = f"REC_{brief['sid'][:8]}-{story.s(30)}"
    artifact = story.uuid()

    def own(seconds: float, event: str, room: Json, **fields: Json) -> None:
        tail = {"id": story.uuid(), "created_at": story.s(seconds)}
        story.send(seconds, event, {"event": event, "room": brief | room} | fields | tail)

    def relayed(seconds: float, event: str, since: str, **fields: Json) -> None:
        room: Json = {"empty_timeout": 3600, "max_participants": 0, "creation_time": since, "metadata": metadata}
        tail = {"id": f"EV_{story.name(12)}", "created_at": story.s(seconds)}
        body: Json = {"event": event, "room": brief | room | {"num_participants": 0}}
        story.send(seconds, event, body | fields | tail)

    def person(sid: str, name: str, joined: float, reason: str | None = None) -> Json:
        fields: Json = {
            "sid": sid, "identity": f"{name.lower()}-01", "state": "DISCONNECTED" if reason else "ACTIVE",
            "joined_at": story.s(joined), "joined_at_ms": str(story.ms(joined)), "name": name, "version": 3,
            "permission": {"can_subscribe": True, "can_publish": True}, "is_publisher": True,
        }  # fmt: skip
        return fields | ({"disconnect_reason": reason} if reason else {})

    def recording(path: str = "", size: float = 0) -> Json:
        head = {"record_id": recording_id, "recorder_id": "node_01", "recorder_msg": "success"}
        return head | {"file_path": path, "file_size": size}

    micro: Json = {
        "sid": f"TR_AM{story.name(12)}", "source": "MICROPHONE", "mime_type": "audio/red", "mid": "1",
        "stream": "camera", "version": {"unix_micro": str(story.at(4))},
    }  # fmt: skip
    speaker: Json = {"sid": alice, "identity": "alice-01"}
    started = story.s(1)
    own(0, "room_created", {"empty_timeout": 3600, "creation_time": story.s(0), "metadata": metadata})
    relayed(1, "room_started", started)
    relayed(2.5, "participant_joined", started, participant=person(alice, "Alice", 2))
    relayed(4.2, "track_published", "0", participant=speaker, track=micro)
    relayed(20.5, "participant_joined", started, participant=person(bob, "Bob", 20))
    own(30, "start_recording", {}, recording_info=recording())
    own(90, "end_recording", {}, recording_info=recording())
    relayed(120, "participant_left", started, participant=person(bob, "Bob", 20, "CLIENT_INITIATED"))
    relayed(150, "track_unpublished", "0", participant=speaker, track=micro)
    relayed(150.1, "participant_left", started, participant=person(alice, "Alice", 2, "CLIENT_INITIATED"))
    own(158, "session_ended", {"creation_time": story.s(0), "metadata": metadata})
    relayed(160, "room_finished", started)
    path = f"node_01/{brief['sid']}/{recording_id}.mp4"
    own(162, "recording_proceeded", {}, recording_info=recording(path, 31.25))
    kept = {"file_path": f"analytics/{brief['sid']}.json", "file_size": "20480", "mime_type": "application/json"}
    made: Json = {"type": "MEETING_ANALYTICS", "artifact_id": artifact, "metadata": {"file_info": kept}}
    own(164, "artifact_created", {}, room_artifact=made)
    own(165, "analytics_proceeded", {}, analytics={"file_id": artifact})


def _streamrec(story: CallScript) -> None:
    """StreamRec: four webhooks, all at ends, and the realtime messages the application relays to the same hook."""
    client, session, watch, recording = story.numbered("agent-0042"), story.uuid(), story.uuid(), story.uuid()

    def relay(seconds: float, kind: str, who: str, sid: str, data: Json) -> None:
        story.send(seconds, kind, {"type": kind, "client_id": who, "session_id": sid, "data": data}, sid=session)

    def report(seconds: float, status: str, fields: Json, **query: str) -> None:
        story.send(seconds, status, {"status": status} | fields, sid=session, **query)

    relay(2, "session_start", client, session, {"version": "v1.2.3"})
    relay(30, "recording_start", client, session, {"rec_id": recording})
    relay(45, "supervisor_join_session", "supervisor-7", watch, {"session_id_to_monitor": session})
    relay(90, "recording_stop", client, session, {"rec_id": recording})
    uploaded: Json = {
        "msg": "Recording uploaded", "rec_id": recording, "client_id": client,
        "recording_started_at": story.iso(30.2), "recording_first_frame_written_at": story.iso(30.4),
        "recording_first_peerframe_captured_at": story.iso(30.1), "recording_stopped_at": story.iso(90.2),
        "recording_file_duration_ms": story.ms(90.2) - story.ms(30.4), "recording_file_size_bytes": 18_213_377,
    }  # fmt: skip
    watched: Json = {
        "supervisor_session_id": watch, "supervisor_client_id": "supervisor-7",
        "agent_session_id": session, "agent_client_id": client,
        "started_at": story.iso(45.3), "stopped_at": story.iso(119.8),
    }  # fmt: skip
    report(96, "upload_ready", uploaded, rid=recording)
    report(120, "supervisor_session_finished", watched)
    finished = {"rec_id": recording, "client_id": client, "started_at": story.iso(2.1), "stopped_at": story.iso(149.9)}
    report(150, "session_finished", {"msg": "Session finished"} | finished)

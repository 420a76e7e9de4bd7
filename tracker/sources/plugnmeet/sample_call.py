"""A sample call of plugNmeet 2.4: snake_case; events relayed from LiveKit have `EV_` ids, its own have UUIDs."""

from __future__ import annotations

from tracker.domain.facts import Micros
from tracker.sources.sample_calls import CallScript, Json, SignedRequest
from tracker.sources.webhook_jwt import sign_jwt


def play(script: CallScript) -> None:
    """Write every delivery of one call."""
    brief: Json = {"sid": script.uuid(), "room_id": script.reusable("algebra-101")}
    metadata = '{"room_title":"Algebra 101","parent_room_id":"","is_breakout_room":false,"extra_data":{"course":"42"}}'
    alice, bob = f"PA_{script.id(12)}", f"PA_{script.id(12)}"
    recording_id = f"REC_{brief['sid'][:8]}-{script.s(30)}"
    artifact = script.uuid()

    def own(seconds: float, event: str, room: Json, **fields: Json) -> None:
        tail = {"id": script.uuid(), "created_at": script.s(seconds)}
        script.send(seconds, event, {"event": event, "room": brief | room} | fields | tail)

    def relayed(seconds: float, event: str, since: str, **fields: Json) -> None:
        room: Json = {"empty_timeout": 3600, "max_participants": 0, "creation_time": since, "metadata": metadata}
        tail = {"id": f"EV_{script.id(12)}", "created_at": script.s(seconds)}
        body: Json = {"event": event, "room": brief | room | {"num_participants": 0}}
        script.send(seconds, event, body | fields | tail)

    def person(sid: str, name: str, joined: float, reason: str | None = None) -> Json:
        fields: Json = {
            "sid": sid, "identity": f"{name.lower()}-01", "state": "DISCONNECTED" if reason else "ACTIVE",
            "joined_at": script.s(joined), "joined_at_ms": str(script.ms(joined)), "name": name, "version": 3,
            "permission": {"can_subscribe": True, "can_publish": True}, "is_publisher": True,
        }  # fmt: skip
        return fields | ({"disconnect_reason": reason} if reason else {})

    def recording(path: str = "", size: float = 0) -> Json:
        head = {"record_id": recording_id, "recorder_id": "node_01", "recorder_msg": "success"}
        return head | {"file_path": path, "file_size": size}

    micro: Json = {
        "sid": f"TR_AM{script.id(12)}", "source": "MICROPHONE", "mime_type": "audio/red", "mid": "1",
        "stream": "camera", "version": {"unix_micro": str(script.at(4))},
    }  # fmt: skip
    speaker: Json = {"sid": alice, "identity": "alice-01"}
    started = script.s(1)
    own(0, "room_created", {"empty_timeout": 3600, "creation_time": script.s(0), "metadata": metadata})
    relayed(1, "room_started", started)
    relayed(2.5, "participant_joined", started, participant=person(alice, "Alice", 2))
    relayed(4.2, "track_published", "0", participant=speaker, track=micro)
    relayed(20.5, "participant_joined", started, participant=person(bob, "Bob", 20))
    own(30, "start_recording", {}, recording_info=recording())
    own(90, "end_recording", {}, recording_info=recording())
    relayed(120, "participant_left", started, participant=person(bob, "Bob", 20, "CLIENT_INITIATED"))
    relayed(150, "track_unpublished", "0", participant=speaker, track=micro)
    relayed(150.1, "participant_left", started, participant=person(alice, "Alice", 2, "CLIENT_INITIATED"))
    own(158, "session_ended", {"creation_time": script.s(0), "metadata": metadata})
    relayed(160, "room_finished", started)
    path = f"node_01/{brief['sid']}/{recording_id}.mp4"
    own(162, "recording_proceeded", {}, recording_info=recording(path, 31.25))
    kept = {"file_path": f"analytics/{brief['sid']}.json", "file_size": "20480", "mime_type": "application/json"}
    made: Json = {"type": "MEETING_ANALYTICS", "artifact_id": artifact, "metadata": {"file_info": kept}}
    own(164, "artifact_created", {}, room_artifact=made)
    own(165, "analytics_proceeded", {}, analytics={"file_id": artifact})


def sign(body: bytes, secret: str, now: Micros, issuer: str) -> SignedRequest:
    """A token that names the body, signed with the API secret and sent in two headers."""
    token = sign_jwt(issuer, secret, body=body, now=now)
    return {"Content-Type": "application/json", "Authorization": token, "Hash-Token": token}, "", {}

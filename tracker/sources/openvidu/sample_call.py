"""A sample call of OpenVidu CE 2.32: flat bodies, `event` last, milliseconds; a fixed header proves them."""

from __future__ import annotations

from tracker.domain.facts import Micros
from tracker.sources.sample_calls import CallScript, Json, SignedRequest


def play(script: CallScript) -> None:
    """Write every delivery of one call."""
    session = f"consultation-{script.id(6)}"
    alice, bob = f"con_{script.id(10)}", f"con_{script.id(10)}"
    camera, micro = f"str_CAM_{script.id(4)}_{alice}", f"str_MIC_{script.id(4)}_{bob}"

    def send(seconds: float, event: str, fields: Json, *, since: float | None = None, duration: float = -1) -> None:
        head: Json = {"sessionId": session, "uniqueSessionId": f"{session}_{script.ms(0)}"}
        head["timestamp"] = script.ms(seconds)
        if since is not None:
            whole = (script.ms(seconds) - script.ms(since)) // 1000
            head |= {"startTime": script.ms(since), "duration": whole if duration < 0 else duration}
        script.send(seconds, event, head | fields | {"event": event})

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
    send(96, "recordingStatusChanged", stopped | recording("ready", 9_731_442), since=30, duration=59.6 * script.pace)
    send(120, "webrtcConnectionDestroyed", left | leg(alice, micro, bob), since=23)
    send(120, "webrtcConnectionDestroyed", left | leg(bob, camera, alice), since=21)
    send(120, "webrtcConnectionDestroyed", left | leg(bob, micro), since=22)
    send(120, "participantLeft", left | person(bob, "Bob Çelik", "198.51.100.4"), since=20)
    send(150, "webrtcConnectionDestroyed", left | leg(alice, camera), since=4)
    send(150, "participantLeft", left | person(alice, "Alice", "192.0.2.17"), since=2)
    send(150, "sessionDestroyed", {"reason": "lastParticipantLeft"}, since=0)


def sign(_body: bytes, secret: str, _now: Micros, _issuer: str) -> SignedRequest:
    """The fixed header."""
    return {"Content-Type": "application/json", "Authorization": secret}, "", {}

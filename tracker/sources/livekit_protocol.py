"""The objects of livekit/protocol that two vendors send: participant and track.

Source: livekit/protocol `protobufs/livekit_models.proto`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tracker.domain.facts import EndReason, Micros, Precision
from tracker.sources import protojson
from tracker.sources.protojson import Message

_NUMBER = re.compile(r"-?[0-9]{1,19}", re.ASCII)

# DisconnectReason, livekit_models.proto:702-736; how server reasons map to it: livekit pkg/rtc/types/interfaces.go.
_DISCONNECTED: Mapping[str, EndReason] = {
    "CLIENT_INITIATED": "left",
    "DUPLICATE_IDENTITY": "replaced",
    "SERVER_SHUTDOWN": "server_shutdown",
    "PARTICIPANT_REMOVED": "removed",
    "ROOM_DELETED": "closed_by_server",
    "ROOM_CLOSED": "closed_by_server",
    "STATE_MISMATCH": "network_lost",
    "SIGNAL_CLOSE": "network_lost",
    "CONNECTION_TIMEOUT": "network_lost",
    "MEDIA_FAILURE": "network_lost",
    "JOIN_FAILURE": "join_failed",
    "MIGRATION": "migrated",
    "USER_UNAVAILABLE": "left",
    "USER_REJECTED": "left",
    "SIP_TRUNK_FAILURE": "server_failure",
    "AGENT_ERROR": "server_failure",
}
_LABELS = {"screen_share": "screen", "screen_share_audio": "screen_audio"}


def joined_at(participant: Message) -> tuple[Micros, Precision] | None:
    """When a participant joined, as precisely as stated (`joined_at_ms` since 2025-01, `joined_at` before)."""
    if (ms := participant.moment("joined_at_ms", "ms")) is not None:
        return ms, "ms"
    return None if (seconds := participant.moment("joined_at", "s")) is None else (seconds, "s")


def person_kind(participant: Message) -> str:
    """The kind of participant, in lower case. Absent is the enum's zero, a person; `hidden`: invisible to others."""
    kind = participant.enum("kind", "STANDARD", "INGRESS", "EGRESS", "SIP", "AGENT") or "STANDARD"
    if kind == "STANDARD" and participant.object("permission").flag("hidden"):
        return "hidden"
    return f"kind_{kind}" if _NUMBER.fullmatch(kind) else kind.lower()


def person_detail(participant: Message) -> dict[str, Any]:
    """The fields of a participant that facts keep in `detail`."""
    return protojson.drop_empty(
        hidden=participant.object("permission").flag("hidden") or None,
        metadata=protojson.clean_text(participant.text("metadata")),
        attributes=protojson.clean_value(dict(participant.object("attributes").fields)),
        region=participant.text("region"),
    )


def disconnect_reason(participant: Message) -> tuple[EndReason, str | None]:
    """Why a connection ended: the normalised reason and the vendor's own (a number where the sender knew no name)."""
    vendor_reason = participant.enum("disconnect_reason")
    return _DISCONNECTED.get(vendor_reason or "", "unknown"), vendor_reason


def track_media(track: Message) -> dict[str, str]:
    """The `media` and `label` of a track; an absent type is the enum's zero, audio."""
    media = (track.enum("type", "AUDIO", "VIDEO", "DATA") or "AUDIO").lower()
    source = (
        track.enum("source", "UNKNOWN", "CAMERA", "MICROPHONE", "SCREEN_SHARE", "SCREEN_SHARE_AUDIO") or ""
    ).lower()
    return protojson.drop_empty(media=media, label=_LABELS.get(source, "" if source == "unknown" else source))


def track_detail(track: Message) -> dict[str, Any]:
    """The fields of a track that facts keep in `detail`."""
    return protojson.drop_empty(
        name=track.text("name"), mime_type=track.text("mime_type"), width=track.whole("width"), height=track.whole("height")
    )  # fmt: skip

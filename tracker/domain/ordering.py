"""The order of timeline entries that carry the same time. Pure.

Some vendors report times in whole seconds. Entries of one moment are put into causal order (a join before the stream it
publishes, the stream before the leave, the leave before the end of the session), never into the order of arrival.
"""

from __future__ import annotations

import zlib

_CAUSAL = (
    ("session.created",),
    ("session.started",),
    ("session.resumed", "node.recovered"),
    ("participant.joined",),
    ("ingress.started", "agent_job.started", "supervisor_session.started"),
    ("stream.published",),
    ("subscription.started",),
    ("recording.started", "broadcast.started", "transcription.started"),
    ("recording.processing",),
    # Kinds that are not listed happen during the call.
    (),
    ("recording.stopped", "broadcast.stopped", "transcription.ended", "recording.limit_reached"),
    ("subscription.ended",),
    ("stream.unpublished",),
    ("participant.left", "participant.connection_aborted"),
    ("ingress.ended", "agent_job.ended", "supervisor_session.ended"),
    ("session.ended",),
    ("recording.ready", "recording.failed", "recording.aborted"),
    ("recording.uploaded", "recording.upload_failed", "transcription.usage"),
    ("artifact.created", "analytics.ready"),
)
_RANKS = {kind: rank for rank, kinds in enumerate(_CAUSAL) for kind in kinds}
_DURING_THE_CALL = _CAUSAL.index(())


def causal_rank(kind: str) -> int:
    """The rank of a timeline kind among entries of the same moment; 0 comes first."""
    return _RANKS.get(kind, _DURING_THE_CALL)


def tie_breaker(dedupe_key: str) -> int:
    """A number that depends on the record alone: it orders entries of the same kind and moment, however they arrived."""
    return zlib.crc32(dedupe_key.encode())

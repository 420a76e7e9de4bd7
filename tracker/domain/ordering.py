"""Which of two things comes first in a timeline when both are told for the same moment. Pure.

Some vendors state times in whole seconds: what happened within one is put into causal order (a join before the
stream it publishes, that before the leave, that before the end of the session), and never into the order of arrival.
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
    # Whatever is not named here happens while the call goes on.
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
_BETWEEN = _CAUSAL.index(())


def rank_of(kind: str) -> int:
    """The place of a timeline kind among those of one moment: 0 is first."""
    return _RANKS.get(kind, _BETWEEN)


def tie_of(dedupe_key: str) -> int:
    """A number of the record alone, for two of one kind at one moment: the same in whatever order they came."""
    return zlib.crc32(dedupe_key.encode())

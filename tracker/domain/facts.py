"""Facts: what happened in a call, in Tracker's own vocabulary. Each type of fact is a frozen, tagged struct.

The tag of a fact is its timeline kind ("participant.joined"). Tags and field names are stored in erasure records and never
change. All times are integer microseconds since the epoch, UTC (`Micros`); `clock` says by whose clock.

    Fact
    ├── SessionFact        SessionCreated SessionStarted SessionEnded SessionResumed
    ├── ConnectionFact     ParticipantJoined ParticipantLeft ParticipantConnectionAborted ParticipantAttended
    ├── StreamFact         StreamPublished StreamUnpublished
    ├── SubscriptionFact   SubscriptionStarted SubscriptionEnded
    ├── RecordingFact      RecordingStarted …Stopped …Processing …Ready …Failed …Aborted …LimitReached …Uploaded …UploadFailed
    ├── ActivityFact       Broadcast… Ingress… Transcription… AgentJob… SupervisorSession…
    └── NoteFact           ArtifactCreated AnalyticsReady SignalSent FilterEvent Node… Test Unknown

Facts cannot be part of a reference cycle, so the garbage collector does not track them (`gc=False`): a rebuild makes millions.

A fact does not decide which session it belongs to. It states what it knows (`SessionRef`), and `projections` finds the run.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import msgspec


Micros = int
"""Microseconds since the epoch, UTC."""

Clock = Literal["server", "client", "receiver"]
Precision = Literal["us", "ms", "s"]
Provenance = Literal["reported", "derived", "inferred"]
EndReason = Literal[
    "normal", "closed_by_server", "left", "removed", "network_lost", "replaced", "join_failed", "server_failure",
    "server_shutdown", "migrated", "timeout", "superseded", "inferred", "unknown",
]  # fmt: skip


class RunRules(msgspec.Struct, frozen=True):
    """How to tell apart a vendor's runs of one room.

    `tolerance`            how much earlier than its run's start a fact may be stamped, and how close two reported starts
                           may be to count as one; µs
    `never_joined_after`   a run that nobody joined is over after this time (µs); None: never inferred
    `ends_only`            the vendor sends nothing at starts. A start known only from its end event is no sign of loss, and
                           a keyed run without a stated start is matched to the span of an end event that contains it
    `starts_when_joined`   a created room starts with its first join, so people in a room that never started are a sign of loss
    `room_is_person`       the room belongs to one person, who is present for as long as the run lasts
    `runs_are_starts`      the vendor's own key of a run is `{room}_{start ms}`
    `noticed_within`       how long after a crash (µs) it may be reported, without the time of the crash
    `runs_overlap`         a new run of a room does not show that one with the vendor's own key is over
    """

    tolerance: Micros = 0
    never_joined_after: Micros | None = None
    ends_only: bool = False
    starts_when_joined: bool = False
    room_is_person: bool = False
    runs_are_starts: bool = False
    runs_overlap: bool = False
    noticed_within: Micros = 0

    @property
    def late_end(self) -> Micros:
        """How long after the start of the next run an end may be stamped that belongs to the run before (µs)."""
        return max(self.tolerance, self.noticed_within)


class SessionRef(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a fact knows about the session it belongs to.

    `run`        the vendor's key of the run (room sid, uniqueSessionId, session_id); if it is set, nothing else decides
    `room`       the reusable name (room id, sessionId, client id); without a run key, `room` and `at` find the run
    `at`         a moment inside the run: the *start* of the thing the fact is about if it is stated (a `left` carries
                 its join), else the fact's own time
    `starts_at`  the start of the run, if the fact states it
    `ends_at`    the end of the run, if the fact states it
    `ids`        (name, value) vendor ids that find this session, e.g. ("sessionId", "MySession")
    `is_late`    `at` is when an end was noticed, not when it happened
    `parent`     of a breakout room: the vendor's key of the run it belongs to
    `anchor`     a recording id whose other facts may know a better `at`; for facts without a time of their own
    """

    at: Micros
    run: str | None = None
    room: str | None = None
    room_name: str | None = None
    starts_at: Micros | None = None
    ends_at: Micros | None = None
    ids: tuple[tuple[str, str], ...] = ()
    is_late: bool = False
    parent: str | None = None
    anchor: str | None = None


class EventCopy(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Which event a record reports, where a vendor may report one event in several records.

    `key`: equal for all copies of an event, whatever the encoding of their texts. `damage`: how many characters an encoding
    may have cost: the copy with the least is shown. `text`: equal for copies with equal texts, of which the first is shown;
    None where that is not known any more (erased).

    A sender may also send one event again with another time. `damage` is None for such a repeat: of those in one session,
    the one with the earliest time is shown, of those with one time the one with the smallest `text`.
    """

    key: str
    text: int | None
    damage: int | None


class Fact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", gc=False):
    """What all facts have in common: when, by whose clock, in which session, who acted, and further detail.

    `place` is None for facts about the deployment (node crashed, test). `detail` is JSON-able and free of secrets
    (join links, stream keys and passwords stay in the raw record). `anomalies` are (kind, detail) found while reading.
    `copy`: see `EventCopy`.
    """

    at: Micros
    place: SessionRef | None = None
    clock: Clock = "server"
    precision: Precision = "ms"
    actor: str | None = None
    detail: dict[str, Any] = {}
    anomalies: tuple[tuple[str, str], ...] = ()
    server_run: str | None = None
    copy: EventCopy | None = None


class SessionFact(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """About the run as a whole. `started_at`: the start that an end event states (a derived start)."""

    started_at: Micros | None = None
    reason: EndReason | None = None
    vendor_reason: str | None = None


class SessionCreated(SessionFact, frozen=True, kw_only=True, tag="session.created"):
    """The room was created; nobody needs to be in it."""


class SessionStarted(SessionFact, frozen=True, kw_only=True, tag="session.started"):
    """The run began."""


class SessionEnded(SessionFact, frozen=True, kw_only=True, tag="session.ended"):
    """The run ended."""


class SessionResumed(SessionFact, frozen=True, kw_only=True, omit_defaults=True, tag="session.resumed"):
    """The same run was announced again, for example after it moved to another node.

    It is the run's first announcement if nothing happened in the run before. `may_be_first`: with this server that is
    usual, so the entry of this fact is hidden, and the session's rows say which of the two it was.
    """

    may_be_first: bool = False


class ConnectionFact(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """About one join of one participant.

    `connection` is the vendor's connection id. It identifies the interval, together with `joined_at` if `keyed_by_join`
    is set (the vendor reuses ids). `joined_at` on a `left` gives a derived join. `reuses_id`: the vendor reuses ids, and a `left`
    does not state its join.
    `identity` is the person. `person` is the kind of participant ("standard" is a person).
    """

    connection: str
    identity: str | None = None
    name: str | None = None
    person: str = "standard"
    joined_at: Micros | None = None
    keyed_by_join: bool = False
    reuses_id: bool = False
    platform: str | None = None
    location: str | None = None
    ip: str | None = None
    reason: EndReason | None = None
    vendor_reason: str | None = None


class ParticipantJoined(ConnectionFact, frozen=True, kw_only=True, tag="participant.joined"):
    """A connection became active."""


class ParticipantLeft(ConnectionFact, frozen=True, kw_only=True, tag="participant.left"):
    """A connection ended."""


class ParticipantConnectionAborted(ConnectionFact, frozen=True, kw_only=True, tag="participant.connection_aborted"):
    """A connection ended before it became active. It is not counted as a participant."""


class ParticipantAttended(ConnectionFact, frozen=True, kw_only=True, omit_defaults=True, tag="participant.attended"):
    """A summary made afterwards states a whole connection, from `joined_at` to `left_at`; None: not known.

    Its times are derived: a join and a leave with events of their own are stronger. It has no entry of its own. An empty
    `connection`, with `reuses_id`: only the person is known.
    """

    left_at: Micros | None = None


class StreamFact(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """About published media. `connection` and `identity` say whose. `started_at` on an end gives a derived start."""

    stream: str
    connection: str | None = None
    identity: str | None = None
    started_at: Micros | None = None
    keyed_by_start: bool = False
    media: str | None = None
    label: str | None = None
    reason: EndReason | None = None
    vendor_reason: str | None = None


class StreamPublished(StreamFact, frozen=True, kw_only=True, tag="stream.published"):
    """Media started. `media`: audio|video|audio+video|data; `label`: camera|microphone|screen and others."""


class StreamUnpublished(StreamFact, frozen=True, kw_only=True, tag="stream.unpublished"):
    """Media stopped."""


class SubscriptionFact(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """One participant (`connection`) receiving the `stream` of `publisher`."""

    stream: str
    connection: str
    publisher: str | None = None
    started_at: Micros | None = None
    reason: EndReason | None = None
    vendor_reason: str | None = None


class SubscriptionStarted(SubscriptionFact, frozen=True, kw_only=True, tag="subscription.started"):
    """Receiving began."""


class SubscriptionEnded(SubscriptionFact, frozen=True, kw_only=True, tag="subscription.ended"):
    """Receiving stopped."""


class RecordingFact(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """About one recording.

    `recording` is the vendor's id; `keyed_by_start`: the vendor reuses ids. `status` is the vendor's raw status.
    `started_at` and `stopped_at` are stated by the event. `legacy` marks events of older servers, which are shown only if
    no newer event reports the same. `alias` is another id that some messages use for it. `nameless`: the message has no
    recording id, `recording` is made up, and only its time shows which recording of the session it is about.
    """

    recording: str
    keyed_by_start: bool = False
    status: str | None = None
    mode: str | None = None
    started_at: Micros | None = None
    stopped_at: Micros | None = None
    first_frame_at: Micros | None = None
    first_peerframe_at: Micros | None = None
    duration_ms: int | None = None
    size_bytes: int | None = None
    url: str | None = None
    http_status: int | None = None
    reason: EndReason | None = None
    vendor_reason: str | None = None
    legacy: bool = False
    alias: str | None = None
    nameless: bool = False


class RecordingStarted(RecordingFact, frozen=True, kw_only=True, tag="recording.started"):
    """Recording began, or was accepted: `status` says which."""


class RecordingStopped(RecordingFact, frozen=True, kw_only=True, tag="recording.stopped"):
    """Recording stopped; the file may not be ready."""


class RecordingProcessing(RecordingFact, frozen=True, kw_only=True, tag="recording.processing"):
    """An intermediate step: active, ending, transcoding, updated."""


class RecordingReady(RecordingFact, frozen=True, kw_only=True, tag="recording.ready"):
    """The file is complete."""


class RecordingFailed(RecordingFact, frozen=True, kw_only=True, tag="recording.failed"):
    """The recording failed."""


class RecordingAborted(RecordingFact, frozen=True, kw_only=True, tag="recording.aborted"):
    """The recording was aborted before anything was recorded."""


class RecordingLimitReached(RecordingFact, frozen=True, kw_only=True, tag="recording.limit_reached"):
    """The recording ended at a limit of the platform. The file exists."""


class RecordingUploaded(RecordingFact, frozen=True, kw_only=True, tag="recording.uploaded"):
    """The file was uploaded to the store."""


class RecordingUploadFailed(RecordingFact, frozen=True, kw_only=True, tag="recording.upload_failed"):
    """The upload failed; `http_status` is the store's answer."""


class ActivityFact(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """About anything else with a start and an end; `activity` is its id.

    `started_at` on an end gives a derived start. `identity` says whose it is, if the vendor does.
    """

    activity: str
    identity: str | None = None
    started_at: Micros | None = None
    reason: EndReason | None = None
    vendor_reason: str | None = None


class BroadcastStarted(ActivityFact, frozen=True, kw_only=True, tag="broadcast.started"):
    """Live streaming to the outside (RTMP, HLS) began."""


class BroadcastUpdated(ActivityFact, frozen=True, kw_only=True, omit_defaults=True, tag="broadcast.updated"):
    """Something about a running broadcast changed: it became active, a target failed, it is about to stop.

    `ending`: it stops now, even if the event of the stop never comes.
    """

    ending: bool = False


class BroadcastStopped(ActivityFact, frozen=True, kw_only=True, tag="broadcast.stopped"):
    """Live streaming to the outside stopped."""


class IngressStarted(ActivityFact, frozen=True, kw_only=True, tag="ingress.started"):
    """Media from outside (WHIP, RTMP, URL) began to enter the room."""


class IngressEnded(ActivityFact, frozen=True, kw_only=True, tag="ingress.ended"):
    """Media from outside stopped."""


class TranscriptionStarted(ActivityFact, frozen=True, kw_only=True, tag="transcription.started"):
    """Speech to text began for a person."""


class TranscriptionEnded(ActivityFact, frozen=True, kw_only=True, tag="transcription.ended"):
    """Speech to text ended for a person."""


class AgentJobStarted(ActivityFact, frozen=True, kw_only=True, tag="agent_job.started"):
    """An agent was given a job in the room."""


class AgentJobEnded(ActivityFact, frozen=True, kw_only=True, tag="agent_job.ended"):
    """The agent's job ended."""


class SupervisorFact(ActivityFact, frozen=True, kw_only=True, omit_defaults=True):
    """A supervisor listening to an agent's session; `activity` is the supervisor session id."""

    supervisor_client: str | None = None
    agent_client: str | None = None
    agent_session: str | None = None


class SupervisorSessionStarted(SupervisorFact, frozen=True, kw_only=True, tag="supervisor_session.started"):
    """A supervisor began to listen."""


class SupervisorSessionEnded(SupervisorFact, frozen=True, kw_only=True, tag="supervisor_session.ended"):
    """A supervisor stopped listening."""


class NoteFact(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """Something that happened at one moment. `subject_type` and `subject_id` say what it is about."""

    subject_type: str = "session"
    subject_id: str | None = None


class TranscriptionUsage(NoteFact, frozen=True, kw_only=True, tag="transcription.usage"):
    """The amount of speech to text that a run used."""


class ArtifactCreated(NoteFact, frozen=True, kw_only=True, tag="artifact.created"):
    """A by-product of the call exists (summary, transcript, analytics, usage)."""


class AnalyticsReady(NoteFact, frozen=True, kw_only=True, omit_defaults=True, tag="analytics.ready"):
    """The analytics file of a run exists. `ended_at`: the end of the run that it states."""

    ended_at: Micros | None = None


class SignalSent(NoteFact, frozen=True, kw_only=True, tag="signal.sent"):
    """A data message was sent through the platform."""


class FilterEvent(NoteFact, frozen=True, kw_only=True, tag="filter.event"):
    """A media filter dispatched something."""


class NodeCrashed(NoteFact, frozen=True, kw_only=True, tag="node.crashed"):
    """A media node crashed. With a `place`: that session ran on it and is over, unless its own end says otherwise."""


class NodeRecovered(NoteFact, frozen=True, kw_only=True, tag="node.recovered"):
    """A media node is back."""


class NodeStatus(NoteFact, frozen=True, kw_only=True, tag="node.status"):
    """A node changed its status, or the cluster its size."""


class Test(NoteFact, frozen=True, kw_only=True, tag="test"):
    """A test delivery from the vendor's console."""


class Unknown(NoteFact, frozen=True, kw_only=True, tag="unknown"):
    """An authentic event that Tracker cannot interpret. It is stored and shown raw."""


AnyFact = (
    SessionCreated | SessionStarted | SessionEnded | SessionResumed
    | ParticipantJoined | ParticipantLeft | ParticipantConnectionAborted | ParticipantAttended
    | StreamPublished | StreamUnpublished | SubscriptionStarted | SubscriptionEnded
    | RecordingStarted | RecordingStopped | RecordingProcessing | RecordingReady | RecordingFailed | RecordingAborted
    | RecordingLimitReached | RecordingUploaded | RecordingUploadFailed
    | BroadcastStarted | BroadcastUpdated | BroadcastStopped | IngressStarted | IngressEnded
    | TranscriptionStarted | TranscriptionEnded | TranscriptionUsage | AgentJobStarted | AgentJobEnded
    | SupervisorSessionStarted | SupervisorSessionEnded
    | ArtifactCreated | AnalyticsReady | SignalSent | FilterEvent
    | NodeCrashed | NodeRecovered | NodeStatus | Test | Unknown
)  # fmt: skip
"""All concrete types of facts; stored facts are decoded to one of them."""

KINDS: tuple[str, ...] = tuple(str(leaf.__struct_config__.tag) for leaf in get_args(AnyFact))
"""All timeline kinds."""

"""Renders the state of a session as rows: infers missing ends and names anomalies. Pure.

An end is reported by its own event, else derived from an event that states it, else inferred by a rule:

    session      its media node crashed · the next run of its room began · its server restarted · nobody joined in time
    connection   the same person joined again · its session ended
    stream …     its connection ended · its session ended

Inferred ends exist only in the rows. They are not in the state, so a stronger claim that arrives late replaces them.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Literal

import msgspec

from tracker.domain.facts import EndReason, Micros, Provenance, RunRules
from tracker.projections.claims import Claim, anomaly
from tracker.projections.announcements import announcements, start_is_reported
from tracker.projections.early_starts import clamp_early_starts
from tracker.projections.gaps import ActivitySpan, gap_entries
from tracker.projections.ids import distinct_ids
from tracker.projections.life import is_occupied, is_reopened, resumed_at
from tracker.projections.people import (
    RenderedConnection,
    render_connections,
    owner_connection,
    render_participants,
    max_present,
)
from tracker.projections.recordings import render_recordings
from tracker.domain.rows import Anomaly, Completeness, End, RecordingRow, SessionRow, SessionRows, StreamRow, SupervisorSessionRow  # fmt: skip
from tracker.projections.visits import end_with_session, pair_visits
from tracker.projections.state import Interval, SessionState, duration_ms, encode_state, when

LATE = 5_000_000
"""Activity later than this (µs) after the reported end is an anomaly (`late_event`)."""


class RenderContext(msgspec.Struct, frozen=True, kw_only=True):
    """What the end of a session may depend on besides its own facts. All times are µs.

    `next_start`: when the first other run of its room began after `next_run_after`. `restarts`: the known restarts of its server, ascending.
    `latest`: the latest time of any fact of its source.
    """

    rules: RunRules
    next_start: Micros | None = None
    next_run_after: Micros = 0
    restarts: tuple[Micros, ...] = ()
    latest: Micros = 0


def session_id(source: str, run: str) -> str:
    """The session id of a run."""
    return f"{source}:{run}"


def start_claim(state: SessionState) -> Claim | None:
    """The strongest claim for the start: reported by its own event, else its creation, else stated by other events."""
    own = state.lifetime.start
    if own is not None and (own.provenance == "reported" or state.created is None):
        return own
    return state.created


def next_run_after(state: SessionState) -> Micros:
    """The rows of a session depend on when the next run of its room began after this moment."""
    start = start_claim(state)
    return state.first_at if start is None else start.at


def render(state: SessionState, context: RenderContext) -> SessionRows:
    """All rows of a session."""
    identity = session_id(state.source, state.run)
    anomalies = [Anomaly(kind=kind, position=position, detail=detail) for kind, detail, _, position in state.anomalies]
    # What is folded further is the state as it is; a paired visit is not.
    whole, state = state, pair_visits(state)
    start = start_claim(state)
    end, not_after = _end(state, start, context)
    ended_at = None if end is None else end.at
    _add_session_anomalies(state, start, end, context, anomalies)
    state = clamp_early_starts(state, start, context.rules.tolerance, anomalies)
    state = end_with_session(state, ended_at)
    connections = render_connections(identity, state, ended_at, anomalies)
    for connection in connections:
        row = connection.row
        connection.row = msgspec.structs.replace(row, leave=_at_most(row.leave, row.left_at, ended_at, not_after))
    reported = [connection.row for connection in connections]
    end_row = (
        None
        if end is None
        else End(
            reason=end.reason or "inferred",
            vendor_reason=end.vendor_reason,
            provenance=end.provenance,
            not_after=not_after,
        )
    )
    if context.rules.room_is_person and not connections:
        connections = _owner(
            identity, state, start, (end.at, end_row) if end is not None and end_row is not None else None
        )
    streams = [
        msgspec.structs.replace(row, end=_at_most(row.end, row.ended_at, ended_at, not_after))
        for row in _streams(identity, state, connections, ended_at, anomalies)
    ]
    found = render_recordings(identity, state, ended_at, anomalies, context.rules)
    recordings = [recording.row for recording in found]
    supervisors = _supervisors(identity, state, ended_at, anomalies)
    activities = _activities(state, ended_at, anomalies)
    participants = render_participants(identity, connections)
    people = [person for person in participants if person.is_counted]
    parent = state.lifetime.value("parent")
    session = SessionRow(
        id=identity,
        source=state.source,
        vendor=state.vendor,
        room_id=state.lifetime.value("room"),
        room_name=state.lifetime.value("room_name"),
        vendor_ids={name: sorted(values) for name, values in sorted(state.ids.items())},
        state="open" if end is None else "ended",
        created_at=state.created.at if state.created else (start.at if start else None),
        started_at=None if start is None else start.at,
        ended_at=ended_at,
        duration_ms=duration_ms(None if start is None else start.at, ended_at),
        start_provenance=_start_provenance(state, start),
        end=end_row,
        participants=len(people),
        # Of somebody who was there at an unknown time, there is no presence to count.
        peak_participants=max(max_present([person.presence for person in people]), min(1, len(people))),
        participant_ms=sum(person.row.presence_ms for person in people),
        recordings=len(recordings),
        supervisors=len(supervisors),
        completeness=_completeness(state, start, end, connections, streams, recordings, anomalies),
        anomalies=sorted(set(anomalies), key=lambda a: (a.kind, a.detail, a.position or 0)),
        first_position=state.first_position,
        last_position=state.last_position,
        last_event_at=state.last_at,
        parent_id=None if parent is None else session_id(state.source, parent),
        begins_at=start.at if start else state.first_at,
    )
    return SessionRows(
        session=session,
        lookups=_lookups(state),
        participants=tuple(person.row for person in participants),
        connections=tuple(connection.row for connection in connections),
        streams=tuple(streams),
        recordings=tuple(recordings),
        supervisor_sessions=tuple(supervisors),
        gaps=gap_entries(
            session,
            reported,
            streams,
            found,
            supervisors,
            activities,
            announcements(state),
            resumed_at(state),
            last_n=state.last_n,
        ),
        state=encode_state(whole),
        next_run_after=context.next_run_after,
    )


def _owner(
    identity: str, state: SessionState, start: Claim | None, left: tuple[Micros, End] | None
) -> list[RenderedConnection]:
    """The connection of the person whose room it is."""
    room = state.lifetime.value("room")
    if not isinstance(room, str):
        return []
    provenance = _start_provenance(state, start)
    joined = (start.at, provenance) if start is not None and provenance is not None else None
    return [owner_connection(identity, room, joined, left)]


def _start_provenance(state: SessionState, start: Claim | None) -> Provenance | None:
    if start is None:
        return None
    return "reported" if start_is_reported(state) or state.created is not None else start.provenance


def _end(state: SessionState, start: Claim | None, context: RenderContext) -> tuple[Claim | None, Micros | None]:
    """The end and, of an inferred one, when the session was certainly over. (None, None) if it may still be open."""
    own = state.lifetime.end
    if own is not None and is_reopened(state, own.at):
        own = None
    if own is not None and state.lifetime.end_reported:
        return own, None
    return _inferred_end(state, start, own, context)


def _inferred_end(
    state: SessionState, start: Claim | None, own: Claim | None, context: RenderContext
) -> tuple[Claim | None, Micros | None]:
    """The earliest end that any rule infers, never before the last sign of life; (None, None) if there is none.

    A crash and a restart are shown when they happened, other inferred ends at the last sign of life.
    """
    began = start.at if start else state.first_at
    alive = max(began, state.last_life)
    ends: list[tuple[Claim, Micros | None]] = []
    following = context.next_start
    overlaps = context.rules.runs_overlap and not state.run.startswith(f"{state.lifetime.value('room')}_")
    if following is not None and not overlaps and not is_occupied(state, following):
        ends.append((_inferred(alive, "superseded"), max(following, alive)))
        if own is not None and own.at > following:
            # It was noticed only after the next run began, so it happened before.
            ends.append((msgspec.structs.replace(own, at=alive), max(following, alive)))
            own = None
    if own is not None:
        ends.append((own if own.at >= alive else msgspec.structs.replace(own, at=alive), None))
    index = bisect_right(context.restarts, state.last_at)
    if index < len(context.restarts) and began < (after := context.restarts[index]):
        ends.append((_inferred(after, "server_shutdown"), None))
    limit = context.rules.never_joined_after
    # Someone with only a stream was present too. `ViewsWriter.never_joined_sessions` applies the same rule to the rows.
    idle = not any(state.intervals.get(kind) for kind in ("connection", "stream", "subscription"))
    # Another end that is later than the limit shows that the limit passed, too: only open sessions wait for the latest moment.
    passed = max([context.latest, *map(_over_at, ends)])
    if limit is not None and idle and began + limit < passed:
        ends.append((_inferred(alive, "timeout"), max(began + limit, alive)))
    # The rule that is certain first decides.
    return min(ends, key=lambda end: (_over_at(end), end[0].reason or "")) if ends else (None, None)


def _over_at(end: tuple[Claim, Micros | None]) -> Micros:
    """When the session was certainly over."""
    return end[1] or end[0].at


def _inferred(at: Micros, reason: EndReason) -> Claim:
    return Claim(at, "inferred", "server", "", 0, 0, reason)


def _add_session_anomalies(
    state: SessionState, start: Claim | None, end: Claim | None, context: RenderContext, anomalies: list[Anomaly]
) -> None:
    def add(kind: str, detail: str, claim: Claim | None = None) -> None:
        anomalies.append(anomaly(kind, claim, detail))

    if (
        not start_is_reported(state)
        and state.created is None
        and not (context.rules.ends_only and state.lifetime.end_reported)
    ):
        add("missing_start", "the event that starts this session was not received")
    elif context.rules.starts_when_joined and not start_is_reported(state) and state.intervals.get("connection"):
        add("missing_start", "people joined, but the event that starts this session was not received", state.created)
    if resumed_at(state) is not None:
        add("late_event", "the session went on after a reported end")
    if end is not None and end.provenance == "inferred":
        add("missing_end", f"the event that ends this session was not received; end inferred ({end.reason})")
    if start is not None and end is not None and end.at < start.at:
        add("end_before_start", "the session's end lies before its start", end)
    if end is not None and end.provenance == "reported":
        last = state.last_activity
        if last is not None and last.at > end.at + LATE:
            add("late_event", "something happened after the session's reported end", last)
        if context.next_start is not None and context.next_start + context.rules.tolerance < end.at:
            add("overlap", "the next session of this room began before this one ended", end)


def _at_most(end: End | None, at: Micros | None, ended_at: Micros | None, not_after: Micros | None) -> End | None:
    """The end of something that is over because its session is: it was over when the session was, at the latest."""
    if (
        end is None
        or end.provenance != "inferred"
        or not_after is None
        or at is None
        or ended_at is None
        or at < ended_at
    ):
        return end
    return msgspec.structs.replace(end, not_after=not_after)


def _lookups(state: SessionState) -> tuple[str, ...]:
    found = {value for values in state.ids.values() for value in values}
    found.add(state.run)
    found.update(value for name in ("room", "room_name") if isinstance(value := state.lifetime.value(name), str))
    for kind in ("recording", "supervisor_session", "broadcast", "ingress"):
        found.update(str(value) for i in state.intervals.get(kind, {}).values() if (value := i.value("id")))
    return tuple(sorted(item for item in found if item))


def _close(
    interval: Interval, bound: Micros | None, what: str, anomalies: list[Anomaly], fallback: Micros | None = None
) -> tuple[Micros | None, End | None]:
    """The end of an interval: its own claim, else the end of what contains it. Adds the anomalies it finds."""
    if interval.start is not None and not interval.start_reported:
        anomalies.append(anomaly("missing_start", interval.start, f"{what}: its start was not received"))
    if interval.start is None and interval.end is not None:
        anomalies.append(anomaly("missing_start", interval.end, f"{what}: its start was not received"))
    claim = interval.final_end
    if claim is not None:
        if interval.start is not None and claim.at < interval.start.at:
            anomalies.append(anomaly("end_before_start", claim, what))
        return claim.at, End(
            reason=claim.reason or "unknown", vendor_reason=claim.vendor_reason, provenance=claim.provenance
        )
    limit = bound if fallback is None else min(fallback, bound) if bound is not None else fallback
    if limit is None:
        return None, None
    if interval.start is not None:
        limit = max(limit, interval.start.at)
    anomalies.append(anomaly("missing_end", interval.start, f"{what}: its end was not received"))
    return limit, End(reason="inferred", vendor_reason=None, provenance="inferred")


def _streams(
    identity: str,
    state: SessionState,
    connections: list[RenderedConnection],
    ended_at: Micros | None,
    anomalies: list[Anomaly],
) -> list[StreamRow]:
    person_of = {c.vendor_id: c.row.participant for c in connections}
    left_at: dict[str, Micros | None] = {}
    for connection in connections:
        left_at[connection.vendor_id] = connection.row.left_at
    rows: list[StreamRow] = []
    directions: dict[str, Literal["published", "received"]] = {"stream": "published", "subscription": "received"}
    found = [
        (kind, interval)
        for kind in directions
        for _, interval in sorted(state.intervals.get(kind, {}).items(), key=when)
    ]
    names = distinct_ids([_stream_name(kind, interval) for kind, interval in found])
    for name, (kind, interval) in zip(names, found, strict=True):
        stream = str(interval.value("stream"))
        owner = interval.value("connection")
        ended, end = _close(interval, ended_at, f"{kind} {stream}", anomalies, left_at.get(owner))
        started = interval.start.at if interval.start else None
        rows.append(
            StreamRow(
                session_id=identity,
                id=name,
                direction=directions[kind],
                stream=stream,
                participant=interval.value("identity") or person_of.get(owner) or owner,
                connection=owner,
                publisher=interval.value("publisher"),
                media=interval.value("media"),
                label=interval.value("label"),
                started_at=started,
                ended_at=ended,
                duration_ms=duration_ms(started, ended),
                start_provenance=interval.start_provenance,
                end=end,
                detail=interval.value("detail") or {},
            )
        )
    return rows


def _stream_name(kind: str, interval: Interval) -> str:
    """The vendor's id of a stream; of a subscription: who receives which stream."""
    stream = str(interval.value("stream"))
    return stream if kind == "stream" else f"{interval.value('connection')}<{stream}"


def _supervisors(
    identity: str, state: SessionState, ended_at: Micros | None, anomalies: list[Anomaly]
) -> list[SupervisorSessionRow]:
    rows: list[SupervisorSessionRow] = []
    for key, interval in sorted(state.intervals.get("supervisor_session", {}).items()):
        started = interval.start.at if interval.start else None
        end = interval.final_end
        ended = end.at if end else ended_at
        provenance = end.provenance if end else None if ended is None else "inferred"
        if provenance == "inferred":
            ended = max(ended or 0, started or 0)
            detail = f"supervisor session {key}: its end was not received"
            anomalies.append(anomaly("missing_end", interval.start, detail))
        rows.append(
            SupervisorSessionRow(
                id=key,
                supervisor_client=interval.value("supervisor_client"),
                agent_session=interval.value("agent_session"),
                agent_client=interval.value("agent_client") or state.lifetime.value("room"),
                session_id=identity,
                started_at=started,
                ended_at=ended,
                duration_ms=duration_ms(started, ended),
                start_provenance=interval.start_provenance,
                provenance=provenance or interval.start_provenance,
            )
        )
    return rows


def _activities(state: SessionState, ended_at: Micros | None, anomalies: list[Anomaly]) -> list[ActivitySpan]:
    spans: list[ActivitySpan] = []
    for kind in ("broadcast", "ingress", "transcription", "agent_job"):
        for key, interval in sorted(state.intervals.get(kind, {}).items()):
            ended, end = _close(interval, ended_at, f"{kind} {key}", anomalies)
            spans.append(
                ActivitySpan(
                    kind=kind,
                    id=key,
                    identity=interval.value("identity"),
                    started_at=interval.start.at if interval.start else None,
                    start_provenance=interval.start_provenance,
                    ended_at=ended,
                    end=end,
                )
            )
    return spans


def _completeness(
    state: SessionState, start: Claim | None, end: Claim | None, connections: list[RenderedConnection],
    streams: list[StreamRow], recordings: list[RecordingRow], anomalies: list[Anomaly],
) -> Completeness:  # fmt: skip
    if end is None:
        return "open"
    sure = (
        state.lifetime.end_reported
        and not any(anomaly.kind in {"missing_start", "missing_end"} for anomaly in anomalies)
        and _start_provenance(state, start) == "reported"
        and all(c.row.join_provenance == "reported" and c.row.leave is not None and c.row.leave.provenance == "reported" for c in connections if not c.row.aborted)
        and all(s.start_provenance == "reported" and s.end is not None and s.end.provenance == "reported" for s in streams)
        and all(r.start_provenance == "reported" and r.stop_provenance == "reported" for r in recordings)
        and all(i.start_reported and i.end_reported and i.final_end for kind in ("supervisor_session", "broadcast", "ingress", "transcription", "agent_job") for i in state.intervals.get(kind, {}).values())
    )  # fmt: skip
    return "complete" if sure else "repaired"

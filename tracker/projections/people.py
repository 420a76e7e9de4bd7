"""Presence: connections as intervals, and participants as the union of their connections. Pure.

A connection ends with its own end event, else when the same person joins again, else when its session ends.
If somebody is known only by a stream, their connection is inferred from the stream. A connection whose join was reported, or
that had a stream, was active, so an abort of it is a leave.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import msgspec

from tracker.domain.facts import Micros, Provenance
from tracker.domain.rows import Anomaly, ConnectionRow, End, ParticipantRow
from tracker.projections.claims import Claim, anomaly
from tracker.projections.ids import distinct_ids
from tracker.projections.state import Interval, SessionState, duration_ms

PERSON_KINDS = frozenset({"standard", "sip", "connector"})
"""The kinds of participant that are people. Recorders, agents, ingress feeds and cameras are not."""

Span = tuple[Micros, Micros | None]


class RenderedConnection(msgspec.Struct):
    """A connection row, and what rendering its participant needs. `vendor_id` is the vendor's connection id."""

    vendor_id: str
    kind: str
    name: str | None
    identity: str | None
    row: ConnectionRow


class Person(msgspec.Struct):
    """A participant row and the spans of its presence. `is_counted`: it is a person, and one connection became active."""

    row: ParticipantRow
    presence: list[Span]
    is_counted: bool


class _Found(msgspec.Struct):
    """A connection before its end is decided. `is_reported`: an event of its own reported it; `aborted`: it never became active."""

    vendor_id: str
    interval: Interval
    joined_at: Micros | None
    participant: str
    is_reported: bool
    aborted: bool = False


def render_connections(
    session_id: str, state: SessionState, ended_at: Micros | None, anomalies: list[Anomaly]
) -> list[RenderedConnection]:
    """All connections of a session, ordered by join."""
    streams = _streams_by_connection(state)
    reported = [(str(i.value("id")), i) for _, i in sorted(state.intervals.get("connection", {}).items())]
    known = Counter(vendor_id for vendor_id, _ in reported)
    # Where a vendor uses an id again, a stream does not show which of the connections it belongs to.
    found = [
        _reported(vendor_id, interval, streams.get(vendor_id, []) if known[vendor_id] == 1 else [])
        for vendor_id, interval in reported
    ]
    found += [
        _seen_in_streams(vendor_id, intervals, anomalies)
        for vendor_id, intervals in sorted(streams.items())
        if vendor_id not in known
    ]
    found.sort(key=lambda item: (item.joined_at or _end_at(item.interval) or 0, item.vendor_id))
    _name_people(found)
    rejoined = _rejoined(found)
    names = distinct_ids([item.vendor_id for item in found])
    return [
        _render(session_id, item, name, ended_at, rejoined.get(id(item)), anomalies)
        for item, name in zip(found, names, strict=True)
    ]


def owner_connection(
    session_id: str, room: str, joined: tuple[Micros, Provenance] | None, left: tuple[Micros, End] | None
) -> RenderedConnection:
    """The only connection of a run whose room is a person. It has the times and provenances of the run."""
    row = ConnectionRow(
        session_id=session_id,
        id=room,
        participant=room,
        joined_at=joined[0] if joined else None,
        left_at=left[0] if left else None,
        duration_ms=duration_ms(joined[0] if joined else None, left[0] if left else None),
        join_provenance=joined[1] if joined else None,
        leave=left[1] if left else None,
        aborted=False,
        platform=None,
        location=None,
        ip=None,
    )
    return RenderedConnection(vendor_id=room, kind="standard", name=None, identity=room, row=row)


def _end_at(interval: Interval) -> Micros | None:
    return interval.end.at if interval.end else None


def _streams_by_connection(state: SessionState) -> dict[str, list[Interval]]:
    """What each connection published and received."""
    found: dict[str, list[Interval]] = {}
    for kind in ("stream", "subscription"):
        for interval in state.intervals.get(kind, {}).values():
            owner = interval.value("connection")
            if isinstance(owner, str):
                found.setdefault(owner, []).append(interval)
    return found


def _name_people(found: Sequence[_Found]) -> None:
    """Give people without an identity the id of their connection, or another one if that is somebody's identity."""
    identities = {item.participant for item in found if item.interval.value("identity")}
    unnamed = sorted({item.vendor_id for item in found if not item.interval.value("identity")})
    # Those without an identity come last: a number is added to their id, never to an identity.
    names = distinct_ids([*sorted(identities), *unnamed])
    name_of = dict(zip(unnamed, names[len(identities) :], strict=True))
    for item in found:
        if not item.interval.value("identity"):
            item.participant = name_of[item.vendor_id]


def _first_sign(intervals: Sequence[Interval]) -> Claim | None:
    """The earliest sign of life in these streams."""
    starts = [claim for i in intervals if (claim := i.start or i.end) is not None]
    return min(starts, key=lambda claim: (claim.at, claim.key, claim.n), default=None)


def _reported(vendor_id: str, interval: Interval, streams: Sequence[Interval]) -> _Found:
    """A connection that an event of its own reported. Where that was not its join, a stream may show that it began earlier."""
    sign = None if interval.start_reported else _first_sign(streams)
    start, end = interval.start, interval.end
    if sign is not None and (start is None or sign.at < start.at):
        start = msgspec.structs.replace(sign, provenance="inferred", reason=None, vendor_reason=None)
    is_abort = bool(interval.value("aborted"))
    was_active = interval.start_reported or sign is not None
    if is_abort and was_active and end is not None and end.reason == "join_failed" and end.vendor_reason is None:
        # The vendor gave no reason; that of an abort does not fit a leave.
        end = msgspec.structs.replace(end, reason="unknown")
    return _Found(
        vendor_id,
        msgspec.structs.replace(interval, start=start, end=end),
        start.at if start else None,
        str(interval.value("identity") or vendor_id),
        is_reported=True,
        aborted=is_abort and not was_active,
    )


def _seen_in_streams(vendor_id: str, intervals: Sequence[Interval], anomalies: list[Anomaly]) -> _Found:
    """A connection that no event of its own reported, but streams did."""
    first = _first_sign(intervals)
    stand_in = Interval(
        start=None if first is None else msgspec.structs.replace(first, provenance="inferred", reason=None)
    )
    identities = sorted({str(v) for i in intervals if (v := i.value("identity"))})
    at, key = (first.at, first.key) if first else (0, "")
    stand_in.set_values(at, key, id=vendor_id)
    if identities:
        stand_in.set_values(at, key, identity=identities[0])
    ends = [i.final_end for i in intervals]
    if all(end is not None for end in ends):
        last = max((end for end in ends if end is not None), key=lambda claim: (claim.at, claim.key, claim.n))
        stand_in.end = msgspec.structs.replace(last, provenance="inferred", reason="inferred", vendor_reason=None)
    anomalies.append(anomaly("missing_start", first, f"participant {vendor_id}: its join was not received"))
    if stand_in.end is not None:
        anomalies.append(anomaly("missing_end", first, f"participant {vendor_id}: its leave was not received"))
    return _Found(
        vendor_id, stand_in, first.at if first else None, identities[0] if identities else vendor_id, is_reported=False
    )


def _rejoined(found: Sequence[_Found]) -> dict[int, Micros]:
    """By id() of a connection without an end: when the same person joined again."""
    by_person: dict[str, list[_Found]] = {}
    for item in found:
        if item.joined_at is not None and item.is_reported and not item.aborted:
            by_person.setdefault(item.participant, []).append(item)
    found_again: dict[int, Micros] = {}
    for items in by_person.values():
        for earlier, later in pairwise(items):
            if earlier.interval.final_end is None and later.joined_at is not None:
                found_again[id(earlier)] = later.joined_at
    return found_again


def _render(
    session_id: str,
    item: _Found,
    name: str,
    ended_at: Micros | None,
    rejoined_at: Micros | None,
    anomalies: list[Anomaly],
) -> RenderedConnection:
    interval, start, end = item.interval, item.interval.start, item.interval.final_end
    left_at, leave = _leave(item, ended_at, rejoined_at, anomalies)
    if item.is_reported and not interval.start_reported and not item.aborted:
        anomalies.append(
            anomaly("missing_start", start or end, f"participant {item.vendor_id}: its join was not received")
        )
    if start is not None and end is not None and end.at < start.at:
        anomalies.append(anomaly("end_before_start", end, f"participant {item.vendor_id}"))
    row = ConnectionRow(
        session_id=session_id,
        id=name,
        participant=item.participant,
        joined_at=item.joined_at,
        left_at=left_at,
        duration_ms=duration_ms(item.joined_at, left_at),
        join_provenance=interval.start_provenance,
        leave=leave,
        aborted=item.aborted,
        platform=interval.value("platform"),
        location=interval.value("location"),
        ip=interval.value("ip"),
    )
    return RenderedConnection(
        vendor_id=item.vendor_id,
        kind=interval.value("person") or "standard",
        name=interval.value("name"),
        identity=interval.value("identity"),
        row=row,
    )


def _leave(
    item: _Found, ended_at: Micros | None, rejoined_at: Micros | None, anomalies: list[Anomaly]
) -> tuple[Micros | None, End | None]:
    end = item.interval.final_end
    if end is not None:
        return end.at, End(reason=end.reason or "unknown", vendor_reason=end.vendor_reason, provenance=end.provenance)
    bounds = [bound for bound in (rejoined_at, ended_at) if bound is not None]
    if not bounds:
        return None, None
    detail = f"participant {item.vendor_id}: its leave was not received"
    anomalies.append(anomaly("missing_end", item.interval.start, detail))
    reason = "replaced" if rejoined_at is not None and rejoined_at == min(bounds) else "inferred"
    return max(min(bounds), item.joined_at or 0), End(reason=reason, vendor_reason=None, provenance="inferred")


def render_participants(session_id: str, connections: Sequence[RenderedConnection]) -> list[Person]:
    """The participants behind the connections, ordered by first join."""
    by_person: dict[str, list[RenderedConnection]] = {}
    for connection in connections:
        by_person.setdefault(connection.row.participant, []).append(connection)
    people: list[Person] = []
    for participant, theirs in by_person.items():
        real = [c for c in theirs if not c.row.aborted]
        spans = merge_spans([span for c in real if (span := presence_of(c.row)) is not None])
        # Somebody who never became active was there at no time: what is shown is the attempt.
        shown = real or theirs
        left = [c.row.left_at for c in shown]
        kind = next((c.kind for c in theirs if c.kind != "standard"), "standard")
        row = ParticipantRow(
            session_id=session_id,
            id=participant,
            identity=next((c.identity for c in theirs if c.identity), participant),
            name=next((c.name for c in reversed(theirs) if c.name), None),
            kind=kind,
            connections=len(real),
            first_joined_at=min((c.row.joined_at for c in shown if c.row.joined_at is not None), default=None),
            last_left_at=None if any(at is None for at in left) else max(at for at in left if at is not None),
            presence_ms=sum((end - start) // 1000 for start, end in spans if end is not None),
        )
        people.append(Person(row, spans, is_counted=kind in PERSON_KINDS and bool(real)))
    people.sort(key=lambda person: (person.row.first_joined_at or 0, person.row.id))
    return people


def presence_of(row: ConnectionRow) -> Span | None:
    """When somebody was there: from the join to the leave. Without a known join, nobody is known to have met them."""
    if row.aborted or row.joined_at is None:
        return None
    return row.joined_at, None if row.left_at is None else max(row.joined_at, row.left_at)


def merge_spans(spans: Sequence[Span]) -> list[Span]:
    """Overlapping spans merged, in order. A span without an end (None) swallows all later ones."""
    joined: list[Span] = []
    for start, end in sorted(spans, key=lambda span: span[0]):
        if joined and (joined[-1][1] is None or start <= joined[-1][1]):
            last_start, last_end = joined[-1]
            joined[-1] = (last_start, None if last_end is None or end is None else max(last_end, end))
        else:
            joined.append((start, end))
    return joined


def max_present(presences: Sequence[Sequence[Span]]) -> int:
    """The largest number of people present at one moment.

    Someone who leaves at a moment does not meet someone who joins then. Someone who left in the moment they joined was there.
    """
    steps: list[tuple[Micros, int, int]] = []
    for spans in presences:
        for start, end in spans:
            steps.append((start, 1, 1))
            if end is not None:
                # Of one moment: ends of earlier spans, then starts, then ends of spans that began just then.
                steps.append((end, 0 if end > start else 2, -1))
    highest = present = 0
    for _, _, step in sorted(steps):
        present += step
        highest = max(highest, present)
    return highest

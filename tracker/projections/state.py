"""The folded state of one session: bounded by its people, streams and recordings, never by the number of events.

    SessionState
    ├── created, lifetime     claims about the run itself; the room's id and name
    ├── intervals             (type, key) → Interval: connections, streams, subscriptions, recordings, activities
    ├── ids                   vendor ids that find the session
    └── anomalies             the first `MAX_ANOMALIES` in a fixed order

Every part is a join-semilattice: folding the same facts in any order, and any number of times, gives the same state.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tracker.domain.facts import Micros, Provenance
from tracker.projections.claims import Claim, stronger_end, stronger_start

MAX_ANOMALIES = 100
"""Anomalies a session holds."""
NO_CONTENT = -1
"""See `SessionState.failed`."""
MAX_IDS = 200
"""Values a session holds of each vendor id."""


class Value(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A value of a property, with the time and the dedupe key of the statement."""

    at: Micros
    key: str
    value: Any


class Interval(msgspec.Struct, array_like=True):
    """Something with a start and an end. `start_reported`, `end_reported`: an event of its own reported it."""

    start: Claim | None = None
    end: Claim | None = None
    start_reported: bool = False
    end_reported: bool = False
    values: dict[str, Value] = {}
    statuses: dict[str, Claim] = {}
    """Of a recording: the earliest claim of each status, by the sender's clock if there is one."""
    first_start: Micros | None = None
    """The earliest start that any event states, by the sender's clock."""
    last_start: Micros | None = None
    """The latest start that an event of its own reported, by the sender's clock."""

    def claim_start(self, claim: Claim) -> None:
        """Add a start claim."""
        self.start = stronger_start(self.start, claim)
        is_reported = claim.provenance == "reported"
        if is_reported:
            self.start_reported = True
        if claim.clock == "server":
            self._note_start(claim.at, claim.at if is_reported else None)

    def claim_end(self, claim: Claim) -> None:
        """Add an end claim."""
        self.end = stronger_end(self.end, claim)
        if claim.provenance == "reported":
            self.end_reported = True

    def set_values(self, at: Micros, key: str, **new: object) -> None:
        """Add statements about properties; None states nothing."""
        values = self.values
        get = values.get
        for name, value in new.items():
            if value is not None:
                held = get(name)
                # The latest statement holds; of those at the same moment, the one with the smaller key.
                if held is None or (at >= held.at and (at > held.at or key < held.key)):
                    values[name] = Value(at, key, value)

    def merge(self, other: Interval) -> None:
        """Add all claims and statements of another interval."""
        self.start = self.start if other.start is None else stronger_start(self.start, other.start)
        self.end = self.end if other.end is None else stronger_end(self.end, other.end)
        self.start_reported |= other.start_reported
        self.end_reported |= other.end_reported
        for name, value in other.values.items():
            self.set_values(value.at, value.key, **{name: value.value})
        for name, claim in other.statuses.items():
            self.set_status(name, claim)
        self._note_start(other.first_start, other.last_start)

    def _note_start(self, first: Micros | None, last: Micros | None) -> None:
        if first is not None and (self.first_start is None or first < self.first_start):
            self.first_start = first
        if last is not None and (self.last_start is None or last > self.last_start):
            self.last_start = last

    def set_status(self, name: str, claim: Claim) -> None:
        """Add a claim of a status."""
        self.statuses[name] = stronger_start(self.statuses.get(name), claim)

    def value(self, name: str) -> Any:
        """The value of a property, or None."""
        held = self.values.get(name)
        return None if held is None else held.value

    @property
    def final_end(self) -> Claim | None:
        """The end; None where the same thing started again after it, so that it is running."""
        if self.end is None or self.first_start is None or self.last_start is None:
            return self.end
        # A single start that is later than the end is a wrong clock, not another start.
        return None if self.last_start > self.end.at and self.last_start > self.first_start else self.end

    @property
    def start_provenance(self) -> Provenance | None:
        """How the start is known; None without one."""
        return None if self.start is None else "reported" if self.start_reported else self.start.provenance

    @property
    def first_claim(self) -> Claim | None:
        """The start, else the end, else a status: what places the interval among others."""
        return self.start or self.end or next(iter(self.statuses.values()), None)


def when(item: tuple[str, Interval]) -> tuple[Micros, str]:
    """The order of (key, interval): by the time that is known of each, then by key."""
    claim = item[1].first_claim
    return claim.at if claim else 0, item[0]


def duration_ms(start: Micros | None, end: Micros | None) -> int | None:
    """The whole milliseconds between two times; 0 where the end is before the start, None where one is unknown."""
    return None if start is None or end is None else max(0, (end - start) // 1000)


class SessionState(msgspec.Struct, array_like=True):
    """What the facts of one run add up to."""

    source: str
    vendor: str
    run: str
    lifetime: Interval = msgspec.field(default_factory=Interval)
    """The run itself. Its values are the room's id and name."""
    created: Claim | None = None
    intervals: dict[str, dict[str, Interval]] = {}
    ids: dict[str, set[str]] = {}
    anomalies: list[tuple[str, str, str, int]] = []
    """(kind, detail, key, position) in order, at most `MAX_ANOMALIES`."""
    first_position: int = 0
    last_position: int = 0
    first_at: Micros = 0
    last_at: Micros = 0
    last_n: int = 0
    """The `n` of this session's first fact of the record at `last_position`."""
    failed: tuple[int, int, str] | None = None
    """(position, n, why) of the first fact that could not be folded. The session is set aside.

    With `NO_CONTENT` as position: the state itself could not be stored, and only its positions and times were.
    """
    last_activity: Claim | None = None
    """The latest fact about a connection or a stream: it may be later than the reported end."""
    last_life: Micros = 0
    """The latest sign of life by a server's clock: an inferred end is never earlier."""
    first_end: Micros | None = None
    """The earliest reported end: a start after it reopened the session."""
    servers: set[str] = set()
    """The servers whose log files reported the session; see `projections/restarts`."""

    def interval(self, kind: str, key: str) -> Interval:
        """The interval with this type and key; a new one if there is none."""
        of_kind = self.intervals.get(kind)
        if of_kind is None:
            of_kind = self.intervals[kind] = {}
        found = of_kind.get(key)
        if found is None:
            found = of_kind[key] = Interval()
        return found

    def merge(self, other: SessionState) -> None:
        """Add everything of another state of the same session."""
        self.lifetime.merge(other.lifetime)
        for kind, intervals in other.intervals.items():
            for key, interval in intervals.items():
                self.interval(kind, key).merge(interval)
        for name, values in other.ids.items():
            self.ids[name] = set(sorted(self.ids.get(name, set()) | values)[:MAX_IDS])
        for anomaly in other.anomalies:
            self.add_anomaly(*anomaly)
        if other.failed is not None:
            self.mark_failed(*other.failed)
        self.created = min((c for c in (self.created, other.created) if c), key=_earliest, default=None)
        self.last_activity = min((c for c in (self.last_activity, other.last_activity) if c), key=_latest, default=None)
        self.last_life = max(self.last_life, other.last_life)
        self.servers |= other.servers
        self.first_end = min((at for at in (self.first_end, other.first_end) if at is not None), default=None)
        if other.first_position and (not self.first_position or other.first_position < self.first_position):
            self.first_position, self.vendor = other.first_position, other.vendor
        self.last_position, minus_n = max((self.last_position, -self.last_n), (other.last_position, -other.last_n))
        self.last_n = -minus_n
        self.first_at = min(self.first_at or other.first_at, other.first_at or self.first_at)
        self.last_at = max(self.last_at, other.last_at)

    def mark_failed(self, position: int, n: int, why: str) -> None:
        """A fact could not be folded."""
        failed = (position, n, why)
        self.failed = failed if self.failed is None else min(self.failed, failed)

    def without_content(self, why: str) -> SessionState:
        """The same session with nothing but its positions and times, marked as failed."""
        return SessionState(
            self.source, self.vendor, self.run, first_position=self.first_position, last_position=self.last_position,
            first_at=self.first_at, last_at=self.last_at, failed=(NO_CONTENT, 0, why),
        )  # fmt: skip

    def add_anomaly(self, kind: str, detail: str, key: str, position: int) -> None:
        """Add an anomaly. The smallest `MAX_ANOMALIES` remain, in whatever order they arrive."""
        anomaly = (kind, detail, key, position)
        if any(held[:3] == anomaly[:3] for held in self.anomalies):
            return
        self.anomalies.append(anomaly)
        self.anomalies.sort(key=lambda held: held[:3])
        del self.anomalies[MAX_ANOMALIES:]


def _earliest(claim: Claim) -> tuple[Micros, str, int]:
    return claim.at, claim.key, claim.n


def _latest(claim: Claim) -> tuple[Micros, str]:
    return -claim.at, claim.key


encode_state = msgspec.msgpack.Encoder().encode
"""The state as bytes, as the views store it."""

decode_state = msgspec.msgpack.Decoder(SessionState).decode
"""The inverse of `encode_state`."""

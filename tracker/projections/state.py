"""The folded state of one session: bounded by its people, streams and recordings, never by the number of events.

    SessionState
    ├── created, started, ended     claims on the run itself
    ├── intervals                   (type, key) → Interval: connections, streams, subscriptions, recordings, activities
    ├── values                      what the room is called, …: the latest statement holds
    └── anomalies                   the first `ANOMALIES_KEPT` in a fixed order

Every part is a join-semilattice, so `fold` over any permutation and repetition of the same facts gives the same state.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tracker.domain.facts import Micros
from tracker.projections.claims import Claim, stronger_end, stronger_start

MAX_ANOMALIES = 100
MAX_IDS = 200


class Value(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A statement about a property, ordered by when it was said."""

    at: Micros
    key: str
    value: Any


class Interval(msgspec.Struct, array_like=True):
    """One thing with a beginning and an end. `began` / `closed`: an event of its own reported that end."""

    start: Claim | None = None
    end: Claim | None = None
    start_reported: bool = False
    end_reported: bool = False
    values: dict[str, Value] = {}
    statuses: dict[str, Claim] = {}
    """Statuses of a recording: of each the earliest claim by the sender's clock, else by ours."""

    def claim_start(self, claim: Claim) -> None:
        """Take a start claim in."""
        self.start = stronger_start(self.start, claim)
        if claim.provenance == "reported":
            self.start_reported = True

    def claim_end(self, claim: Claim) -> None:
        """Take an end claim in."""
        self.end = stronger_end(self.end, claim)
        if claim.provenance == "reported":
            self.end_reported = True

    def set_value(self, name: str, value: object, at: Micros, key: str) -> None:
        """Take a property in; None says nothing."""
        if value is not None:
            held = self.values.get(name)
            # The latest statement; of one moment that with the smaller key.
            if held is None or at > held.at or (at == held.at and key < held.key):
                self.values[name] = Value(at, key, value)

    def set_values(self, at: Micros, key: str, **said: object) -> None:
        """Take several properties in; those that are None say nothing."""
        values = self.values
        for name, value in said.items():
            if value is not None:
                held = values.get(name)
                if held is None or at > held.at or (at == held.at and key < held.key):
                    values[name] = Value(at, key, value)

    def merge(self, other: Interval) -> None:
        """Take everything in that another one took in."""
        self.start = self.start if other.start is None else stronger_start(self.start, other.start)
        self.end = self.end if other.end is None else stronger_end(self.end, other.end)
        self.start_reported, self.end_reported = (
            self.start_reported or other.start_reported,
            self.end_reported or other.end_reported,
        )
        for name, value in other.values.items():
            self.set_value(name, value.value, value.at, value.key)
        for name, claim in other.statuses.items():
            self.set_status(name, claim)

    def set_status(self, name: str, claim: Claim) -> None:
        """Take a status in."""
        self.statuses[name] = stronger_start(self.statuses.get(name), claim)

    def value(self, name: str) -> Any:
        """The property, or None."""
        held = self.values.get(name)
        return None if held is None else held.value


class SessionState(msgspec.Struct, array_like=True):
    """Everything the facts of one run add up to."""

    source: str
    vendor: str
    run: str
    lifetime: Interval = msgspec.field(default_factory=Interval)
    """The run itself; `values` hold room id and name."""
    created: Claim | None = None
    intervals: dict[str, dict[str, Interval]] = {}
    ids: dict[str, set[str]] = {}
    anomalies: list[tuple[str, str, str, int]] = []
    """(kind, detail, key, position) in order, at most `ANOMALIES_KEPT`."""
    first_position: int = 0
    last_position: int = 0
    first_at: Micros = 0
    last_at: Micros = 0
    last_activity: Claim | None = None
    """The latest sign of a person, to notice what comes after the end."""

    def interval(self, kind: str, key: str) -> Interval:
        """The interval of that type and key, made when new."""
        of_kind = self.intervals.get(kind)
        if of_kind is None:
            of_kind = self.intervals[kind] = {}
        found = of_kind.get(key)
        if found is None:
            found = of_kind[key] = Interval()
        return found

    def merge(self, other: SessionState) -> None:
        """Take everything in that another state of the same session took in."""
        self.lifetime.merge(other.lifetime)
        for kind, intervals in other.intervals.items():
            for key, interval in intervals.items():
                self.interval(kind, key).merge(interval)
        for name, values in other.ids.items():
            self.ids[name] = set(sorted(self.ids.get(name, set()) | values)[:MAX_IDS])
        for anomaly in other.anomalies:
            self.add_anomaly(*anomaly)
        self.created = min((c for c in (self.created, other.created) if c), key=_earliest, default=None)
        self.last_activity = min((c for c in (self.last_activity, other.last_activity) if c), key=_latest, default=None)
        self.first_position = min(
            self.first_position or other.first_position, other.first_position or self.first_position
        )
        self.last_position = max(self.last_position, other.last_position)
        self.first_at = min(self.first_at or other.first_at, other.first_at or self.first_at)
        self.last_at = max(self.last_at, other.last_at)

    def add_anomaly(self, kind: str, detail: str, key: str, position: int) -> None:
        """Keep an anomaly: the smallest `ANOMALIES_KEPT` survive, whatever the order of arrival."""
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
"""The state as the views keep it."""

decode_state = msgspec.msgpack.Decoder(SessionState).decode
"""The state the views kept."""

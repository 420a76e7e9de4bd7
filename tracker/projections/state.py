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

from tracker.facts import Micros
from tracker.projections.claims import Claim, better_end, better_start

ANOMALIES_KEPT = 100
IDS_KEPT = 200


class Value(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A statement about a property, ordered by when it was said."""

    at: Micros
    key: str
    value: Any


class Interval(msgspec.Struct, array_like=True):
    """One thing with a beginning and an end. `began` / `closed`: an event of its own reported that end."""

    start: Claim | None = None
    end: Claim | None = None
    began: bool = False
    closed: bool = False
    values: dict[str, Value] = {}
    marks: dict[str, Claim] = {}
    """Statuses of a recording: of each the earliest claim by the sender's clock, else by ours."""

    def claim_start(self, claim: Claim) -> None:
        """Take a start claim in."""
        self.start = better_start(self.start, claim)
        if claim.provenance == "reported":
            self.began = True

    def claim_end(self, claim: Claim) -> None:
        """Take an end claim in."""
        self.end = better_end(self.end, claim)
        if claim.provenance == "reported":
            self.closed = True

    def say(self, name: str, value: object, at: Micros, key: str) -> None:
        """Take a property in; None says nothing."""
        if value is not None:
            held = self.values.get(name)
            # The latest statement; of one moment that with the smaller key.
            if held is None or at > held.at or (at == held.at and key < held.key):
                self.values[name] = Value(at, key, value)

    def tell(self, at: Micros, key: str, **said: object) -> None:
        """Take several properties in; those that are None say nothing."""
        values = self.values
        for name, value in said.items():
            if value is not None:
                held = values.get(name)
                if held is None or at > held.at or (at == held.at and key < held.key):
                    values[name] = Value(at, key, value)

    def mark(self, name: str, claim: Claim) -> None:
        """Take a status in."""
        self.marks[name] = better_start(self.marks.get(name), claim)

    def value(self, name: str) -> Any:
        """The property, or None."""
        held = self.values.get(name)
        return None if held is None else held.value


class SessionState(msgspec.Struct, array_like=True):
    """Everything the facts of one run add up to."""

    source: str
    vendor: str
    run: str
    room: Interval = msgspec.field(default_factory=Interval)
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
    last_people: Claim | None = None
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

    def notice(self, kind: str, detail: str, key: str, position: int) -> None:
        """Keep an anomaly: the smallest `ANOMALIES_KEPT` survive, whatever the order of arrival."""
        anomaly = (kind, detail, key, position)
        if any(held[:3] == anomaly[:3] for held in self.anomalies):
            return
        self.anomalies.append(anomaly)
        self.anomalies.sort(key=lambda held: held[:3])
        del self.anomalies[ANOMALIES_KEPT:]


encode_state = msgspec.msgpack.Encoder().encode
"""The state as the views keep it."""

decode_state = msgspec.msgpack.Decoder(SessionState).decode
"""The state the views kept."""

"""A declaration: how the deliveries of a vendor are proved, and what its events mean. Read from TOML by `reading`.

A declaration is data: it holds no code and no regular expressions, and every step it causes is bounded by its own length
and that of the body. It holds no secrets. The reference of its keys is docs/reference/vendors/declared.md.
"""

from __future__ import annotations

import functools
from typing import Literal, get_args

import msgspec

from tracker.domain import facts
from tracker.domain.facts import EndReason, Micros
from tracker.sources.declared.paths import First, Part, Path

ProofKind = Literal["hmac", "digest", "rsa", "jwt", "standard", "header", "url"]
HashName = Literal["sha1", "sha256", "sha384", "sha512"]
Encoding = Literal["hex", "base64"]
KeyForm = Literal["utf8", "base64", "hex"]
Unit = Literal["s", "ms", "us", "ns", "iso", "auto"]
Dedupe = Literal["id", "body"]
Format = Literal["json", "form"]

UNITS: dict[Unit, int] = {"s": 1_000_000, "ms": 1_000, "us": 1}
"""µs in one of them; the others are read differently."""

FACTS: dict[str, type[facts.Fact]] = {
    str(leaf.__struct_config__.tag): leaf
    for leaf in get_args(facts.AnyFact)
    if not issubclass(leaf, facts.SupervisorFact) and str(leaf.__struct_config__.tag) not in {"unknown", "test"}
}
"""What an event can mean, by its timeline kind."""


@functools.cache
def required_fields(fact: type[facts.Fact]) -> tuple[str, ...]:
    """The fields that a fact cannot be made without, besides its time. Looking them up compiles every annotation."""
    return tuple(field.name for field in msgspec.structs.fields(fact) if field.required and field.name != "at")


TEXTS = frozenset({
    "connection", "identity", "name", "platform", "location", "ip", "stream", "media", "label", "publisher", "recording",
    "status", "mode", "url", "activity", "vendor_reason", "subject_type", "subject_id", "actor",
})  # fmt: skip
TIMES = frozenset({"started_at", "stopped_at", "joined_at", "left_at", "ended_at", "first_frame_at"})
NUMBERS = frozenset({"size_bytes", "http_status"})
DURATIONS = frozenset({"duration_ms"})
SWITCHES = frozenset({"reuses_id", "keyed_by_join", "keyed_by_start", "nameless"})
PLACES = frozenset({"room", "room_name", "run", "parent"})
"""Which session an event belongs to."""
PEOPLE = frozenset(
    {"standard", "sip", "connector", "ingress", "egress", "agent", "bridge", "hidden", "recorder", "ipcam"}
)
"""Kinds of participants; only the first three are people."""
REASONS = frozenset(get_args(EndReason))
OPEN = "@open"
"""In place of `run`: the run of the room that is open at the time of the event."""


class When(msgspec.Struct, frozen=True):
    """A condition: the text at `path` is one of `values`, or with `negated` none of them."""

    path: First
    values: frozenset[str]
    negated: bool = False


class Moment(msgspec.Struct, frozen=True):
    """Where a time or a duration is, and in which unit."""

    path: First
    unit: Unit


class Template(msgspec.Struct, frozen=True):
    """What is signed: texts, and what stands for a part of the delivery, like ("body",) or ("header", "x-time")."""

    pieces: tuple[str | tuple[str, ...], ...]


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """How a delivery is proved. `kind` says which of the others are used."""

    kind: ProofKind
    header: str = ""
    """The header with the signature, the token or the secret; lower case."""
    prefix: str = ""
    """What stands before it."""
    pairs: str = ""
    """The header is `t=…,v1=…`, and this is the name of the signatures in it."""
    message: Template = Template(())
    hash: HashName = "sha256"
    encoding: Encoding = "hex"
    key: KeyForm = "utf8"
    time: tuple[str, ...] = ()
    """The piece that holds the time of the signature; () where none is signed."""
    time_unit: Unit = "s"
    tolerance: Micros = 300_000_000
    binds_body: bool = True
    claim: str = ""
    """The claim of a token that holds the hash of the body."""
    header_prefix: str = "webhook"
    """`webhook` in the names of the headers of Standard Webhooks."""

    @property
    def recorded_headers(self) -> frozenset[str]:
        """The headers that the recorded proof holds: none that could be used again for another body."""
        if self.kind == "standard":
            return frozenset(f"{self.header_prefix}-{name}" for name in ("id", "timestamp", "signature"))
        if self.kind in {"header", "url"} or not self.binds_body:
            return frozenset()
        pieces = [piece for piece in (*self.message.pieces, self.time) if isinstance(piece, tuple)]
        return frozenset({self.header, *(piece[1] for piece in pieces if piece[:1] == ("header",))})


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What one kind of event means: one `[[on]]`. `texts`, `moments`, `numbers` are the fields of the fact, by name."""

    events: frozenset[str]
    when: tuple[When, ...] = ()
    fact: str
    times: tuple[Moment, ...] = ()
    """Before those of the declaration."""
    texts: dict[str, First] = {}
    moments: dict[str, Moment] = {}
    numbers: dict[str, Moment | First] = {}
    switches: dict[str, bool] = {}
    places: dict[str, First] = {}
    person: First | None = None
    reason: First | None = None


class Challenge(msgspec.Struct, frozen=True):
    """A question that is answered and not recorded: the answer holds the `token` of the question, and its HMAC."""

    event: str
    token: First
    answer: dict[str, str]


class Declaration(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One whole declaration. What follows from its fields is computed once: every event needs it."""

    title: str
    first_steps: str
    proof: Proof
    format: Format = "json"
    unwrap: str = ""
    """The field of a form that holds the JSON of the event."""
    each: tuple[Part, ...] | None = None
    """Where the body has a list of events."""
    name: First
    id: First | None = None
    dedupe: Dedupe = "body"
    times: tuple[Moment, ...] = ()
    detail: Path | None = None
    """The object whose fields are shown; None: the whole event."""
    notes: frozenset[str] = frozenset()
    """Known events without a meaning of their own."""
    reasons: dict[str, str] = {}
    """The vendor's words for why something ended, and Tracker's."""
    people: dict[str, str] = {}
    """The vendor's words for kinds of participants, and Tracker's."""
    readings: tuple[Reading, ...] = ()
    challenge: Challenge | None = None
    redact: tuple[tuple[Part, ...], ...] = ()

    @functools.cached_property
    def names(self) -> frozenset[str]:
        """The names of all events that the declaration knows."""
        return self.notes.union(*(reading.events for reading in self.readings))

    @functools.cached_property
    def used(self) -> frozenset[tuple[Part, ...]]:
        """The parts of every path that is read."""
        firsts: list[First] = [self.name]
        firsts += [self.id] if self.id is not None else []
        firsts += [moment.path for moment in self.times]
        for reading in self.readings:
            firsts += [when.path for when in reading.when]
            firsts += [moment.path for moment in (*reading.times, *reading.moments.values())]
            firsts += [number.path if isinstance(number, Moment) else number for number in reading.numbers.values()]
            firsts += [*reading.texts.values(), *reading.places.values()]
            firsts += [first for first in (reading.person, reading.reason) if first is not None]
        if self.challenge is not None:
            firsts.append(self.challenge.token)
        return frozenset(path.parts for first in firsts for path in first.paths if path.parts)

    @functools.cached_property
    def not_shown(self) -> frozenset[tuple[Part, ...]]:
        """What is left out of the detail, by its path below `detail`: what is read already, and what is redacted."""
        root = () if self.detail is None else self.detail.parts
        return frozenset(parts[len(root) :] for parts in (*self.used, *self.redact) if parts[: len(root)] == root)

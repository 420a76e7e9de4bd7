"""What a vendor provides: one `Vendor` object that proves its deliveries, names them, and reads what they mean.

Everything here is pure: no I/O and no clock. A vendor is one folder, `sources/<vendor>/`:

    vendor.py        `VENDOR`, the object that `sources/registry.py` finds
    source.py        a `Source`: built from a `SourceSettings`, it proves and names deliveries
    events.py        `interpret(record) -> facts`: the same for every configured source of that vendor
    sample_call.py   one whole signed call, for `tracker demo` and the tests
    *.zdict          the dictionaries that compress its encrypted records
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import msgspec

from tracker.domain.deliveries import Delivery, Record, Verified
from tracker.domain.facts import Fact, RunRules
from tracker.sources.sample_calls import SampleCall

Interpret = Callable[[Record], tuple[Fact, ...]]
"""Reads what a record means. Never raises: what cannot be read becomes an `Unknown` fact with an anomaly."""

SecretsKey = Literal["secrets", "keys"]

Where = Literal["own log", "log", "lines"]
"""Where an import found a JSON object: in a log of the vendor's own events, in another log, or alone on its line."""

LOG_FIELDS = frozenset({"level", "severity", "logger", "logger_name", "loggerName", "thread"})
"""Fields of an application's log line in JSON. No event has one of them."""

WhyNoEvent = Callable[[Mapping[str, Any], Where], str | None]
"""Why a JSON object is no event of the vendor ("it names no event"); None if it is one.

The test is strict, because the log is for ever: the vendor's envelope with a known name, or with the fields that every
event has. In the vendor's own log an unknown event is one, too.
"""


class SourceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The secrets and options of one `[[sources]]` table, already read from environment and files.

    `secrets` holds several secrets during a rotation; `keys` maps an issuer to its secret. A vendor uses one of the two.
    The options that only some vendors have (`Vendor.accepts`):

    `header`                   the header that carries the secret
    `hook_url`                 the public address of this source's hook, exactly as it was registered at the sender
    `accept_unbound_checksum`  whether a checksum is accepted that does not cover the body
    `declaration`              the text of the source's declaration

    `repr` hides secrets.
    """

    name: str
    vendor: str
    secrets: tuple[str, ...] = ()
    keys: dict[str, str] = {}
    header: str = "Authorization"
    hook_url: str = ""
    accept_unbound_checksum: bool = False
    declaration: str = ""

    def __repr__(self) -> str:
        return f"SourceSettings({self.name!r}, {self.vendor!r}, …)"


class Source(Protocol):
    """One configured sender."""

    name: str
    vendor: str
    rejected_status: int
    """The HTTP status for a delivery that is not authentic: 401, or 403 where the sender takes 401 for delivered."""

    def verify(self, delivery: Delivery) -> Verified:
        """Prove that the delivery is authentic, from its raw bytes at `delivery.received_at`; add event name and dedupe key.

        Raises a `DeliveryRejected` leaf (SignatureMissing, SignatureMismatch, SignatureStale, KeyUnknown); such a delivery
        must not be recorded. An authentic body that cannot be parsed is returned all the same.
        Raises `ChallengeReceived` for an authentic question of the vendor that is answered instead of recorded.
        """
        ...

    def verify_trusted(self, body: bytes, *, received_at: int, proof: dict[str, str | int]) -> Verified:
        """Name a body from a file that the operator trusts. Event name and dedupe key are those of `verify`.

        `received_at` in µs; `proof` is recorded as passed. Never raises.
        """
        ...


class LogFiles(msgspec.Struct, frozen=True, kw_only=True):
    """How a vendor's server writes its events into log files, for `tracker import`."""

    name: re.Pattern[str]
    """Matches the file's name; its group `date` is the day, its group `run` the time the server process started."""
    logger: re.Pattern[bytes]
    """Matches the name of the logger that writes events, in the prefix of a line."""


class Vendor(msgspec.Struct, frozen=True, kw_only=True):
    """All that Tracker knows of one vendor."""

    name: str
    """What `vendor` is in config.toml and in records."""
    title: str
    """What people call it."""
    build: Callable[[SourceSettings], Source]
    interpret: Interpret
    rules: RunRules
    """How its runs of a room are distinguished."""
    needs: SecretsKey
    """What it proves deliveries with: a list of secrets, or secrets by issuer."""
    least_secret: int = 0
    """How many random characters a secret needs that Tracker's operator invents; a shorter one is refused. 0: the vendor's
    server makes the secret, and a weak one only gives a warning."""
    known_secrets: frozenset[str] = frozenset()
    """Secrets from the vendor's examples and default configurations: everybody knows them."""
    accepts: frozenset[str] = frozenset()
    """The options of `SourceSettings` that its sources have, like "header"."""
    requires: frozenset[str] = frozenset()
    """Those of them that a source cannot do without."""
    signs_body: bool = False
    """Whether the proof covers the bytes of the body."""
    first_steps: str
    """What to set up at the sender, for a source that never received anything."""
    dictionary: int = 0
    """The number of the shipped zstd dictionary for its encrypted records; 0: none."""
    headers_from_proof: Callable[[Mapping[str, Any]], dict[str, str] | None] = lambda _: None
    """The headers that proved a delivery, from the recorded proof; None where the proof does not hold them."""
    query_from_proof: Callable[[Mapping[str, Any]], dict[str, str]] = lambda _: {}
    """The query that proved a delivery, from the recorded proof."""
    why_no_event: WhyNoEvent = lambda _fields, _where: None
    """What `tracker import` recognises an event by."""
    form_event: Callable[[bytes], Mapping[str, Any] | None] = lambda _: None
    """The first event in a body that is a form and no JSON, for an import; None where there is none."""
    former_keys: Callable[[bytes], tuple[str, ...]] = lambda _: ()
    """The dedupe keys that earlier versions of Tracker gave to a body: their logs are still right."""
    import_hints: tuple[str, ...] = ()
    """Fields of a recorded proof that say which run a body belongs to; an import of exported records preserves them."""
    log_files: LogFiles | None = None
    room_state: Callable[[Mapping[str, Any] | None], str] | None = None
    """What the vendor calls the state of a session's room: from the detail of the session's end, None while it is open."""
    sample: SampleCall | None = None

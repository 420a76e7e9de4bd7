"""A declared source: proves deliveries as its declaration says, names them, and answers challenges."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, cast

import msgspec

from tracker.domain.deliveries import ChallengeReceived, Delivery, Origin, Verified
from tracker.domain.facts import Micros
from tracker.errors import SignatureMismatch
from tracker.sources.contract import SourceSettings, Vendor, Where
from tracker.sources.declared import proofs
from tracker.sources.declared.bodies import events_in
from tracker.sources.declared.declaration import Declaration
from tracker.sources.declared.moments import parse_moment
from tracker.sources.declared.paths import Event, step, word
from tracker.sources.declared.reading import read_declaration
from tracker.sources.json_reading import BodyUnreadable, event_name
from tracker.sources.webhook_source import encode_proof

SCHEME = "declared-"
_HEADER, _QUERY = "header.", "query."
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
"""What a challenge may ask us to sign: nothing that could be part of a delivery, or we would sign forged ones."""
_LONGEST_ID = 200


class DeclaredSource:
    """One configured sender; `settings.declaration` is the text of its declaration."""

    rejected_status = 401

    def __init__(self, settings: SourceSettings) -> None:
        self.name = settings.name
        self.vendor = settings.vendor
        self.declaration = read_declaration(settings.declaration)
        self._settings = settings
        self._secrets = settings.secrets
        self._hook_url = settings.hook_url

    def __repr__(self) -> str:
        return f"DeclaredSource({self.name!r})"

    def under(self, declaration: str) -> DeclaredSource:
        """The same source with another declaration. Raises `ValueError` where it has mistakes."""
        return DeclaredSource(msgspec.structs.replace(self._settings, declaration=declaration))

    def wrong_settings(self) -> str | None:
        """What of the settings does not fit the declaration, and what to write; None if everything fits."""
        proof = self.declaration.proof
        signs_address = any(isinstance(piece, tuple) and piece[0] == "url" for piece in proof.message.pieces)
        if signs_address and not self._hook_url:
            return "hook_url: missing; this sender signs the address of the hook: write it exactly as it is registered there"
        for secret in self._secrets if proof.kind == "hmac" else ():
            try:
                proofs.key_bytes(secret, proof.key)
            except ValueError:
                return f"secret: the secrets of this vendor are written in {proof.key}, and this one is not"
        return None

    def described(self, vendor: Vendor) -> Vendor:
        """The vendor as this declaration describes it, for an import: what its events look like in a file."""
        return msgspec.structs.replace(
            vendor, title=self.declaration.title, why_no_event=self._why_no_event, form_event=self._form_event
        )

    def _why_no_event(self, value: Mapping[str, Any], _where: Where) -> str | None:
        """See `contract.WhyNoEvent`: a name of the declaration, or another name with the id and the time that events have."""
        declaration = self.declaration
        found: Any = dict(value)
        if declaration.each is not None:
            listed = step(found, declaration.each)
            if not isinstance(listed, list) or not listed:
                return "it holds no list of events"
            found = cast("list[Any]", listed)[0]
        event = Event(found, {}, 0)
        name = name_of(declaration, event)
        if not name:
            return "it names no event"
        if name in declaration.names:
            return None
        has_id = declaration.id is None or word(declaration.id.find(event)) is not None
        has_time = any(parse_moment(moment.path.find(event), moment.unit) is not None for moment in declaration.times)
        return None if has_id and has_time else "its event is not in the declaration, and it lacks the id or the time"

    def _form_event(self, body: bytes) -> Mapping[str, Any] | None:
        """See `Vendor.form_event`."""
        event = first_event(self.declaration, body, {}, 0) if self.declaration.format == "form" else None
        return cast("dict[str, Any]", event.value) if event is not None and isinstance(event.value, dict) else None

    def verify(self, delivery: Delivery) -> Verified:
        """See `Source.verify`. The proof holds the signed headers, and the index of the secret; never a secret that is shown."""
        proof = self.declaration.proof
        received = proofs.Received(delivery, self._secrets, self._hook_url, self.name)
        index = proofs.verify(proof, received)
        recorded: dict[str, str | int] = {"scheme": f"{SCHEME}{proof.kind}", "key": index}
        if not proof.binds_body:
            recorded["covers"] = "not the body"
        for name in sorted(proof.recorded_headers):
            if name in delivery.headers:
                recorded[f"{_HEADER}{name}"] = delivery.headers[name]
        for piece in proof.message.pieces:
            if isinstance(piece, tuple) and piece[0] == "query" and piece[1] in delivery.query:
                recorded[f"{_QUERY}{piece[1]}"] = delivery.query[piece[1]]
        verified = self._verified(delivery.body, delivery.received_at, "webhook", recorded)
        self._answer_challenge(verified, index)
        return verified

    def verify_trusted(self, body: bytes, *, received_at: Micros, proof: dict[str, str | int]) -> Verified:
        """See `Source.verify_trusted`."""
        return self._verified(body, received_at, "import", proof)

    def _verified(self, body: bytes, received_at: Micros, origin: Origin, proof: dict[str, str | int]) -> Verified:
        event, dedupe_key = names_of(self.declaration, body, headers_in(proof), received_at)
        return Verified(
            source=self.name, vendor=self.vendor, event=event, dedupe_key=dedupe_key, received_at=received_at, origin=origin,
            proof=encode_proof(proof), body=body,
        )  # fmt: skip

    def _answer_challenge(self, verified: Verified, index: int) -> None:
        """Raise `ChallengeReceived` where the delivery is a challenge; it is authentic already."""
        challenge = self.declaration.challenge
        if challenge is None or verified.event != challenge.event:
            return
        event = first_event(self.declaration, verified.body, {}, verified.received_at)
        token = None if event is None else challenge.token.find(event)
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise SignatureMismatch(
                f"the challenge {challenge.event} does not ask for a text of 1 to 128 letters, digits, - and _: it is not answered"
            )
        proof = self.declaration.proof
        signed = (
            proofs.encoded(proof, proofs.mac(proof, self._secrets[index], token.encode()))
            if proof.kind == "hmac"
            else ""
        )
        raise ChallengeReceived(
            msgspec.json.encode(
                {name: token if what == "{token}" else signed for name, what in challenge.answer.items()}
            )
        )


def headers_in(proof: Mapping[str, Any]) -> dict[str, str]:
    """The headers in a recorded proof."""
    return {
        name.removeprefix(_HEADER): value
        for name, value in proof.items()
        if name.startswith(_HEADER) and isinstance(value, str)
    }


def headers_from_proof(proof: Mapping[str, Any]) -> dict[str, str] | None:
    """See `Vendor.headers_from_proof`."""
    return headers_in(proof) or None if str(proof.get("scheme", "")).startswith(SCHEME) else None


def query_from_proof(proof: Mapping[str, Any]) -> dict[str, str]:
    """See `Vendor.query_from_proof`."""
    return {
        name.removeprefix(_QUERY): value
        for name, value in proof.items()
        if name.startswith(_QUERY) and isinstance(value, str)
    }


def first_event(declaration: Declaration, body: bytes, headers: Mapping[str, str], received_at: Micros) -> Event | None:
    """The first event of a body; None where it has none that can be read."""
    try:
        found = events_in(declaration, body)
    except BodyUnreadable:
        return None
    return Event(found[0], headers, received_at) if found else None


def name_of(declaration: Declaration, event: Event) -> str:
    """The name of an event; "" where it has none."""
    return event_name(word(declaration.name.find(event)))


def names_of(declaration: Declaration, body: bytes, headers: Mapping[str, str], received_at: Micros) -> tuple[str, str]:
    """(event name, dedupe key) of a body. Never raises."""
    event = first_event(declaration, body, headers, received_at)
    name = "" if event is None else name_of(declaration, event)
    if event is not None and declaration.dedupe == "id" and declaration.id is not None:
        given = word(declaration.id.find(event))
        if given is not None and len(given) <= _LONGEST_ID:
            return name, f"id:{given}"
    return name, f"sha256:{hashlib.sha256(body).hexdigest()}"

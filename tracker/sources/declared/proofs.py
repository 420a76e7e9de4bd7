"""Proves a delivery as a declaration says: signatures, tokens, and secrets that are shown.

Each kind of proof is one function: it gets the delivery, and returns the index of the secret that fits; or it raises. What
it compares is compared in constant time, and every secret is tried, so that the time does not reveal which one fits.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from tracker.domain.deliveries import Delivery
from tracker.errors import SignatureMismatch, SignatureMissing, SignatureStale
from tracker.sources.declared.declaration import Proof
from tracker.sources.declared.moments import parse_moment
from tracker.sources.webhook_jwt import matching_secret

_LONGEST = 8_192
"""Characters of a header that are read."""
_MOST_SIGNATURES = 16
_STANDARD_TIME = 12
"""Digits of a time in seconds, at most."""


class Received(msgspec.Struct, frozen=True):
    """A delivery, and what its source has to prove it with."""

    delivery: Delivery
    secrets: Sequence[str]
    hook_url: str
    source: str

    def header(self, name: str) -> str:
        """A header. Raises `SignatureMissing`."""
        value = self.delivery.headers.get(name)
        if not value:
            raise SignatureMissing(
                f"the header {name} is missing: turn on signing at the sender, and let no proxy drop the header"
            )
        return value[:_LONGEST].strip(" \t")

    def mismatch(self, header: str) -> SignatureMismatch:
        """The refusal of a proof that fits no secret."""
        return SignatureMismatch(
            f"{header} does not match the body with a secret of source {self.source}: compare the secret at the sender"
            " with config.toml, and let no proxy change the body"
        )


def verify(proof: Proof, received: Received) -> int:
    """The index of the secret that proves the delivery. Raises a `DeliveryRejected` leaf."""
    return _KINDS[proof.kind](proof, received)


def key_bytes(secret: str, form: str) -> bytes:
    """A secret as key of an HMAC. Raises `ValueError` where it is not written in this form."""
    match form:
        case "base64":
            return base64.b64decode(secret.encode(), validate=True)
        case "hex":
            return bytes.fromhex(secret)
        case _:
            return secret.encode("utf-8", "surrogatepass")


def mac(proof: Proof, secret: str, message: bytes) -> bytes:
    """The HMAC of a message with a secret. Raises `ValueError`."""
    return hmac.digest(key_bytes(secret, proof.key), message, proof.hash)


def encoded(proof: Proof, digest: bytes) -> str:
    """A digest as the vendor writes it."""
    return digest.hex() if proof.encoding == "hex" else base64.b64encode(digest).decode()


def message_of(proof: Proof, received: Received, secret: str, elements: Mapping[str, str]) -> bytes:
    """The bytes that are signed."""
    made = bytearray()
    for piece in proof.message.pieces:
        if isinstance(piece, str):
            made += piece.encode()
            continue
        match piece[0]:
            case "body":
                made += received.delivery.body
            case "url":
                made += received.hook_url.encode()
            case "secret":
                made += secret.encode("utf-8", "surrogatepass")
            case "form.sorted":
                fields = {*parse_qsl(received.delivery.body.decode("utf-8", "replace"), keep_blank_values=True)}
                made += "".join(name + value for name, value in sorted(fields)).encode("utf-8", "replace")
            case _:
                made += _piece(received, piece, elements).encode("utf-8", "surrogatepass")
    return bytes(made)


def _piece(received: Received, piece: tuple[str, ...], elements: Mapping[str, str]) -> str:
    """The text of a piece that is not the body."""
    kind, name = piece[0], piece[1]
    if kind == "header":
        return received.header(name)
    if kind == "query":
        return received.delivery.query.get(name, "")
    return elements.get(name, "")


def _offered(proof: Proof, received: Received) -> tuple[list[str], dict[str, str]]:
    """The signatures in the header, and its other elements where it is a list of pairs."""
    shown = received.header(proof.header)
    if proof.pairs:
        elements: dict[str, str] = {}
        signatures: list[str] = []
        for element in shown.split(","):
            name, _, value = element.strip(" \t").partition("=")  # a signature may end in `=` itself
            if name == proof.pairs:
                signatures.append(value.removeprefix(proof.prefix))
            else:
                elements.setdefault(name, value)
        if not signatures:
            raise SignatureMismatch(
                f"{proof.header} has no element {proof.pairs}=…: compare the declaration with the sender"
            )
        return signatures[:_MOST_SIGNATURES], elements
    if not shown.startswith(proof.prefix):
        raise SignatureMismatch(
            f"{proof.header} does not begin with {proof.prefix}: compare the declaration with the sender"
        )
    return [shown.removeprefix(proof.prefix).strip(" \t")], {}


def _expect_fresh(proof: Proof, received: Received, text: str) -> None:
    """Refuse a time that is too far from ours. Called after the signature was checked: before it, it is anybody's."""
    at = parse_moment(text, proof.time_unit)
    age = None if at is None else received.delivery.received_at - at[0]
    if age is None:
        raise SignatureMismatch(f"the time of the signature is no time in {proof.time_unit}: correct time_unit")
    if abs(age) > proof.tolerance:
        raise SignatureStale(
            f"the time of the signature is {abs(age) // 1_000_000} s in the {'past' if age > 0 else 'future'}, at most"
            f" {proof.tolerance // 1_000_000} s are allowed: set this host's clock with NTP"
        )


def _signed(proof: Proof, received: Received) -> int:
    """`hmac` and `digest`: a hash of what is signed, with the secret."""
    offered, elements = _offered(proof, received)
    signed = message_of(proof, received, "", elements) if proof.kind == "hmac" else b""
    found: int | None = None
    for index, secret in enumerate(received.secrets):
        try:
            digest = (
                mac(proof, secret, signed)
                if proof.kind == "hmac"
                else hashlib.new(proof.hash, message_of(proof, received, secret, elements)).digest()
            )
        except ValueError:
            continue
        expected = encoded(proof, digest)
        for signature in offered:
            shown = signature.lower() if proof.encoding == "hex" else signature
            same = hmac.compare_digest(shown.encode("utf-8", "surrogatepass"), expected.encode())
            if same and secret and found is None:
                found = index
    if found is None:
        raise received.mismatch(proof.header)
    if proof.time:
        _expect_fresh(proof, received, _piece(received, proof.time, elements))
    return found


def _rsa(proof: Proof, received: Received) -> int:
    """`rsa`: PKCS#1 v1.5 with the vendor's public key, which is the secret of the source."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm  # noqa: PLC0415 - as below
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415 - as below

    # Imported where it is used: every process of Tracker would start a sixth of a second later.
    from cryptography.hazmat.primitives.asymmetric import padding, rsa  # noqa: PLC0415

    algorithms = {"sha1": hashes.SHA1, "sha256": hashes.SHA256, "sha384": hashes.SHA384, "sha512": hashes.SHA512}
    offered, elements = _offered(proof, received)
    message = message_of(proof, received, "", elements)
    for index, secret in enumerate(received.secrets):
        try:
            key = serialization.load_pem_public_key(secret.encode())
        except (ValueError, UnsupportedAlgorithm):
            continue
        for signature in offered:
            try:
                raw = (
                    bytes.fromhex(signature) if proof.encoding == "hex" else base64.b64decode(signature, validate=True)
                )
                if isinstance(key, rsa.RSAPublicKey):
                    key.verify(raw, message, padding.PKCS1v15(), algorithms[proof.hash]())
                    if proof.time:
                        _expect_fresh(proof, received, _piece(received, proof.time, elements))
                    return index
            except (ValueError, InvalidSignature):
                continue
    raise SignatureMismatch(
        f"{proof.header} does not match the body with a public key of source {received.source}: its secret is the PEM of"
        " the vendor's key; compare it with the vendor's documentation"
    )


def _jwt(proof: Proof, received: Received) -> int:
    """`jwt`: a token signed with HS256; `claim` holds the hash of the body."""
    import jwt  # noqa: PLC0415 - as in `_rsa`

    shown = received.header(proof.header)
    if not shown.lower().startswith(proof.prefix.lower()):
        raise SignatureMismatch(
            f"{proof.header} does not begin with {proof.prefix}: compare the declaration with the sender"
        )
    token = shown[len(proof.prefix) :].strip(" \t")
    for index, secret in enumerate(received.secrets):
        try:
            # The times of the token are compared with the arrival, below: this function has no clock.
            claims: dict[str, Any] = jwt.decode(
                token, secret, algorithms=["HS256"],
                options={"verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False},
            )  # fmt: skip
        except (jwt.InvalidTokenError, ValueError):
            continue
        if proof.claim:
            digest = hashlib.new(proof.hash, received.delivery.body).digest()
            stated = claims.get(proof.claim)
            expected = encoded(proof, digest)
            if not isinstance(stated, str) or not hmac.compare_digest(
                stated.encode("utf-8", "replace"), expected.encode()
            ):
                raise SignatureMismatch(
                    f"the claim {proof.claim} of the token is not the {proof.hash} of the body: let no proxy change the body"
                )
        _expect_valid_now(claims, received)
        return index
    raise received.mismatch(proof.header)


def _expect_valid_now(claims: Mapping[str, Any], received: Received) -> None:
    now = received.delivery.received_at // 1_000_000
    for name, late in (("exp", 1), ("nbf", -1)):
        limit = claims.get(name)
        if isinstance(limit, int | float) and (now - limit) * late > 60:
            raise SignatureStale(
                f"the token's {name} is over a minute away from our clock: set the clocks of both hosts with NTP"
            )


def _standard(proof: Proof, received: Received) -> int:
    """`standard`: Standard Webhooks, v1 (HMAC-SHA256) and v1a (Ed25519)."""
    name = proof.header_prefix
    given, stamp = received.header(f"{name}-id"), received.header(f"{name}-timestamp")
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= _STANDARD_TIME):
        raise SignatureMismatch(f"{name}-timestamp is no whole number of seconds")
    message = f"{given}.{stamp}.".encode("utf-8", "surrogatepass") + received.delivery.body
    offered = received.header(f"{name}-signature").split()[:_MOST_SIGNATURES]
    found: int | None = None
    for index, secret in enumerate(received.secrets):
        for each in offered:
            version, _, signature = each.partition(",")
            if found is None and secret and _fits_standard(version, signature, secret, message):
                found = index
    if found is None:
        raise received.mismatch(f"{name}-signature")
    _expect_fresh(proof, received, stamp)
    return found


def _fits_standard(version: str, signature: str, secret: str, message: bytes) -> bool:
    if version == "v1a":
        return secret.startswith("whpk_") and _fits_ed25519(signature, secret, message)
    try:
        raw = base64.b64decode(signature, validate=True)
        if version == "v1" and not secret.startswith("whpk_"):
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
            return hmac.compare_digest(raw, hmac.digest(key, message, "sha256"))
    except (ValueError, binascii.Error):
        pass
    return False


def _fits_ed25519(signature: str, secret: str, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - as in `_rsa`
    from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415 - as in `_rsa`

    try:
        public = base64.b64decode(secret.removeprefix("whpk_"), validate=True)
        ed25519.Ed25519PublicKey.from_public_bytes(public).verify(base64.b64decode(signature, validate=True), message)
    except (ValueError, binascii.Error, InvalidSignature):
        return False
    return True


def _shown(received: Received, shown: str, where: str) -> int:
    found = matching_secret(shown, received.secrets)
    if found is None:
        raise SignatureMismatch(
            f"{where} does not hold a secret of source {received.source}: compare both with config.toml"
        )
    return found


def _header(proof: Proof, received: Received) -> int:
    """`header`: the secret stands in a header."""
    return _shown(received, received.header(proof.header).removeprefix(proof.prefix), f"the header {proof.header}")


def _url(_proof: Proof, received: Received) -> int:
    """`url`: the secret is the last part of the hook's address."""
    if not received.delivery.token:
        raise SignatureMissing(f"the address has no secret: register /hooks/{received.source}/SECRET at the sender")
    return _shown(received, received.delivery.token, "the last part of the address")


_KINDS: dict[str, Callable[[Proof, Received], int]] = {
    "hmac": _signed,
    "digest": _signed,
    "rsa": _rsa,
    "jwt": _jwt,
    "standard": _standard,
    "header": _header,
    "url": _url,
}

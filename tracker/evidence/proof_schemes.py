"""What the recorded proofs of deliveries prove, in words, and whether they cover the body."""

from __future__ import annotations

import msgspec

from tracker.domain.deliveries import Record

NOT_THE_BODY = "the body itself is not signed"

SCHEME_MEANINGS = {
    "jwt": "signed by the sender (a JWT over the body's SHA-256)",
    "hmac-sha256": "signed by the sender (HMAC-SHA256 over the body)",
    "header": f"sent with the secret header; {NOT_THE_BODY}",
    "url_token": f"sent to the secret URL; {NOT_THE_BODY}",
    "checksum": "signed by the sender (a checksum of address and body)",
    "checksum-url": f"sent with a checksum of the address; {NOT_THE_BODY}",
    "bearer": f"sent with the shared secret; {NOT_THE_BODY}",
    "jwt-sender": f"sent with a token of the sender (a JWT); {NOT_THE_BODY}",
    "jwt-body": "signed by the sender (the body is a JWT)",
    "declared-hmac": "signed by the sender (an HMAC, as its declaration says)",
    "declared-digest": "signed by the sender (a digest with the secret, as its declaration says)",
    "declared-rsa": "signed by the sender (RSA, as its declaration says)",
    "declared-jwt": "signed by the sender (a JWT with the hash of the body, as its declaration says)",
    "declared-standard": "signed by the sender (Standard Webhooks)",
    "import": "read from a file by the operator; nothing proves who sent it",
    "erased": "erased later: the content is gone; its position in the log is still proved",
}
"""Scheme of a proof → what it proves, after “1 record”."""


class _Proof(msgspec.Struct):
    scheme: str
    covers: str | None = None


def meaning_of(record: Record) -> str:
    """What the proof of a record proves."""
    if record.erased_by is not None:
        return SCHEME_MEANINGS["erased"]
    if record.origin == "import":
        return SCHEME_MEANINGS["import"]
    try:
        proof = msgspec.json.decode(record.proof, type=_Proof)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "proved by an unknown scheme"
    if proof.covers is not None:
        return f"sent with a secret or a signature, as its declaration says; {NOT_THE_BODY}"
    return SCHEME_MEANINGS.get(proof.scheme, f"proved by {proof.scheme}")


def covers_body(record: Record) -> bool:
    """Whether the proof of a record covers its body, so that nobody but the sender can have written it. True for imports."""
    return not meaning_of(record).endswith(NOT_THE_BODY)

r"""Signed notes: text signed by one or more keys, as specified by https://c2sp.org/signed-note, with Ed25519.

    <text, ends in a newline>                            key id = SHA-256(name ‖ "\n" ‖ 0x01 ‖ public key)[:4]
                                                         verifier key = name+hex(key id)+base64(0x01 ‖ public key)
    — <key name> base64(key id ‖ signature)              signer key = PRIVATE+KEY+name+hex(key id)+base64(0x01 ‖ seed)

The signer key has the form of golang.org/x/mod/sumdb/note, so that Go's tools read it. Base64 is the standard alphabet, and
each value has one spelling: unused bits must be 0.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tracker.errors import NoteMalformed, NoteUnverified

ED25519 = b"\x01"
KEY_BYTES = 32
ID_BYTES = 4
PRIVATE_KEY_PREFIX = "PRIVATE+KEY+"
SIGNATURE_PREFIX = "— "
MAX_SIGNATURES = 100
"""The specification asks for 16 at least. More than this could only waste our time."""


class _PublicKey(NamedTuple):
    name: str
    public: bytes


class Verifier(_PublicKey):
    """A public key that notes are checked with."""

    algorithm = ED25519
    """The byte of its kind of signature."""
    kind = "verifier key"

    @classmethod
    def read(cls, text: str) -> Self:
        """From a verifier key (vkey). Raises `NoteMalformed`."""
        name, stated_id, public = parse_key(text.strip(), cls.kind, cls.algorithm)
        key = cls(name, public)
        if key.id != stated_id:
            raise NoteMalformed(f"the verifier key of {name} does not have the id it names: copy it again, all of it")
        return key

    @property
    def id(self) -> bytes:
        """The 4 bytes that name the key in a signature."""
        return compute_key_id(self.name, self.algorithm, self.public)

    @property
    def label(self) -> str:
        """The key's short name for people: name+hex(id)."""
        return f"{self.name}+{self.id.hex()}"

    def __str__(self) -> str:
        return f"{self.label}+{_encode_base64(self.algorithm + self.public)}"

    def verifies(self, text: str, signature: bytes) -> bool:
        """Whether this key made that signature (64 bytes) over the text."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, text.encode())
        except (InvalidSignature, ValueError):
            return False
        return True


class Signer:
    """A private key. Its text, `str(…)`, is a secret; `repr` does not show it."""

    def __init__(self, name: str, seed: bytes) -> None:
        if not is_key_name(name):
            raise NoteMalformed(f"{name!r} cannot name a key: a name has no blanks and no plus, and is not empty")
        self._seed = seed
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.verifier = Verifier(name, self._key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls, name: str) -> Self:
        """A new key."""
        return cls(name, Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def read(cls, text: str) -> Self:
        """From its text. Raises `NoteMalformed`, whose message never holds the text."""
        stripped = text.strip()
        if not stripped.startswith(PRIVATE_KEY_PREFIX):
            raise NoteMalformed(f"not a signer key: one begins with {PRIVATE_KEY_PREFIX}")
        name, stated_id, seed = parse_key(stripped.removeprefix(PRIVATE_KEY_PREFIX), "signer key", ED25519)
        signer = cls(name, seed)
        if signer.verifier.id != stated_id:
            raise NoteMalformed(f"the signer key of {name} does not have the id it names: copy it again, all of it")
        return signer

    def __str__(self) -> str:
        return f"{PRIVATE_KEY_PREFIX}{self.verifier.label}+{_encode_base64(ED25519 + self._seed)}"

    def __repr__(self) -> str:
        return f"Signer({self.verifier.label!r}, …)"

    @property
    def name(self) -> str:
        """The name in front of its signatures."""
        return self.verifier.name

    def sign(self, text: str) -> bytes:
        """The signature over the text, 64 bytes."""
        return self._key.sign(text.encode())


class Signature(NamedTuple):
    """One signature line."""

    name: str
    id: bytes
    bytes: bytes


class Note(NamedTuple):
    """A parsed note. Trust `text` only after `open_note`."""

    text: str
    signatures: tuple[Signature, ...]


class OpenedNote(NamedTuple):
    """A note that `signers`, one or more known keys, signed."""

    text: str
    signers: tuple[Verifier, ...]


def is_key_name(name: str) -> bool:
    """Whether it can name a key: not empty, no whitespace of any alphabet, no plus, nothing unprintable."""
    return bool(name) and "+" not in name and not any(each.isspace() or each < " " for each in name) and _is_utf8(name)


def sign_note(text: str, signers: Iterable[Signer]) -> str:
    """The signed note. Raises `NoteMalformed` when the text cannot be one (it has to end in a newline)."""
    _expect_text(text)
    if not text.endswith("\n"):
        raise NoteMalformed("the text of a note ends in a newline")
    lines = (
        f"{SIGNATURE_PREFIX}{each.name} {_encode_base64(each.verifier.id + each.sign(text))}\n" for each in signers
    )
    return f"{text}\n{''.join(lines)}"


def read_note(note: str) -> Note:
    """Text and signatures, unchecked. Raises `NoteMalformed`."""
    _expect_text(note)
    text, gap, lines = note.rpartition("\n\n")
    if not gap or not text or not lines.endswith("\n"):
        raise NoteMalformed("not a note: it needs text, an empty line and lines of signatures")
    signatures = tuple(_read_signature(line) for line in lines.removesuffix("\n").split("\n"))
    if len(signatures) > MAX_SIGNATURES:
        raise NoteMalformed(f"the note has more than {MAX_SIGNATURES} signatures")
    return Note(text + "\n", signatures)


def open_note(note: str, verifiers: Sequence[Verifier]) -> OpenedNote:
    """The text and the known keys that signed it. Signatures of unknown keys are ignored.

    Raises `NoteMalformed`; `NoteUnverified` when none of these keys signed it, or one of their signatures is wrong.
    """
    read = read_note(note)
    known = {(each.name, each.id): each for each in verifiers}
    signed: dict[tuple[str, bytes], Verifier] = {}
    for name, key_id, signature in read.signatures:
        verifier = known.get((name, key_id))
        if verifier is None:
            continue
        if not verifier.verifies(read.text, signature):
            raise NoteUnverified(f"the signature of {verifier.label} does not fit the text")
        signed[name, key_id] = verifier
    if not signed:
        by = ", ".join(f"{name}+{key_id.hex()}" for name, key_id, _ in read.signatures)
        wanted = ", ".join(each.label for each in verifiers) or "none"
        raise NoteUnverified(f"it is signed by {by}; known keys: {wanted}")
    return OpenedNote(read.text, tuple(signed.values()))


def decode_base64(text: str) -> bytes | None:
    """The bytes of standard base64 in its one spelling; None for anything else."""
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return found if _encode_base64(found) == text else None


def compute_key_id(name: str, algorithm: bytes, public: bytes) -> bytes:
    """The 4 bytes that name a key; `algorithm` is the byte for its kind of signature."""
    return hashlib.sha256(name.encode() + b"\n" + algorithm + public).digest()[:ID_BYTES]


def parse_key(text: str, what: str, algorithm: bytes) -> tuple[str, bytes, bytes]:
    """Name, stated id and 32 bytes of a key's text. Raises `NoteMalformed`; its message calls the key `what`."""
    name, _, rest = text.partition("+")
    stated_id, _, encoded = rest.partition("+")
    key = decode_base64(encoded)
    if not is_key_name(name) or not re.fullmatch("[0-9a-f]{8}", stated_id) or key is None:
        raise NoteMalformed(f"not a {what}: one is a name, 8 hex digits and base64, joined by +")
    if key[:1] != algorithm or len(key) != 1 + KEY_BYTES:
        raise NoteMalformed(f"the {what} of {name} is not an Ed25519 key")
    return name, bytes.fromhex(stated_id), key[1:]


def _read_signature(line: str) -> Signature:
    name, gap, encoded = line.removeprefix(SIGNATURE_PREFIX).partition(" ")
    found = decode_base64(encoded)
    if (
        not line.startswith(SIGNATURE_PREFIX)
        or not gap
        or not is_key_name(name)
        or found is None
        or len(found) <= ID_BYTES
    ):
        raise NoteMalformed(f"not a signature line: {line[:80]!r}")
    return Signature(name, found[:ID_BYTES], found[ID_BYTES:])


def _expect_text(text: str) -> None:
    if not _is_utf8(text) or any(each < " " and each != "\n" for each in text):
        raise NoteMalformed("a note must be UTF-8 without control characters")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True


def _encode_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()

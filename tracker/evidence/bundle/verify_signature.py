"""Checks manifest.sig: the signed note that makes a bundle whole. It covers the manifest, which covers every other file.

    tracker/evidence-bundle/2
    <origin of the log>
    <SHA-256 of manifest.json, in hex>

    — <origin>, or <origin>/<node> where the node cosigns   <signature>

Exactly one signature, so that nothing can be added to the note that no check looks at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tracker.errors import EvidenceError
from tracker.evidence.bundle.manifest import KEY, MANIFEST, SIGNATURE, signed_text
from tracker.evidence.bundle.zip_reader import OpenBundle
from tracker.log.merkle.cosignature import CosignerKey
from tracker.log.merkle.note import Note, Verifier, open_note, read_note


class SignatureResult(NamedTuple):
    """`about` says what was found; with `is_checked` False, why a correct note says nothing about who made the bundle."""

    problems: Sequence[str]
    about: str
    is_checked: bool = True


def check_signature(bundle: OpenBundle, origin: str | None, trusted: Sequence[Verifier]) -> SignatureResult:
    """Check manifest.sig with `trusted` keys of the log and of cosigners.

    The log's own name is signed with a key of the log, the name of a node with a key of a cosigner: another log may be named
    like a node. `origin` is that of the bundle's checkpoint, None if it has none. Without trusted keys the bundle's own are used, which
    only shows that it agrees with itself.
    """
    try:
        text = bundle.text(SIGNATURE)
        note = read_note(text)
        problems = _problems(note, bytes(bundle.content(MANIFEST)), origin)
        if problems:
            return SignatureResult(problems, "")
        (signature,) = note.signatures
        is_log = signature.name == note.text.split("\n")[1]
        keys = _keys_for(trusted, is_log=is_log) if trusted else _own_keys(bundle)
        known = [key for key in keys if (key.name, key.id) == (signature.name, signature.id)]
        label = f"{signature.name}+{signature.id.hex()}"
        if known:
            open_note(text, known)
        elif trusted and is_log:
            return SignatureResult([f"{SIGNATURE} is signed by {label}, which is not a given key"], "")
    except EvidenceError as error:
        return SignatureResult([f"{SIGNATURE}: {error}"], "")
    if not trusted:
        return SignatureResult(
            (), f"no key was given (--key): {MANIFEST} is signed by {label}, and anyone can make such a key", False
        )
    if not known:
        why = f"{MANIFEST} is signed by {label}: if that is a node of this cluster, give its key, too (--key)"
        return SignatureResult((), why, False)
    return SignatureResult((), f"{MANIFEST} is signed with a given key: {label}")


def _keys_for(trusted: Sequence[Verifier], *, is_log: bool) -> list[Verifier]:
    if is_log:
        return [key for key in trusted if not isinstance(key, CosignerKey)]
    # The key of a cosigner is named with the byte of its cosignatures; here it signs a plain note.
    return [Verifier(key.name, key.public) for key in trusted if isinstance(key, CosignerKey)]


def _own_keys(bundle: OpenBundle) -> list[Verifier]:
    return [Verifier.read(line) for line in bundle.text(KEY).splitlines()] if KEY in bundle.sizes else []


def _problems(note: Note, manifest: bytes, origin: str | None) -> list[str]:
    """What is wrong in a note, regardless of its signer."""
    lines = note.text.split("\n")
    if len(lines) < 2 or note.text != signed_text(lines[1], manifest):
        return [f"{SIGNATURE} is about another {MANIFEST}: one of them was changed"]
    if len(note.signatures) != 1:
        return [f"{SIGNATURE} has {len(note.signatures)} signatures, and only one is ever made: something was added"]
    if origin is not None and lines[1] != origin:
        return [f"{SIGNATURE} is about the log {lines[1][:80]!r}, the checkpoint about {origin[:80]!r}"]
    name = note.signatures[0].name
    if name != lines[1] and not name.startswith(f"{lines[1]}/"):
        return [f"{SIGNATURE} is signed by {name[:80]!r}, a key of another log than {lines[1][:80]!r}"]
    return []

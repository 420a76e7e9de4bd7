"""The text of a checkpoint, as specified by https://c2sp.org/tlog-checkpoint, and files of many checkpoints.

    example.com/log            origin: which log
    20852163                   how many records its tree holds, in decimal
    CsUYapGGPo4dkMgI…=         the root, base64
    …                          extension lines: ignored, never written by us

A file of checkpoints holds notes, with an empty line after each. It is only ever appended to.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tracker.errors import NoteMalformed, NoteUnverified
from tracker.log.merkle.hashing import HASH_BYTES
from tracker.log.merkle.note import Verifier, decode_base64, open_note, read_note

NOTE = re.compile(r"(?:[^\n]+\n){3,}\n(?:— [^\n]+\n)+(?=\n|\Z)")
"""One checkpoint in a file of them."""


class Checkpoint(NamedTuple):
    """What a log claims about itself: `root` (32 bytes) is that of the tree over its first `size` records."""

    origin: str
    size: int
    root: bytes


class FileSection(NamedTuple):
    """A part of a file of checkpoints that begins in `line` (from 1). `is_note`: it has the form of a note."""

    line: int
    text: str
    is_note: bool


def checkpoint_text(origin: str, size: int, root: bytes) -> str:
    """The text to sign. Raises `NoteMalformed` for an origin that is empty or has newlines."""
    if not origin or "\n" in origin:
        raise NoteMalformed("an origin is one line of text")
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"


def read_checkpoint_text(text: str) -> Checkpoint:
    """The text of a note as a checkpoint. Raises `NoteMalformed`."""
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
        raise NoteMalformed("not a checkpoint: it needs an origin, a size and a root, one a line, none empty")
    origin, size, encoded = lines[:3]
    root = decode_base64(encoded)
    if not re.fullmatch(r"0|[1-9][0-9]{0,18}", size) or root is None or len(root) != HASH_BYTES:
        raise NoteMalformed("not a checkpoint: its second line must be a number, its third the base64 of 32 bytes")
    return Checkpoint(origin, int(size), root)


def read_checkpoint(note: str) -> Checkpoint:
    """The content of a checkpoint. Its signatures are not checked. Raises `NoteMalformed`."""
    return read_checkpoint_text(read_note(note).text)


def open_checkpoint(note: str, verifiers: Sequence[Verifier]) -> Checkpoint:
    """The content of a checkpoint that one of these keys signed. Raises `NoteMalformed`, `NoteUnverified`.

    The key is named after the log: a known key of another log signs nothing of this one.
    """
    opened = open_note(note, verifiers)
    signed = read_checkpoint_text(opened.text)
    if signed.origin not in {key.name for key in opened.signers}:
        signers = ", ".join(key.label for key in opened.signers)
        raise NoteUnverified(f"it is about the log {signed.origin[:80]!r}, but signed by the key of another: {signers}")
    return signed


def split_checkpoint_file(text: str) -> Iterator[FileSection]:
    """The notes of a file of checkpoints in order, and any other text between them."""
    at, line = 0, 1
    while at < len(text):
        if text[at] == "\n":
            at, line = at + 1, line + 1
            continue
        found = NOTE.match(text, at)
        end = found.end() if found else _end_of_block(text, at)
        yield FileSection(line, text[at:end], found is not None)
        line += text.count("\n", at, end)
        at = end


def _end_of_block(text: str, at: int) -> int:
    end = text.find("\n\n", at)
    return len(text) if end < 0 else end + 1

"""A bundle as it is written: one file of the zip after the other, in pieces, each with its SHA-256.

Every moment in the zip is 1980-01-01: the same evidence gives the same bytes, and no clock is taken for a proof.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from typing import IO, Protocol

from tracker.evidence.bundle.manifest import Member

LEVEL = 6


class Piecewise(Protocol):
    """Where the bytes of one file go."""

    def write(self, piece: bytes) -> None:
        """The next bytes."""
        ...


class _Open:
    def __init__(self, into: IO[bytes]) -> None:
        self._into = into
        self.size = 0
        self.digest = hashlib.sha256()

    def write(self, piece: bytes) -> None:
        self._into.write(piece)
        self.digest.update(piece)
        self.size += len(piece)


class BundleWriter:
    """Writes one zip into a file that can be sought in; `members` are the files written so far."""

    def __init__(self, file: IO[bytes]) -> None:
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=LEVEL)
        self.members: list[Member] = []

    @contextmanager
    def member(self, name: str) -> Generator[Piecewise]:
        """Write one file of the bundle; one at a time."""
        told = zipfile.ZipInfo(name)
        told.compress_type = zipfile.ZIP_DEFLATED
        told.external_attr = 0o644 << 16
        with self._zip.open(told, "w", force_zip64=True) as into:
            opened = _Open(into)
            yield opened
        self.members.append(Member(name=name, size_bytes=opened.size, sha256=opened.digest.hexdigest()))

    def add(self, name: str, content: bytes) -> None:
        """Write one small file."""
        with self.member(name) as into:
            into.write(content)

    def close(self) -> None:
        """Write the zip's table of contents. Without it nobody can read it."""
        self._zip.close()

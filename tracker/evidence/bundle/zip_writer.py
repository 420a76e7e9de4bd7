"""Writes the zip file of a bundle: one member after the other, in pieces, each with its SHA-256.

Every timestamp in the zip is 1980-01-01, so the same evidence gives the same bytes, and no clock passes for a proof.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from typing import IO, Protocol

from tracker.evidence.bundle.manifest import Member

LEVEL = 6


class MemberFile(Protocol):
    """One member of the zip while it is being written."""

    def write(self, piece: bytes) -> None:
        """Append these bytes."""
        ...


class _HashedFile:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = 0
        self.digest = hashlib.sha256()

    def write(self, piece: bytes) -> None:
        self._file.write(piece)
        self.digest.update(piece)
        self.size += len(piece)


class BundleWriter:
    """Writes one zip into a seekable file. `members` are the members written so far."""

    def __init__(self, file: IO[bytes]) -> None:
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=LEVEL)
        self.members: list[Member] = []

    @contextmanager
    def member(self, name: str) -> Generator[MemberFile]:
        """Open the next member for writing. Only one can be open at a time."""
        info = zipfile.ZipInfo(name)
        info.compress_type = zipfile.ZIP_DEFLATED
        info.external_attr = 0o644 << 16
        with self._zip.open(info, "w", force_zip64=True) as opened:
            file = _HashedFile(opened)
            yield file
        self.members.append(Member(name=name, size_bytes=file.size, sha256=file.digest.hexdigest()))

    def add(self, name: str, content: bytes) -> None:
        """Write one small member."""
        with self.member(name) as file:
            file.write(content)

    def close(self) -> None:
        """Write the zip's central directory, without which the file is no zip."""
        self._zip.close()

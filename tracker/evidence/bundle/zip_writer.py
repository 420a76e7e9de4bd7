"""Writes the zip file of a bundle: one member after the other, in pieces, each with its SHA-256.

No member has extra fields, so that every program unpacks it alike; therefore each has a size limit. Every timestamp in the zip is 1980-01-01, so the same evidence gives the same bytes, and no clock passes for a proof.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from typing import IO, Protocol

from tracker.errors import EvidenceError
from tracker.evidence.bundle.manifest import MAX_BYTES, Member

LEVEL = 6


class MemberFile(Protocol):
    """One member of the zip while it is being written."""

    def write(self, piece: bytes) -> None:
        """Append these bytes."""
        ...


class _HashedFile:
    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self._name = name
        self.size = 0
        self.digest = hashlib.sha256()

    def write(self, piece: bytes) -> None:
        """See `MemberFile.write`. Raises `EvidenceError` beyond the size that a verifier accepts."""
        self.size += len(piece)
        if self.size > MAX_BYTES[self._name]:
            raise EvidenceError(
                f"{self._name} would have more than {MAX_BYTES[self._name]} bytes: too many for a bundle"
            )
        self._file.write(piece)
        self.digest.update(piece)


class BundleWriter:
    """Writes one zip into a seekable file. `members` are the members written so far."""

    def __init__(self, file: IO[bytes]) -> None:
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=LEVEL, allowZip64=False)
        self.members: list[Member] = []

    @contextmanager
    def member(self, name: str) -> Generator[MemberFile]:
        """Open the next member for writing. Only one can be open at a time."""
        info = zipfile.ZipInfo(name)
        info.compress_type = zipfile.ZIP_DEFLATED
        info.external_attr = 0o644 << 16
        with _without_zip64(), self._zip.open(info, "w") as opened:
            file = _HashedFile(opened, name)
            yield file
        self.members.append(Member(name=name, size_bytes=file.size, sha256=file.digest.hexdigest()))

    def add(self, name: str, content: bytes) -> None:
        """Write one small member."""
        with self.member(name) as file:
            file.write(content)

    def close(self) -> None:
        """Write the zip's central directory, without which the file is no zip. Raises `EvidenceError`."""
        with _without_zip64():
            self._zip.close()


@contextmanager
def _without_zip64() -> Generator[None]:
    try:
        yield
    except zipfile.LargeZipFile:
        raise EvidenceError("the bundle would have more than 2 GiB: no bundle of this session can be made") from None

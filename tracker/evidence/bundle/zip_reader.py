"""A bundle from strangers, opened: nothing in it is believed, no name in it becomes a path, no size in it is trusted.

    only files a bundle may have, each once, none encrypted       anything else is refused before a byte is unpacked
    sizes bounded each and together, and counted while reading    a small zip cannot become a full disk
    nothing hidden between the files, before or after them        two programs must not see two contents

Every way in which it cannot be read is a `BundleUnreadable`, whatever the libraries below make of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
import zipfile
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from tracker.evidence.bundle.manifest import MAX_BYTES, FORMAT, MAX_IN_MEMORY_BYTES, MANIFEST, Manifest, encode_manifest
from tracker.errors import BundleUnreadable

EXTRA_BYTES = 16 * 1024 * 1024
MAX_RATIO = 200
"""A zip may grow to so many times its size, and `ALLOWANCE`; what calls say never compresses so well."""
MAX_LINE_BYTES = 64 * 1024 * 1024
CHUNK_BYTES = 256 * 1024
SMALL_JSON, THING, PART = 1024 * 1024, 16, 6
"""Larger JSON has at least so many bytes for each list or object, and for each comma; else it grows too much when it is read."""
LOCAL = struct.Struct("<4s5H3L2H")
END = struct.Struct("<4s4H2LH")
WHOLE = 0xFFFFFFFF
ENCRYPTED = 0x1
METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}

Read = TypeVar("Read")


class OpenBundle:
    """An opened bundle; `sizes` are those of the files it has."""

    def __init__(self, file: IO[bytes], opened: zipfile.ZipFile) -> None:
        self._file = file
        self._zip = opened
        self._infos = {info.filename: info for info in opened.infolist()}
        self.sizes = {name: info.file_size for name, info in self._infos.items()}

    def chunks(self, name: str) -> Iterator[bytes]:
        """The bytes of a file, in pieces. Raises `BundleUnreadable`."""
        if name not in self._infos:
            raise BundleUnreadable(f"{name} is missing")
        with _understood(name), self._zip.open(self._infos[name]) as file:
            left = MAX_BYTES[name]
            while piece := file.read(CHUNK_BYTES):
                left -= len(piece)
                if left < 0:
                    raise BundleUnreadable(f"{name} has more than {MAX_BYTES[name]} bytes")
                yield piece

    def content(self, name: str) -> bytes:
        """All bytes of a file that is read at once. Raises `BundleUnreadable`."""
        if MAX_BYTES[name] > MAX_IN_MEMORY_BYTES:
            raise BundleUnreadable(f"{name} is not read at once")
        return b"".join(self.chunks(name))

    def text(self, name: str) -> str:
        """A small file as text. Raises `BundleUnreadable`."""
        try:
            return self.content(name).decode()
        except UnicodeDecodeError:
            raise BundleUnreadable(f"{name} is no UTF-8 text") from None

    def lines(self, name: str) -> Iterator[bytes]:
        """The lines of a file with their newlines. Raises `BundleUnreadable`; also where the last one has none."""
        held = b""
        for piece in self.chunks(name):
            *whole, held = (held + piece).split(b"\n")
            for line in whole:
                yield line + b"\n"
            if len(held) > MAX_LINE_BYTES:
                raise BundleUnreadable(f"{name} has a line of more than {MAX_LINE_BYTES} bytes")
        if held:
            raise BundleUnreadable(f"the last line of {name} does not end: something was cut off")

    def decoded(self, name: str, kind: type[Read]) -> Read:
        """The JSON of a file as what it has to be. Raises `BundleUnreadable`."""
        content = self.content(name)
        if not is_plausible(content):
            raise BundleUnreadable(f"{name} holds next to nothing in very many pieces: it was made to fill the memory")
        try:
            return msgspec.json.decode(content, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, OverflowError) as error:
            raise BundleUnreadable(f"{name} is not what it has to be: {str(error)[:300]}") from None

    def digest(self, name: str) -> str:
        """The SHA-256 of a file, in hex. Raises `BundleUnreadable`."""
        found = hashlib.sha256()
        for piece in self.chunks(name):
            found.update(piece)
        return found.hexdigest()

    def manifest(self) -> Manifest:
        """manifest.json. Raises `BundleUnreadable`, also for one of another format or spelled otherwise."""
        content = self.content(MANIFEST)
        manifest = self.decoded(MANIFEST, Manifest)
        if manifest.format != FORMAT:
            raise BundleUnreadable(f"this bundle has the format {manifest.format[:80]!r}; this Tracker reads {FORMAT}")
        if encode_manifest(manifest) != content:
            raise BundleUnreadable(f"{MANIFEST} is not written as Tracker writes it: it was edited")
        return manifest


def is_plausible(content: bytes) -> bool:
    """Whether JSON says enough for its size to be read: millions of empty lists fill the memory and say nothing."""
    things, parts = content.count(b"{") + content.count(b"["), content.count(b",")
    return len(content) <= SMALL_JSON or (things * THING <= len(content) and parts * PART <= len(content))


@contextlib.contextmanager
def open_bundle(path: Path) -> Generator[OpenBundle]:
    """Open a bundle. Raises `BundleUnreadable`, and `OSError` where there is no such file."""
    with path.open("rb") as file:
        with _understood("the file"):
            archive = zipfile.ZipFile(file)
        with archive:
            with _understood("the file"):
                _expect_harmless(archive, file, path.stat().st_size)
            yield OpenBundle(file, archive)


def _expect_harmless(archive: zipfile.ZipFile, file: IO[bytes], size: int) -> None:
    infos = archive.infolist()
    if len(infos) > len(MAX_BYTES):
        raise BundleUnreadable(f"it has {len(infos)} files; a bundle has at most {len(MAX_BYTES)}")
    names = [info.filename for info in infos]
    for info in infos:
        shown = ascii(info.orig_filename[:80])
        if info.orig_filename not in MAX_BYTES or info.filename != info.orig_filename:
            raise BundleUnreadable(f"it has a file {shown}, which no bundle has")
        if names.count(info.filename) > 1:
            raise BundleUnreadable(f"it has the file {shown} more than once")
        if info.flag_bits & ENCRYPTED or info.compress_type not in METHODS:
            raise BundleUnreadable(f"{shown} is encrypted or packed in a way no bundle is")
        if info.file_size > MAX_BYTES[info.filename]:
            raise BundleUnreadable(
                f"{shown} would have {info.file_size} bytes; at most {MAX_BYTES[info.filename]} are read"
            )
    if sum(info.file_size for info in infos) > EXTRA_BYTES + MAX_RATIO * size:
        raise BundleUnreadable("it would grow to far more than any bundle does: it was made to fill a disk")
    if archive.comment:
        raise BundleUnreadable("something was written behind its end")
    _expect_contiguous(archive, file, size)


def _expect_contiguous(archive: zipfile.ZipFile, file: IO[bytes], size: int) -> None:
    """Raise `BundleUnreadable` unless the files follow each other from the first byte to the table of contents, the last."""
    at = 0
    for info in sorted(archive.infolist(), key=lambda each: each.header_offset):
        if info.header_offset != at:
            raise BundleUnreadable("something lies hidden between its files")
        file.seek(at)
        header = LOCAL.unpack(file.read(LOCAL.size))
        name_length, extra_length = header[-2:]
        if header[0] != b"PK\x03\x04" or file.read(name_length) != info.filename.encode():
            raise BundleUnreadable("its files are not those its table of contents names")
        at += LOCAL.size + name_length + extra_length + info.compress_size
    file.seek(-END.size, 2)
    *_, table_bytes, table_at, _ = END.unpack(file.read(END.size))
    # Both are all ones where the real ones stand in front of it: a bundle of more than 4 GiB.
    ends = WHOLE in {table_bytes, table_at} or table_at + table_bytes + END.size == size
    if at != archive.start_dir or not ends:
        raise BundleUnreadable("something lies hidden between or behind its files")


@contextlib.contextmanager
def _understood(what: str) -> Generator[None]:
    try:
        yield
    except (
        zipfile.BadZipFile, zlib.error, OSError, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError, MemoryError,
    ) as error:  # fmt: skip
        raise BundleUnreadable(f"{what} cannot be unpacked: {str(error)[:200] or type(error).__name__}") from None

"""Opens a bundle from strangers safely: no content is trusted, no name becomes a path, no stated size is believed.

    only files of a bundle, each once, none encrypted             everything else is refused before a byte is unpacked
    sizes bounded one by one and in total, counted while reading  a small zip cannot fill the disk
    nothing between the files, before or after them               two programs must not see different contents

Everything that makes a bundle unreadable is raised as `BundleUnreadable`, whatever the libraries raise.
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
"""A zip may unpack to at most this many times its size, plus `EXTRA_BYTES`. Records of calls never compress that well."""
MAX_LINE_BYTES = 64 * 1024 * 1024
CHUNK_BYTES = 256 * 1024
SMALL_JSON = 1024 * 1024
BYTES_PER_CONTAINER, BYTES_PER_COMMA = 16, 6
"""JSON larger than `SMALL_JSON` needs this many bytes per list or object, and per comma; denser JSON fills the memory."""
LOCAL_HEADER = struct.Struct("<4s5H3L2H")
END_RECORD = struct.Struct("<4s4H2LH")
ZIP64 = 0xFFFFFFFF
ENCRYPTED = 0x1
METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}

Read = TypeVar("Read")


class OpenBundle:
    """An open bundle. `sizes`: name of a file in it → bytes."""

    def __init__(self, file: IO[bytes], opened: zipfile.ZipFile) -> None:
        self._file = file
        self._zip = opened
        self._infos = {info.filename: info for info in opened.infolist()}
        self.sizes = {name: info.file_size for name, info in self._infos.items()}

    def chunks(self, name: str) -> Iterator[bytes]:
        """The bytes of a file in chunks. Raises `BundleUnreadable`."""
        if name not in self._infos:
            raise BundleUnreadable(f"{name} is missing")
        with _as_unreadable(name), self._zip.open(self._infos[name]) as file:
            left = MAX_BYTES[name]
            while chunk := file.read(CHUNK_BYTES):
                left -= len(chunk)
                if left < 0:
                    raise BundleUnreadable(f"{name} has more than {MAX_BYTES[name]} bytes")
                yield chunk

    def content(self, name: str) -> bytes:
        """All bytes of a file that fits into memory. Raises `BundleUnreadable`."""
        if MAX_BYTES[name] > MAX_IN_MEMORY_BYTES:
            raise BundleUnreadable(f"{name} is too large to be read into memory")
        return b"".join(self.chunks(name))

    def text(self, name: str) -> str:
        """A small file as text. Raises `BundleUnreadable`."""
        try:
            return self.content(name).decode()
        except UnicodeDecodeError:
            raise BundleUnreadable(f"{name} is not UTF-8 text") from None

    def lines(self, name: str) -> Iterator[bytes]:
        """The lines of a file with their newlines. Raises `BundleUnreadable`, also if the last one has no newline."""
        rest = b""
        for chunk in self.chunks(name):
            *complete, rest = (rest + chunk).split(b"\n")
            for line in complete:
                yield line + b"\n"
            if len(rest) > MAX_LINE_BYTES:
                raise BundleUnreadable(f"{name} has a line of more than {MAX_LINE_BYTES} bytes")
        if rest:
            raise BundleUnreadable(f"the last line of {name} is incomplete: something was cut off")

    def decoded(self, name: str, kind: type[Read]) -> Read:
        """The JSON of a file as this type. Raises `BundleUnreadable`."""
        content = self.content(name)
        if not is_plausible(content):
            raise BundleUnreadable(f"{name} has very many tiny values: it was made to fill the memory")
        try:
            return msgspec.json.decode(content, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, OverflowError) as error:
            raise BundleUnreadable(f"{name} is malformed: {str(error)[:300]}") from None

    def digest(self, name: str) -> str:
        """The SHA-256 of a file, in hex. Raises `BundleUnreadable`."""
        digest = hashlib.sha256()
        for chunk in self.chunks(name):
            digest.update(chunk)
        return digest.hexdigest()

    def manifest(self) -> Manifest:
        """manifest.json. Raises `BundleUnreadable`, also for another format or another encoding."""
        content = self.content(MANIFEST)
        manifest = self.decoded(MANIFEST, Manifest)
        if manifest.format != FORMAT:
            raise BundleUnreadable(
                f"this bundle has the format {manifest.format[:80]!r}, this Tracker reads {FORMAT}: use another version"
            )
        if encode_manifest(manifest) != content:
            raise BundleUnreadable(f"{MANIFEST} is not encoded as Tracker encodes it: it was edited")
        return manifest


def is_plausible(content: bytes) -> bool:
    """Whether it is safe to decode JSON: millions of empty lists would fill the memory."""
    containers, commas = content.count(b"{") + content.count(b"["), content.count(b",")
    return len(content) <= SMALL_JSON or (
        containers * BYTES_PER_CONTAINER <= len(content) and commas * BYTES_PER_COMMA <= len(content)
    )


@contextlib.contextmanager
def open_bundle(path: Path) -> Generator[OpenBundle]:
    """Open a bundle. Raises `BundleUnreadable`, and `OSError` if there is no such file."""
    with path.open("rb") as file:
        with _as_unreadable("the file"):
            archive = zipfile.ZipFile(file)
        with archive:
            with _as_unreadable("the file"):
                _expect_safe(archive, file, path.stat().st_size)
            yield OpenBundle(file, archive)


def _expect_safe(archive: zipfile.ZipFile, file: IO[bytes], size: int) -> None:
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
            raise BundleUnreadable(f"{shown} is encrypted or compressed in a way no bundle is")
        if info.file_size > MAX_BYTES[info.filename]:
            raise BundleUnreadable(
                f"{shown} has {info.file_size} bytes, at most {MAX_BYTES[info.filename]} are allowed"
            )
    if sum(info.file_size for info in infos) > EXTRA_BYTES + MAX_RATIO * size:
        raise BundleUnreadable("it unpacks to far more than any bundle does: it was made to fill a disk")
    if archive.comment:
        raise BundleUnreadable("something was added after its end")
    _expect_contiguous(archive, file, size)


def _expect_contiguous(archive: zipfile.ZipFile, file: IO[bytes], size: int) -> None:
    """Raise `BundleUnreadable` unless the files and the central directory fill the zip without gaps."""
    at = 0
    for info in sorted(archive.infolist(), key=lambda each: each.header_offset):
        if info.header_offset != at:
            raise BundleUnreadable("something is hidden between its files")
        file.seek(at)
        header = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
        name_length, extra_length = header[-2:]
        if header[0] != b"PK\x03\x04" or file.read(name_length) != info.filename.encode():
            raise BundleUnreadable("its files are not those in its central directory")
        at += LOCAL_HEADER.size + name_length + extra_length + info.compress_size
    file.seek(-END_RECORD.size, 2)
    *_, directory_bytes, directory_at, _ = END_RECORD.unpack(file.read(END_RECORD.size))
    # A bundle of more than 4 GiB has the real values in a ZIP64 record before this one.
    is_zip64 = ZIP64 in {directory_bytes, directory_at}
    if at != archive.start_dir or not (is_zip64 or directory_at + directory_bytes + END_RECORD.size == size):
        raise BundleUnreadable("something is hidden between or after its files")


@contextlib.contextmanager
def _as_unreadable(what: str) -> Generator[None]:
    try:
        yield
    except (
        zipfile.BadZipFile, zlib.error, OSError, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError, MemoryError,
    ) as error:  # fmt: skip
        raise BundleUnreadable(f"{what} cannot be unpacked: {str(error)[:200] or type(error).__name__}") from None

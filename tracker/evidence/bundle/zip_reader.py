"""Opens a bundle from strangers safely: no content is trusted, no name becomes a path, no stated size is believed.

    [local header · name · compressed bytes] …, central directory, end record          nothing between, before or after them
    only files of a bundle, each once, plain and not encrypted      everything else is refused before a byte is unpacked
    local headers equal the central directory                       every program that unpacks it sees the same files
    no extra fields, no comments, no links, no zip64                nothing that only some programs understand
    compressed data fills its place, and has the stated size        nothing is hidden behind its end
    sizes bounded one by one and in total, counted while reading    a small zip cannot fill disk or memory

The zip is parsed here and not by `zipfile`, which overlooks most of this. Everything that makes a bundle unreadable is
raised as `BundleUnreadable`.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

import msgspec

from tracker.errors import BundleUnreadable
from tracker.evidence.bundle.manifest import (
    FORMAT, FORMAT_1, MANIFEST, MAX_BYTES, MAX_IN_MEMORY_BYTES, MAX_LINE_BYTES, PAGE_1, Manifest, encode_manifest,
)  # fmt: skip

EXTRA_BYTES = 16 * 1024 * 1024
MAX_RATIO = 200
"""A zip may unpack to at most this many times its size, plus `EXTRA_BYTES`. Records of calls never compress that well."""
CHUNK_BYTES = 256 * 1024
SMALL_JSON = 1024 * 1024
BYTES_PER_CONTAINER, BYTES_PER_COMMA = 16, 6
"""JSON larger than `SMALL_JSON` needs this many bytes per list or object, and per comma; denser JSON fills the memory."""

END_RECORD = struct.Struct("<4s4H2LH")
DIRECTORY_ENTRY = struct.Struct("<4s6H3L5H2L")
LOCAL_HEADER = struct.Struct("<4s5H3L2H")
ZIP64_SIZES = struct.Struct("<2H2Q")
END_MAGIC, ENTRY_MAGIC, LOCAL_MAGIC = b"PK\x05\x06", b"PK\x01\x02", b"PK\x03\x04"
LOCATOR_MAGIC, LOCATOR_BYTES = b"PK\x06\x07", 20
"""A zip64 end record would be found by this, in front of the plain one."""
MAX_DIRECTORY_BYTES = 1024 * 1024
STORED, DEFLATED = 0, 8
DOS, UNIX = 0, 3
FILE_TYPE, REGULAR_FILE = 0o170000, 0o100000
MAX_ZIP_VERSION = 45
UNKNOWN_SIZE = 0xFFFFFFFF

Read = TypeVar("Read")


class _Member(NamedTuple):
    """One file of the zip. `at`: where its compressed bytes begin."""

    at: int
    packed: int
    size: int
    crc: int
    is_deflated: bool


class OpenBundle:
    """An open bundle. `sizes`: name of a file in it → bytes."""

    def __init__(self, file: IO[bytes], members: dict[str, _Member], *, has_extra_fields: bool) -> None:
        self._file = file
        self._members = members
        self._has_extra_fields = has_extra_fields
        self.sizes = {name: member.size for name, member in members.items()}

    def chunks(self, name: str) -> Iterator[bytes]:
        """The bytes of a file in chunks of bounded size. Raises `BundleUnreadable`."""
        member = self._members.get(name)
        if member is None:
            raise BundleUnreadable(f"{name} is missing")
        crc, left = 0, member.size
        try:
            for chunk in self._inflated(member) if member.is_deflated else self._packed(member):
                crc, left = zlib.crc32(chunk, crc), left - len(chunk)
                if left < 0:
                    break
                yield chunk
        except (zlib.error, OSError, EOFError) as error:
            raise BundleUnreadable(f"{name} cannot be unpacked: {str(error)[:200] or type(error).__name__}") from None
        if left or crc != member.crc:
            raise BundleUnreadable(f"{name} cannot be unpacked: size or checksum are not those in the directory")

    def content(self, name: str) -> bytearray:
        """All bytes of a file that fits into memory. Raises `BundleUnreadable`."""
        if MAX_BYTES[name] > MAX_IN_MEMORY_BYTES:
            raise BundleUnreadable(f"{name} is too large to be read into memory")
        content = bytearray()
        for chunk in self.chunks(name):
            content += chunk
        return content

    def text(self, name: str) -> str:
        """A small file as text. Raises `BundleUnreadable`."""
        try:
            return self.content(name).decode()
        except UnicodeDecodeError:
            raise BundleUnreadable(f"{name} is not UTF-8 text") from None

    def lines(self, name: str) -> Iterator[bytes]:
        """The lines of a file with their newlines. Raises `BundleUnreadable`, also if the last one has no newline."""
        rest = bytearray()
        for chunk in self.chunks(name):
            start = 0
            while (end := chunk.find(b"\n", start)) >= 0:
                yield bytes(rest) + chunk[start : end + 1]
                rest, start = bytearray(), end + 1
            rest += chunk[start:]
            if len(rest) > MAX_LINE_BYTES:
                raise BundleUnreadable(f"{name} has a line of more than {MAX_LINE_BYTES} bytes")
        if rest:
            raise BundleUnreadable(f"the last line of {name} is incomplete: something was cut off")

    def digest(self, name: str) -> str:
        """The SHA-256 of a file, in hex. Raises `BundleUnreadable`."""
        digest = hashlib.sha256()
        for chunk in self.chunks(name):
            digest.update(chunk)
        return digest.hexdigest()

    def manifest(self) -> Manifest:
        """manifest.json. Raises `BundleUnreadable`, also for another format or another encoding."""
        content = bytes(self.content(MANIFEST))
        manifest = decoded(content, Manifest, MANIFEST)
        if manifest.format not in {FORMAT_1, FORMAT}:
            raise BundleUnreadable(
                f"this bundle has the format {manifest.format[:80]!r}, this Tracker reads {FORMAT}: use another version"
            )
        if encode_manifest(manifest) != content:
            raise BundleUnreadable(f"{MANIFEST} is not encoded as Tracker encodes it: it was edited")
        is_format_1 = manifest.format == FORMAT_1
        if is_format_1 and (manifest.tracker.page != PAGE_1 or manifest.why_unsigned is not None):
            raise BundleUnreadable(f"{MANIFEST} has fields that no bundle of format 1 has: it was edited")
        if self._has_extra_fields and not is_format_1:
            raise BundleUnreadable("its files have extra fields, which no bundle of this format has")
        if len(manifest.files) > len(MAX_BYTES):
            raise BundleUnreadable(f"{MANIFEST} names {len(manifest.files)} files: it was edited")
        return manifest

    def _packed(self, member: _Member) -> Iterator[bytes]:
        at, end = member.at, member.at + member.packed
        while at < end:
            self._file.seek(at)
            chunk = self._file.read(min(CHUNK_BYTES, end - at))
            if not chunk:
                raise EOFError("the file ends too early")
            at += len(chunk)
            yield chunk

    def _inflated(self, member: _Member) -> Iterator[bytes]:
        packed, waiting = self._packed(member), b""
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        while not inflate.eof:
            waiting = waiting or next(packed, b"")
            is_last = not waiting
            chunk = inflate.decompress(waiting, CHUNK_BYTES)
            waiting = inflate.unconsumed_tail
            if chunk:
                yield chunk
            elif is_last and not inflate.eof:
                raise EOFError("its compressed data is incomplete")
        if inflate.unused_data or waiting or next(packed, b""):
            raise EOFError("something is hidden behind its compressed data")


class ContentComparison:
    """Compares the bytes of a file, in chunks of any size, with pieces of any size."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._held, self._at = b"", 0

    def continues_with(self, piece: bytes) -> bool:
        """Whether these are the next bytes."""
        while len(self._held) < self._at + len(piece):
            chunk = next(self._chunks, b"")
            if not chunk:
                return False
            self._held, self._at = self._held[self._at :] + chunk, 0
        if not self._held.startswith(piece, self._at):
            return False
        self._at += len(piece)
        return True

    def is_at_end(self) -> bool:
        """Whether all bytes were compared."""
        return self._at == len(self._held) and not next(self._chunks, b"")


def decoded(content: bytes | bytearray | msgspec.Raw, kind: type[Read], what: str) -> Read:
    """JSON as this type. Raises `BundleUnreadable`, whose message names `what`; also where it would fill the memory."""
    if not is_plausible(content):
        raise BundleUnreadable(f"{what} has very many tiny values: it was made to fill the memory")
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, OverflowError) as error:
        raise BundleUnreadable(f"{what} is malformed: {str(error)[:300]}") from None


def is_plausible(content: bytes | bytearray | msgspec.Raw) -> bool:
    """Whether it is safe to decode JSON: millions of empty lists would fill the memory."""
    text = memoryview(content)
    if len(text) <= SMALL_JSON:
        return True
    whole = bytes(text)
    containers, commas = whole.count(b"{") + whole.count(b"["), whole.count(b",")
    return containers * BYTES_PER_CONTAINER <= len(whole) and commas * BYTES_PER_COMMA <= len(whole)


@contextlib.contextmanager
def open_bundle(path: Path) -> Generator[OpenBundle]:
    """Open a bundle. Raises `BundleUnreadable`, and `OSError` if there is no such file."""
    with path.open("rb") as file:
        yield _read_zip(file, path.stat().st_size)


def _read_zip(file: IO[bytes], size: int) -> OpenBundle:
    directory_at, directory, entries = _read_directory(file, size)
    members: dict[str, _Member] = {}
    at, place, has_extra_fields = 0, 0, False
    while place < len(directory):
        name, entry, place = _read_entry(directory, place)
        if name in members:
            raise BundleUnreadable(f"it has the file {name} more than once")
        if entry.at != at:
            raise BundleUnreadable("something is hidden between its files")
        member, has_extra = _read_local_header(file, at, directory_at, name, entry)
        has_extra_fields |= has_extra
        members[name] = member
        at = member.at + member.packed
    if at != directory_at or len(members) != entries:
        raise BundleUnreadable("something is hidden between or after its files")
    if sum(member.size for member in members.values()) > EXTRA_BYTES + MAX_RATIO * size:
        raise BundleUnreadable("it unpacks to far more than any bundle does: it was made to fill a disk")
    return OpenBundle(file, members, has_extra_fields=has_extra_fields)


def _read_directory(file: IO[bytes], size: int) -> tuple[int, bytes, int]:
    """Where the central directory begins, its bytes, and how many entries the end record counts in it."""
    file.seek(max(0, size - END_RECORD.size))
    end = file.read(END_RECORD.size)
    if len(end) < END_RECORD.size or not end.startswith(END_MAGIC):
        raise BundleUnreadable(
            "it cannot be unpacked: it is no zip, or it was cut off, or something was added after its end"
        )
    _, disk, first_disk, here, entries, length, at, comment = END_RECORD.unpack(end)
    if entries > len(MAX_BYTES):
        raise BundleUnreadable(f"it has {entries} files; a bundle has at most {len(MAX_BYTES)}")
    if disk or first_disk or here != entries:
        raise BundleUnreadable("it is a part of a zip of several disks, which no bundle is")
    if comment or at + length + END_RECORD.size != size:
        raise BundleUnreadable("something is hidden before, between or after its files")
    if length > MAX_DIRECTORY_BYTES:
        raise BundleUnreadable("its directory is larger than that of any bundle")
    file.seek(at)
    directory = file.read(length)
    if directory[-LOCATOR_BYTES:].startswith(LOCATOR_MAGIC):
        raise BundleUnreadable("it has a second end record, which only some programs read")
    return at, directory, entries


class _Entry(NamedTuple):
    """What an entry of the directory states. `at`: where its local header is, which states the rest once more.

    `headers`: version, flags, method, time and date.
    """

    at: int
    headers: tuple[int, ...]
    crc: int
    packed: int
    size: int


def _read_entry(directory: bytes, place: int) -> tuple[str, _Entry, int]:
    """Name and content of one entry of the directory, and where the next one begins."""
    name_at = place + DIRECTORY_ENTRY.size
    if name_at > len(directory):
        raise BundleUnreadable("something is hidden in its directory")
    (
        magic, made_by, needed, flags, method, time, date, crc, packed, size, name_length, extra, comment, disk, internal,
        external, at,
    ) = DIRECTORY_ENTRY.unpack_from(directory, place)  # fmt: skip
    raw_name = directory[name_at : name_at + name_length]
    name = raw_name.decode("ascii", "replace")
    if magic != ENTRY_MAGIC:
        raise BundleUnreadable("something is hidden in its directory")
    if name not in MAX_BYTES:
        raise BundleUnreadable(f"it has a file {raw_name[:80].decode('utf-8', 'replace')!a}, which no bundle has")
    if flags or method not in {STORED, DEFLATED} or needed > MAX_ZIP_VERSION:
        raise BundleUnreadable(f"{name} is encrypted or compressed in a way no bundle is")
    if extra or comment:
        raise BundleUnreadable(f"{name} has extra fields or a comment, where something can be hidden")
    if made_by >> 8 not in {DOS, UNIX} or external & 0xFFFF or external >> 16 & FILE_TYPE not in {0, REGULAR_FILE}:
        raise BundleUnreadable(f"{name} is a link or another special file")
    if disk or internal > 1:
        raise BundleUnreadable(f"{name} has settings that no file of a bundle has")
    if size > MAX_BYTES[name]:
        raise BundleUnreadable(f"{name} has {size} bytes, at most {MAX_BYTES[name]} are allowed")
    if method == STORED and packed != size:
        raise BundleUnreadable(f"{name} has two sizes")
    return name, _Entry(at, (needed, flags, method, time, date), crc, packed, size), name_at + name_length


def _read_local_header(file: IO[bytes], at: int, end: int, name: str, entry: _Entry) -> tuple[_Member, bool]:
    """The member whose header is at this place, and whether it has the extra field of format 1: its sizes once more, for zip64."""
    file.seek(at)
    header = file.read(LOCAL_HEADER.size)
    if at + LOCAL_HEADER.size + len(name) > end or not header.startswith(LOCAL_MAGIC):
        raise BundleUnreadable("something is hidden between its files")
    _, *headers, crc, packed, size, name_length, extra_length = LOCAL_HEADER.unpack(header)
    sizes = (packed, size)
    if extra_length == ZIP64_SIZES.size and sizes == (UNKNOWN_SIZE, UNKNOWN_SIZE) and name_length == len(name):
        file.seek(at + LOCAL_HEADER.size + name_length)
        kind, length, size, packed = ZIP64_SIZES.unpack(file.read(ZIP64_SIZES.size))
        sizes = (packed, size) if (kind, length) == (1, ZIP64_SIZES.size - 4) else sizes
    elif extra_length:
        raise BundleUnreadable(f"{name} has extra fields, where something can be hidden")
    file.seek(at + LOCAL_HEADER.size)
    if name_length != len(name) or file.read(name_length) != name.encode():
        raise BundleUnreadable("its files are not those in its central directory")
    if (tuple(headers), crc, sizes) != (entry.headers, entry.crc, (entry.packed, entry.size)):
        raise BundleUnreadable(f"{name} has two headers that differ: programs would unpack it differently")
    data_at = at + LOCAL_HEADER.size + name_length + extra_length
    if data_at + entry.packed > end:
        raise BundleUnreadable("its files overlap")
    return _Member(data_at, entry.packed, entry.size, entry.crc, entry.headers[2] == DEFLATED), bool(extra_length)

"""Every program unpacks an accepted zip to the same files. A zip that programs could read differently is refused."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracker.errors import BundleUnreadable
from tracker.evidence.bundle import zip_reader
from tracker.evidence.bundle.zip_reader import open_bundle
from tracker.evidence.bundle.zip_writer import BundleWriter

FILES = {"records.jsonl": b'{"position":1}\n' * 50, "README.html": b"<p>all of it</p>", "manifest.json": b"{}\n"}
LOCAL = ("needed", "flags", "method", "time", "date", "crc", "packed", "size", "name_length", "extra_length")
CENTRAL = (
    "made_by", "needed", "flags", "method", "time", "date", "crc", "packed", "size", "name_length", "extra_length",
    "comment_length", "disk", "internal", "external", "offset",
)  # fmt: skip
END = ("disk", "first_disk", "here", "entries", "length", "offset", "comment_length")


class Member:
    """One file of a zip. `local` and `central` override fields of its headers; `both`, of both."""

    def __init__(self, name: str, content: bytes, **changes: Any) -> None:
        self.name, self.content, self.changes = changes.get("called", name), content, changes

    def packed(self) -> bytes:
        if self.field("method", 8) == 0:
            return self.content
        deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
        return deflate.compress(self.content) + deflate.flush() + self.changes.get("tail", b"")

    def field(self, name: str, usual: int, where: str = "both") -> int:
        return self.changes.get(where, {}).get(name, self.changes.get("both", {}).get(name, usual))

    def headers(self, offset: int) -> tuple[bytes, bytes]:
        """Local header with the data behind it, and entry of the directory."""
        data, name = self.packed(), self.name.encode()
        extra, central_extra = self.changes.get("extra", b""), self.changes.get("central_extra", b"")
        comment = self.changes.get("comment", b"")
        usual = dict(
            made_by=0x0314, needed=20, flags=0, method=8, time=0, date=33, crc=zlib.crc32(self.content),
            packed=len(data), size=len(self.content), name_length=len(name), disk=0, internal=0, external=0o644 << 16,
            offset=offset,
        )  # fmt: skip
        local = {**usual, "extra_length": len(extra)}
        central = {**usual, "extra_length": len(central_extra), "comment_length": len(comment)}
        one = struct.pack("<4s5H3L2H", b"PK\x03\x04", *(self.field(each, local[each], "local") for each in LOCAL))
        other = struct.pack(
            "<4s6H3L5H2L", b"PK\x01\x02", *(self.field(each, central[each], "central") for each in CENTRAL)
        )
        local_name = self.changes.get("local_name", self.name).encode()
        return one + local_name + extra + data, other + name + central_extra + comment


def built(members: Sequence[Member], *, before: bytes = b"", after: bytes = b"", comment: bytes = b"", gap: bytes = b"", **end: int) -> bytes:  # fmt: skip
    content, directory = before, b""
    for n, member in enumerate(members):
        local, central = member.headers(len(content))
        content, directory = content + local + (gap if n == 0 else b""), directory + central
    fields = dict(
        disk=0, first_disk=0, here=len(members), entries=len(members), length=len(directory), offset=len(content),
        comment_length=len(comment),
    ) | end  # fmt: skip
    return (
        content + directory + after + struct.pack("<4s4H2LH", b"PK\x05\x06", *(fields[name] for name in END)) + comment
    )


def honest(**changes: Any) -> list[Member]:
    """The members; the changes are of the first one."""
    return [Member(name, content, **(changes if n == 0 else {})) for n, (name, content) in enumerate(FILES.items())]


def read(path: Path) -> dict[str, bytes]:
    with open_bundle(path) as bundle:
        return {name: b"".join(bundle.chunks(name)) for name in bundle.sizes}


def refusal(content: bytes, path: Path) -> str:
    path.write_bytes(content)
    with pytest.raises(BundleUnreadable) as raised:
        read(path)
    return str(raised.value)


def test_a_plain_zip_is_read(tmp_path: Path) -> None:
    for members in (honest(), honest(both={"method": 0})):
        (tmp_path / "it.zip").write_bytes(built(members))
        assert read(tmp_path / "it.zip") == FILES


def test_a_zip_of_the_writer_is_read_and_has_no_extra_fields(tmp_path: Path) -> None:
    with (tmp_path / "it.zip").open("wb") as file:
        writer = BundleWriter(file)
        for name, content in FILES.items():
            writer.add(name, content)
        writer.close()
    assert read(tmp_path / "it.zip") == FILES
    content = (tmp_path / "it.zip").read_bytes()
    assert content == built(honest()), "byte for byte"


def stale(content: bytes) -> bytes:
    """A compressed stream with another one behind its end."""
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
    return deflate.compress(content) + deflate.flush()


SIZES = struct.pack("<2H2Q", 1, 16, len(FILES["records.jsonl"]), 7)
FORGERIES: dict[str, tuple[Callable[[], bytes], str]] = {
    "another name in the local header": (lambda: built(honest(local_name="timeline.jso")), "not those in its central"),
    "another name of the same length": (lambda: built(honest(local_name="records.JSONL")), "not those in its central"),
    "another size in the local header": (lambda: built(honest(local={"size": 3})), "two headers that differ"),
    "another packed size in the local header": (lambda: built(honest(local={"packed": 3})), "two headers that differ"),
    "another checksum in the local header": (lambda: built(honest(local={"crc": 3})), "two headers that differ"),
    "another method in the local header": (lambda: built(honest(local={"method": 0})), "two headers that differ"),
    "another time in the local header": (lambda: built(honest(local={"time": 3})), "two headers that differ"),
    "another version in the local header": (lambda: built(honest(local={"needed": 45})), "two headers that differ"),
    "flags only in the local header": (lambda: built(honest(local={"flags": 1})), "two headers that differ"),
    "an encrypted file": (lambda: built(honest(both={"flags": 1})), "encrypted"),
    "a data descriptor": (lambda: built(honest(both={"flags": 8})), "encrypted or compressed in a way"),
    "names in UTF-8": (lambda: built(honest(both={"flags": 0x800})), "encrypted or compressed in a way"),
    "a masked directory": (lambda: built(honest(both={"flags": 0x2000})), "encrypted or compressed in a way"),
    "another method": (lambda: built(honest(both={"method": 12})), "encrypted or compressed in a way"),
    "stored, with two sizes": (lambda: built(honest(both={"method": 0, "size": 3})), "two sizes"),
    "a newer version needed": (lambda: built(honest(both={"needed": 63})), "encrypted or compressed in a way"),
    "an extra field in the directory": (lambda: built(honest(central_extra=b"ux\x00\x00")), "extra fields or a comment"),
    "a comment of a file": (lambda: built(honest(comment=b"hello")), "extra fields or a comment"),
    "an extra field in the local header": (lambda: built(honest(extra=b"ux\x00\x00")), "extra fields"),
    "a Unicode name in an extra field": (lambda: built(honest(extra=b"up\x09\x00\x01\x00\x00\x00\x00evil")), "extra fields"),
    "zip64 sizes of another size": (lambda: built(honest(extra=SIZES, local={"size": 2**32 - 1, "packed": 2**32 - 1})), "two headers that differ"),
    "zip64 sizes beside plain ones": (lambda: built(honest(extra=SIZES)), "extra fields"),
    "zip64 sizes in the directory": (lambda: built(honest(central_extra=SIZES, central={"size": 2**32 - 1})), "extra fields or a comment"),
    "a link": (lambda: built(honest(central={"external": 0o120777 << 16})), "a link or another special file"),
    "a folder": (lambda: built(honest(central={"external": 0o040755 << 16})), "a link or another special file"),
    "a folder for DOS": (lambda: built(honest(central={"external": 0x10})), "a link or another special file"),
    "a file of another system": (lambda: built(honest(central={"made_by": 0x0A14})), "a link or another special file"),
    "a file on another disk": (lambda: built(honest(central={"disk": 1})), "settings that no file"),
    "unknown inner attributes": (lambda: built(honest(central={"internal": 4})), "settings that no file"),
    "another place in the directory": (lambda: built(honest(central={"offset": 5})), "hidden between its files"),
    "bytes behind the compressed data": (lambda: built(honest(tail=b"hidden")), "hidden behind its compressed data"),
    "a second stream behind the first": (lambda: built(honest(tail=stale(b"another story"))), "hidden behind its compressed data"),
    "less than the stated size": (lambda: built(honest(both={"size": 10_000})), "size or checksum"),
    "more than the stated size": (lambda: built(honest(both={"size": 10})), "size or checksum"),
    "a wrong checksum": (lambda: built(honest(both={"crc": 1})), "size or checksum"),
    "compressed data cut short": (lambda: built(honest(both={"packed": 5})), "hidden between its files"),
    "a file twice": (lambda: built([*honest(), *honest()]), "more than once"),
    "a name with a folder": (lambda: built(honest(called="x/records.jsonl")), "which no bundle has"),
    "a name that climbs": (lambda: built(honest(called="../records.jsonl")), "which no bundle has"),
    "an absolute name": (lambda: built(honest(called="/records.jsonl")), "which no bundle has"),
    "a name with a backslash": (lambda: built(honest(called="x\\records.jsonl")), "which no bundle has"),
    "a name in other letters": (lambda: built(honest(called="RECORDS.jsonl")), "which no bundle has"),
    "a name with a NUL": (lambda: built(honest(called="records.jsonl\0.exe")), "which no bundle has"),
    "a name with a blank": (lambda: built(honest(called="records.jsonl ")), "which no bundle has"),
    "an empty name": (lambda: built(honest(called="")), "which no bundle has"),
    "bytes before the files": (lambda: built(honest(), before=b"#!/bin/sh\n"), "hidden between its files"),
    "bytes between the files": (lambda: built(honest(), gap=b"hidden"), "hidden between its files"),
    "a file that the directory leaves out": (lambda: built(honest(), gap=honest()[1].headers(0)[0]), "hidden between its files"),
    "bytes behind the directory": (lambda: built(honest(), after=b"hidden"), "hidden before, between or after"),
    "bytes at the end": (lambda: built(honest()) + b"\0", "something was added after its end"),
    "a comment": (lambda: built(honest(), comment=b"hello"), "something was added after its end"),
    "a comment without its length": (lambda: built(honest(), comment_length=5), "hidden before, between or after"),
    "a second end record": (lambda: (whole := built(honest())) + whole[-22:], "hidden before, between or after"),
    "two zips in one file": (lambda: built(honest()) + built(honest()), "hidden before, between or after"),
    "more disks": (lambda: built(honest(), disk=1), "several disks"),
    "a first disk": (lambda: built(honest(), first_disk=1), "several disks"),
    "fewer files on this disk": (lambda: built(honest(), here=1), "several disks"),
    "fewer files counted": (lambda: built(honest(), here=2, entries=2), "hidden between or after"),
    "more files counted": (lambda: built(honest(), here=4, entries=4), "hidden between or after"),
    "a zip64 end record": (lambda: built(honest(), after=struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 3, 3, 9, 9) + struct.pack("<4sLQL", b"PK\x06\x07", 0, 9, 1)), "hidden before, between or after"),
    "zip64 counts": (lambda: built(honest(), here=0xFFFF, entries=0xFFFF), "65535 files"),
    "zip64 offsets": (lambda: built(honest(), offset=0xFFFFFFFF), "hidden before, between or after"),
    "a directory elsewhere": (lambda: built(honest(), offset=0), "hidden before, between or after"),
    "nothing": (lambda: b"", "no zip"),
    "half an end record": (lambda: built(honest())[-10:], "no zip"),
    "no zip": (lambda: b"x" * 500, "no zip"),
}  # fmt: skip


@pytest.mark.parametrize("what", FORGERIES)
def test_a_zip_that_programs_could_read_differently_is_refused(what: str, tmp_path: Path) -> None:
    make, words = FORGERIES[what]
    assert words in refusal(make(), tmp_path / "bad.zip")


def test_an_empty_zip_has_no_files(tmp_path: Path) -> None:
    (tmp_path / "it.zip").write_bytes(built([]))
    assert read(tmp_path / "it.zip") == {}


def test_overlapping_files_are_refused(tmp_path: Path) -> None:
    """Two entries share their compressed bytes: a bomb without a large stream."""
    one, two, three = honest()
    content, directory = b"", b""
    for member in (one, two):
        local, central = member.headers(len(content))
        content, directory = content + local, directory + central
    _, again = Member("timeline.json", three.content).headers(0)
    directory += again
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 3, 3, len(directory), len(content), 0)
    assert "hidden between" in refusal(content + directory + end, tmp_path / "bad.zip")


def forward(content: bytes) -> dict[str, bytes]:
    """The files that a program reads from local headers alone, without the directory."""
    found: dict[str, bytes] = {}
    at = 0
    while content[at : at + 4] == b"PK\x03\x04":
        _, _, method, _, _, _, packed, _, name_length, extra_length = struct.unpack_from("<5H3L2H", content, at + 4)
        name = content[at + 30 : at + 30 + name_length].decode()
        at += 30 + name_length + extra_length
        data = content[at : at + packed]
        found[name] = zlib.decompressobj(-15).decompress(data) if method else data
        at += packed
    return found


WHOLE = built(honest())
HEADERS = [n for start in (WHOLE.index(name.encode()) for name in FILES) for n in range(start - 30, start + 16)]
PLACES = st.one_of(st.sampled_from(HEADERS), st.integers(WHOLE.index(b"PK\x01\x02"), len(WHOLE) - 1))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(PLACES, st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 3),
    added=st.binary(max_size=3),
)
def test_an_accepted_zip_has_the_same_files_in_its_directory_and_in_its_local_headers(
    changes: list[tuple[int, int]], cut: int, added: bytes, tmp_path: Path
) -> None:
    content = bytearray(WHOLE)
    for place, byte in changes:
        content[place] = byte
    whole = bytes(content[: len(content) - cut]) + added
    path = tmp_path / "it.zip"
    path.write_bytes(whole)
    try:
        found = read(path)
    except BundleUnreadable:
        assert whole != WHOLE
        return
    assert found == FILES == forward(whole)
    with zipfile.ZipFile(BytesIO(whole)) as other:
        assert {name: other.read(name) for name in other.namelist()} == FILES


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=5000), chunk=st.integers(1, 300))
def test_lines_and_chunks_of_any_size_equal_the_file(
    content: bytes, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zip_reader, "CHUNK_BYTES", chunk)
    path = tmp_path / "it.zip"
    path.write_bytes(built([Member("records.jsonl", content + b"\n")]))
    with open_bundle(path) as bundle:
        chunks = list(bundle.chunks("records.jsonl"))
        assert b"".join(chunks) == content + b"\n"
        assert max(map(len, chunks)) <= chunk
        assert list(bundle.lines("records.jsonl")) == [line + b"\n" for line in content.split(b"\n")]

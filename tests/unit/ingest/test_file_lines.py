"""Lines are the same in every encoding, with every line end, packed or not; what cannot be read is named."""

from __future__ import annotations

import codecs
import gzip
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracker.ingest.file_lines import FileLine, UnknownFormat, file_lines

MAX = 1000
NOT_BLANK = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=20)


def lines_of(file: Path, content: bytes, max_bytes: int = MAX) -> list[FileLine]:
    file.write_bytes(content)
    return list(file_lines(file, max_bytes, lambda _done, _size: None))


def texts_of(file: Path, content: bytes) -> list[bytes | None]:
    return [line.text for line in lines_of(file, content)]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(NOT_BLANK, min_size=1, max_size=5),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    mark=st.sampled_from([b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE]),
    packed=st.booleans(),
)
def test_lines_are_the_same_in_every_encoding_and_with_every_line_end(
    lines: list[str], end: str, mark: bytes, packed: bool, tmp_path: Path
) -> None:
    names = {
        codecs.BOM_UTF16_LE: "utf-16-le",
        codecs.BOM_UTF16_BE: "utf-16-be",
        codecs.BOM_UTF32_LE: "utf-32-le",
    }
    content = mark + "".join(line + end for line in ["{", *lines]).encode(names.get(mark, "utf-8"))
    found = lines_of(tmp_path / "a.log", gzip.compress(content) if packed else content)
    assert [line.text for line in found] == [line.encode() for line in ["{", *lines]]
    assert [line.number for line in found] == list(range(1, len(lines) + 2))
    assert all(line.is_whole for line in found)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_byte_order_mark_is_recognised(encoding: str, tmp_path: Path) -> None:
    assert texts_of(tmp_path / "a", '{"event":"é"}\n'.encode(encoding)) == ['{"event":"é"}'.encode()]


def test_bytes_in_no_encoding_are_unchanged(tmp_path: Path) -> None:
    line = bytes(each for each in range(1, 256) if each not in b"\r\n")
    assert texts_of(tmp_path / "a", line + b"\n") == [line]


def test_utf_16_that_ends_in_the_middle_of_a_character_gives_all_lines_before(tmp_path: Path) -> None:
    found = lines_of(tmp_path / "a", "one\ntwo\nthree".encode("utf-16")[:-1])
    assert [line.text for line in found][:2] == [b"one", b"two"]
    assert not found[2].is_whole


@pytest.mark.parametrize("cut", range(40, 400, 40))
def test_a_cut_gzip_gives_the_whole_lines_before_the_cut_and_then_says_so(cut: int, tmp_path: Path) -> None:
    lines = [b"%064x" % (n * 7919**9) for n in range(20)]
    packed = gzip.compress(b"\n".join(lines) + b"\n")
    (tmp_path / "a.gz").write_bytes(packed[:cut])
    found: list[bytes | None] = []
    with pytest.raises((EOFError, zlib.error)):
        for line in file_lines(tmp_path / "a.gz", MAX, lambda _done, _size: None):
            found.append(line.text)  # noqa: PERF401 - kept when the reader raises
    assert found == lines[: len(found)]
    if cut > 200:
        assert found


def test_nul_bytes_at_both_ends_of_a_line_are_removed_however_many(tmp_path: Path) -> None:
    content = bytes(3 * MAX + 7) + b"one\n\0\0two\0\n\0\0"
    assert texts_of(tmp_path / "a", content) == [b"one", b"two"]
    assert texts_of(tmp_path / "a", bytes(5 * MAX)) == []


def test_a_line_that_is_too_long_is_given_without_its_text_and_the_next_one_follows(tmp_path: Path) -> None:
    for length in (MAX + 1, 5 * MAX):
        found = lines_of(tmp_path / "a", b"x" * length + b"\nnext\n" + b"y" * MAX)
        assert [(line.number, line.text) for line in found] == [(1, None), (2, b"next"), (3, b"y" * MAX)]


def test_an_array_on_one_line_may_be_longer_than_a_line(tmp_path: Path) -> None:
    objects = [b'{"n":%d,"text":"a } and a \\" %s"}' % (n, b"x" * n) for n in range(100)]
    found = lines_of(tmp_path / "a.json", b" [" + b", ".join(objects) + b"]\n")
    assert [line.text for line in found] == objects
    assert {line.number for line in found} == {1}


def test_of_a_long_array_only_the_object_that_is_too_long_is_missing(tmp_path: Path) -> None:
    large = b'{"n":"%s"}' % (b"x" * 3 * MAX)
    found = lines_of(tmp_path / "a.json", b'[{"n":1},' + large + b',{"n":2},' + b" " * MAX + b'{"n":3}]')
    assert [line.text for line in found] == [b'{"n":1}', None, b'{"n":2}', b'{"n":3}']


@pytest.mark.parametrize(
    ("begin", "what"),
    [
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"BZh91AY", "bzip2"),
        (b"\xfd7zXZ\0", "xz"),
        (b"PK\x03\x04", "zip"),
        (b"LPKSHHRH", "journal"),
    ],
)
def test_a_file_in_a_format_that_is_not_read_is_named(begin: bytes, what: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownFormat, match=what):
        lines_of(tmp_path / "a", begin + b"\n{}\n")

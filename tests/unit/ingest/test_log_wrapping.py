"""Wrappings of containers and log collectors are removed, and pieces of one line are joined."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracker.ingest.log_wrapping import Line, LineJoiner

Wrap = Callable[[list[str]], list[bytes]]
"""Pieces of one line → the lines of a file with them."""


def lines_inside(*lines: bytes) -> list[Line]:
    joiner = LineJoiner(lambda fields: "event" in fields, 1 << 20)
    found = [each for number, line in enumerate(lines, start=1) for each in joiner.feed(number, line)]
    return found + list(joiner.finish())


def docker(pieces: list[str], stream: str = "stdout") -> list[bytes]:
    ends = [*[""] * (len(pieces) - 1), "\n"]
    return [
        json.dumps({"log": piece + end, "stream": stream, "time": "2024-05-01T03:00:04.1Z"}).encode()
        for piece, end in zip(pieces, ends, strict=True)
    ]


def journald(pieces: list[str], *, as_bytes: bool = False) -> list[bytes]:
    marks = [{"CONTAINER_PARTIAL_MESSAGE": "true", "CONTAINER_PARTIAL_ID": "p1"}] * len(pieces)
    marks[-1] = marks[-1] | {"CONTAINER_PARTIAL_LAST": "true"} if len(pieces) > 1 else {}
    messages = [list(piece.encode()) if as_bytes else piece for piece in pieces]
    return [
        json.dumps({"_HOSTNAME": "a", "MESSAGE": message} | mark).encode()
        for message, mark in zip(messages, marks, strict=True)
    ]


def cri(pieces: list[str], stream: str = "stdout") -> list[bytes]:
    tags = [*["P"] * (len(pieces) - 1), "F"]
    return [
        f"2024-05-01T03:00:04.123456789Z {stream} {tag} {piece}".encode()
        for piece, tag in zip(pieces, tags, strict=True)
    ]


def compose(pieces: list[str]) -> list[bytes]:
    return [f"openvidu-server-1  | {''.join(pieces)}".encode()]


def kubectl(pieces: list[str]) -> list[bytes]:
    return [b"[pod/openvidu-7d4/server] " + line for line in cri(pieces)]


WRAPPINGS: list[Wrap] = [docker, journald, lambda pieces: journald(pieces, as_bytes=True), cri, compose, kubectl]


@settings(max_examples=300, deadline=None)
@given(
    wrap=st.sampled_from(WRAPPINGS),
    pieces=st.lists(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1), min_size=1, max_size=5
    ),
)
def test_any_line_is_unwrapped_unchanged_from_any_wrapping(wrap: Wrap, pieces: list[str]) -> None:
    text = "x" + "".join(pieces)  # without a blank or prefix at the front, which would look like another wrapping
    (line,) = lines_inside(*wrap(["x" + pieces[0], *pieces[1:]]))
    assert (line.number, line.text.decode(), line.is_wrapped, line.is_whole) == (1, text, True, True)


@given(st.lists(st.sampled_from(["stdout", "stderr"]), min_size=2, max_size=12))
def test_pieces_of_two_streams_are_never_mixed(order: list[str]) -> None:
    written = [cri([f"{stream}{n}", "."], stream)[0] for n, stream in enumerate(order)]
    ends = [cri(["end"], stream)[0] for stream in ("stdout", "stderr")]
    for line in lines_inside(*written, *ends):
        assert (b"stdout" in line.text) != (b"stderr" in line.text) or line.text == b"end"


def test_a_line_longer_than_dockers_16_kib_is_one_line() -> None:
    text = "a" * 40_000
    pieces = [text[n : n + 16_384] for n in range(0, len(text), 16_384)]
    (line,) = lines_inside(*docker(pieces))
    assert line.text == text.encode()


def test_an_events_own_fields_are_no_wrapping() -> None:
    event = b'{"event":"signalSent","message":"{\\"log\\":1}"}'
    assert [line.text for line in lines_inside(event)] == [event]


def test_each_line_of_an_object_with_several_is_found() -> None:
    wrapped = json.dumps({"log": '{"event":"a"}\n{"event":"b"}\n', "stream": "stdout", "time": "2024-05-01T03:00:04Z"})
    assert [each.text for each in lines_inside(wrapped.encode())] == [b'{"event":"a"}', b'{"event":"b"}']


def test_nested_wrappings_are_removed() -> None:
    (inner,) = docker(["hello"])
    assert [line.text for line in lines_inside(b"web-1  | " + inner)] == [b"hello"]
    assert [line.text for line in lines_inside(b'{"message":"web-1  | hi"}')] == [b"hi"]


def test_terminal_colours_are_removed() -> None:
    assert [line.text for line in lines_inside(b"\x1b[36mweb-1  | \x1b[0mhello")] == [b"hello"]


def test_a_line_whose_last_piece_is_missing_is_given_at_the_end_of_the_file() -> None:
    first, _ = docker(["half", "rest"])
    (line,) = lines_inside(first)
    assert (line.text, line.is_whole) == (b"half", False)


@pytest.mark.parametrize(
    "line", [b'{"log":5}', b'{"MESSAGE":null}', b'{"MESSAGE":[300]}', b'{"log":', b'{"message":{}}']
)
def test_other_lines_are_unchanged(line: bytes) -> None:
    assert [each.text for each in lines_inside(line)] == [line]

"""Objects over several lines are joined and arrays taken apart; a damaged object never takes a good one with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracker.ingest.json_joining import JsonText, ObjectJoiner, elements, parse_object

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["{", "}", "[{", '\\"', "a: {"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(max_size=6), VALUES, min_size=1, max_size=4)


def joined(text: str) -> list[JsonText]:
    joiner = ObjectJoiner(1 << 20)
    lines = [JsonText(number, line.encode(), is_whole=True) for number, line in enumerate(text.split("\n"), start=1)]
    return [each for line in lines if line.text for each in joiner.feed(line)] + list(joiner.finish())


LAYOUTS = ("lines", "pretty", "tabs", "array", "array, one a line", "pretty array", "commas first", "sequence")


def written(objects: Sequence[Any], layout: str) -> str:
    match layout:
        case "lines":
            return "\n".join(map(json.dumps, objects))
        case "pretty":
            return "\n".join(json.dumps(each, indent=2) for each in objects)
        case "tabs":
            return "\n".join(json.dumps(each, indent="\t") for each in objects)
        case "array":
            return json.dumps(objects)
        case "array, one a line":
            return "[" + ",\n".join(map(json.dumps, objects)) + "]"
        case "commas first":
            return "[\n  " + "\n, ".join(map(json.dumps, objects)) + "\n]"
        case "sequence":
            return "\n".join("\x1e" + json.dumps(each) for each in objects)
        case _:
            return json.dumps(objects, indent=4, ensure_ascii=False)


@settings(max_examples=150, deadline=None)
@given(st.lists(OBJECTS, min_size=1, max_size=4), st.sampled_from(LAYOUTS))
def test_any_objects_are_found_in_any_layout(objects: list[Any], layout: str) -> None:
    assert [parse_object(each.text) for each in joined(written(objects, layout))] == objects


@settings(max_examples=100, deadline=None)
@given(st.lists(OBJECTS, min_size=2, max_size=4), st.sampled_from(("pretty", "pretty array")), st.data())
def test_of_a_text_with_a_damaged_line_all_other_objects_are_found(
    objects: list[Any], layout: str, data: st.DataObject
) -> None:
    lines = written(objects, layout).split("\n")
    number = data.draw(st.integers(0, len(lines) - 1))
    lines[number] = data.draw(st.sampled_from(["", "…", lines[number][: len(lines[number]) // 2]]))
    found = [parse_object(each.text) for each in joined("\n".join(lines))]
    # The damage may stand in one object, or between two.
    missing = sum(each not in found for each in objects)
    assert missing <= 2


def test_the_number_of_an_object_is_that_of_its_first_line() -> None:
    assert [each.number for each in joined('{"a":1}\n{\n"b": 2\n}\n{"c":3}')] == [1, 2, 5]


def test_an_object_behind_the_beginning_of_a_log_line_is_joined() -> None:
    (found,) = joined('12:00 POST /hook {7} "ok" {\n  "a": {\n    "b": []\n  }\n}')
    assert found.text.endswith(b'{\n  "a": {\n    "b": []\n  }\n}')


@pytest.mark.parametrize(
    "opening", ["server {", 'if (x) { foo("', '{"event": "x", "room": {', '{"event": [', "{", "Error: expected ',"]
)
def test_an_opening_that_is_never_closed_takes_no_line_with_it(opening: str) -> None:
    log = [opening, '{"event":"a"}', "[INFO] text", '[10:00:01] {"event":"b"}', '[t] {"d":1}', '{"event":"c"}']
    assert [each.text.decode() for each in joined("\n".join(log))] == log


def test_of_an_object_that_was_cut_the_objects_by_themselves_are_found_and_the_rest_is_one_line() -> None:
    damaged, alone = joined('{\n  "a": [\n    {"b": 1},\n    "c"')
    assert (damaged.number, alone.number, alone.text) == (1, 3, b'{"b": 1}')
    assert parse_object(damaged.text) is None


@given(st.lists(OBJECTS, max_size=5), st.integers(1, 40))
def test_an_array_may_come_in_pieces_of_any_size(objects: list[Any], size: int) -> None:
    text = json.dumps(objects).encode()
    pieces = [text[n : n + size] for n in range(0, len(text), size)]
    assert [json.loads(each or b"") for each in elements(pieces, 1 << 20)] == objects

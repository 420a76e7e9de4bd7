"""The fast JSON reader gives the results of the strict readers, and leaves every doubtful body to them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.sources.json_reading import BodyUnreadable, parse_carefully
from tracker.sources.plain_json import parse_unambiguous, parse_fast


@pytest.mark.parametrize(
    "body",
    [
        b'{"event":"a","n":1790000000000,"data":{"x":[1,2.5,null,true,"\xc3\xa9"]}}',
        b'{"n":-9223372036854775808,"m":9223372036854775807}',
        b'{"text":"\\"quoted\\"\\n"}',
        b' { "a b" : 1,\r\n\t"ab" : [ 1 , " " ] }\n',
    ],
)
def test_a_plain_body_is_read_as_json_reads_it(body: bytes) -> None:
    assert parse_unambiguous(body, max_depth=10) == json.loads(body) == parse_fast(body, max_depth=10)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"{", b'{"a":NaN}', b'{"a":1e400}', b'{"a":"\\ud800"}', b'{"a":"\xff"}', b'{"a":"\t"}', b"\xef\xbb\xbf{}",
        b'{"a":9223372036854775808}', b'{"a":-9223372036854775809}', b'{"a":' + b"9" * 300 + b"}", b"[" * 11 + b"]" * 11,
    ],
)  # fmt: skip
def test_a_doubtful_body_is_not_read(body: bytes) -> None:
    assert parse_fast(body, max_depth=10) is None
    assert parse_unambiguous(body, max_depth=10) is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":1}',
        b'{"a":{"b":1,"b":2}}',
        b'{"a": 1, "a": 1}',
        b'{"a ":1,"a ":1}',
        b'{"a":-0}',
        b'{"a":"\\u0041"}',
    ],
)
def test_an_ambiguous_body_is_not_certain(body: bytes) -> None:
    assert parse_fast(body, max_depth=10) is not None
    assert parse_unambiguous(body, max_depth=10) is None


def test_a_text_that_nests_deeper_than_python_recurses_is_not_read() -> None:
    assert parse_fast(b"[" * 200_000 + b"]" * 200_000, max_depth=10**6) is None


_SPACES = st.sampled_from(["", " ", "\n  ", "\t", "\r\n"])
_KEYS = st.sampled_from(["a", "b", "a ", " a", "a b", "ab", '"', "é"])
_VALUES = st.sampled_from(["1", "0.5", "1.0", "1e2", '""', '" "', '"a b"', "[]", "[ ]", "{}", '{"a":1, "a":1}', "null"])


@given(st.lists(st.tuples(_KEYS, _VALUES, _SPACES), max_size=6), _SPACES)
def test_white_space_never_hides_a_repeated_key(fields: list[tuple[str, str, str]], end: str) -> None:
    inner = ",".join(f"{gap}{json.dumps(key, ensure_ascii=False)}{gap}:{gap}{value}" for key, value, gap in fields)
    text = f"{{{inner}{end}}}"
    try:
        expected = parse_carefully(text)
    except BodyUnreadable:
        expected = None
    assert parse_unambiguous(text.encode(), max_depth=10) in (None, expected)

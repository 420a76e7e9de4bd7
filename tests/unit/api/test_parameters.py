"""Query parameters: how each kind is parsed, and errors that name the parameter."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.api import parameters as p
from tracker.views.answers import time_of
from tracker.errors import ParameterInvalid

DAY = 86_400_000_000


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("1970-01-01T00:00:00Z", 0), ("1970-01-02", DAY), ("1970-01-01T00:00:00.5Z", 500_000), ("1970-01-01t00:00:01z", 1_000_000),
        ("1970-01-01T02:00:00+02:00", 0), ("1970-01-01T02:00:00 02:00", 0), ("1969-12-31T23:00:00-01:00", 0),
        ("1969-12-31T23:59:59.999999Z", -1), ("1970-01-01T00:00:00.123456789Z", 123_456), ("2026-03-01T09:30:00.250Z", 1_772_357_400_250_000),
    ],
)  # fmt: skip
def test_a_time_is_parsed_to_microseconds(text: str, micros: int) -> None:
    assert p.parse_micros(text) == micros


@pytest.mark.parametrize(
    "text",
    ["yesterday", "2026-02-30", "2026-03-01T09:30:00", "2026-03-01 09:30:00Z", "2026-03-01T09:30Z", "1772357400", "2026-3-1",
     "2026-03-01T24:30:00Z", "2026-03-01T09:30:00+25:00", "٢٠٢٦-03-01", "0000-01-01", "2026-03-01\n"],
)  # fmt: skip
def test_text_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="RFC 3339"):
        p.parse_micros(text)


@given(st.datetimes(min_value=dt.datetime(1, 1, 2), max_value=dt.datetime(9999, 12, 30), timezones=st.just(dt.UTC)))
def test_every_time_in_an_answer_can_be_used_as_a_parameter(moment: dt.datetime) -> None:
    micros = (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)
    text = time_of(micros)
    assert text is not None
    assert p.parse_micros(text) == micros - micros % 1000


def test_a_time_outside_the_calendar_is_null() -> None:
    assert time_of(None) is None
    assert time_of(2**62) is None
    assert time_of(-(2**62)) is None


def test_a_list_is_repeated_or_comma_separated_and_has_no_repeats() -> None:
    found = p.read_query([("kind", "a,b"), ("kind", "c"), ("kind", "a")], [p.choices("kind", "", ("a", "b", "c"))])
    assert found == {"kind": ("a", "b", "c")}


def test_a_missing_parameter_has_its_default() -> None:
    accepted = [p.LIMIT, p.CURSOR, p.AT_LEAST, p.choices("kind", "", ("a", "b", "c"))]
    assert p.read_query([], accepted) == {"limit": 50, "cursor": None, "at_least": None, "kind": ()}


@pytest.mark.parametrize(
    "query",
    [[("x", "1")], [("limit", "")], [("limit", "1"), ("limit", "1")], [("limit", "0")], [("limit", "1001")], [("limit", "+1")],
     [("limit", "1.0")], [("limit", "１")], [("limit", "9" * 5000)], [("has", "a,,b")], [("has", "z")], [("text", "x" * 1025)],
     [("has", ",".join("a" * 2000))]],
)  # fmt: skip
def test_the_error_of_an_invalid_value_names_its_parameter(query: list[tuple[str, str]]) -> None:
    known = [p.LIMIT, p.choices("has", "", ("a", "b")), p.text("text", "")]
    with pytest.raises(ParameterInvalid) as caught:
        p.read_query(query, known)
    assert caught.value.parameter == query[0][0]
    assert len(str(caught.value)) < 300

"""Events in exported files: no formulas for spreadsheets, and no lost text."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.dashboard.session_events import write_csv, escape_formula, format_detail


@pytest.mark.parametrize("cell", ["=1+1", "+49", "-2", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_cell_that_looks_like_a_formula_is_defused(cell: str) -> None:
    assert escape_formula(cell) == f"'{cell}"


BLANKS = (
    "",
    " ",
    "\xa0",
    "\u200b",
    "\ufeff",
    "\u2028",
    "\u3000",
    "\x00",
    "\x1f",
    "\x0b",
    "\u180e",
    "\u202e",
    "\xad",
    "\u2800",
    "\u3164",
    "\u034f",
)


@pytest.mark.parametrize("sign", "=+-@＝＋－＠﹦﹢﹣﹫−")
@given(blanks=st.lists(st.sampled_from(BLANKS), max_size=4).map("".join), rest=st.text(max_size=5))
def test_a_formula_behind_anything_that_is_not_seen_is_defused(sign: str, blanks: str, rest: str) -> None:
    cell = blanks + sign + rest
    assert escape_formula(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["a=1", " a", "1-2", "é=", "", " ", "\u200bana", "王=1", "'=1", "~=", "≠1"])
def test_a_cell_that_begins_with_something_else_stays(cell: str) -> None:
    assert escape_formula(cell) == cell


def test_numbers_stay_numbers_and_booleans_are_words() -> None:
    assert [escape_formula(cell) for cell in (-5, 3, True, None, "a=b")] == [-5, 3, "true", None, "a=b"]


def test_csv_keeps_commas_quotes_and_line_breaks() -> None:
    rows = [["a,b", 'say "x"', "two\nlines", "ü"], ["=cmd|' /C calc'!A0", None, 1, False]]
    again = list(csv.reader(io.StringIO(write_csv(rows).decode(), newline="")))
    assert again == [["a,b", 'say "x"', "two\nlines", "ü"], ["'=cmd|' /C calc'!A0", "", "1", "false"]]


def test_a_detail_is_one_line() -> None:
    detail = {"vendor_reason": "X", "connection": "hidden", "empty": None, "deep": {"a": 1}}
    assert format_detail(detail) == 'vendor reason X · deep {"a":1}'

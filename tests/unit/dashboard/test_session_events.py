"""Events in exported files: no formulas for spreadsheets, and no lost text."""

from __future__ import annotations

import csv
import io

import pytest

from tracker.dashboard.session_events import write_csv, escape_formula, format_detail


@pytest.mark.parametrize("cell", ["=1+1", "+49", "-2", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_cell_that_looks_like_a_formula_is_defused(cell: str) -> None:
    assert escape_formula(cell) == f"'{cell}"


def test_numbers_stay_numbers_and_booleans_are_words() -> None:
    assert [escape_formula(cell) for cell in (-5, 3, True, None, "a=b")] == [-5, 3, "true", None, "a=b"]


def test_csv_keeps_commas_quotes_and_line_breaks() -> None:
    rows = [["a,b", 'say "x"', "two\nlines", "ü"], ["=cmd|' /C calc'!A0", None, 1, False]]
    again = list(csv.reader(io.StringIO(write_csv(rows).decode(), newline="")))
    assert again == [["a,b", 'say "x"', "two\nlines", "ü"], ["'=cmd|' /C calc'!A0", "", "1", "false"]]


def test_a_detail_is_one_line() -> None:
    detail = {"vendor_reason": "X", "connection": "hidden", "empty": None, "deep": {"a": 1}}
    assert format_detail(detail) == 'vendor reason X · deep {"a":1}'

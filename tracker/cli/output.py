"""Prints answers and progress: tables and bars on a terminal, plain lines and JSON elsewhere.

Answers go to standard output, progress and errors to standard error, so that a pipe gets answers only.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

PIPED_WIDTH = 200
"""Columns of a table that is not printed on a terminal: rich would squeeze it into 80."""


def print_error(message: str) -> None:
    """Print one or more lines on standard error."""
    sys.stderr.write(f"tracker: {message}\n")


def print_line(text: str) -> None:
    """Print a line on standard output, exactly as it is."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_json(value: object) -> None:
    """Print one JSON document on standard output, indented."""
    print_line(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows as a table on standard output. None is an empty cell; columns of numbers are aligned to the right."""
    table = Table(title=title, title_justify="left")
    numeric = [all(isinstance(row[n], int | None) for row in rows) and bool(rows) for n in range(len(columns))]
    for column, is_numeric in zip(columns, numeric, strict=True):
        table.add_column(column, justify="right" if is_numeric else "left", overflow="fold")
    for row in rows:
        # Text, not markup: names from vendors and people are shown as they are.
        table.add_row(*(Text("" if cell is None else printable(str(cell))) for cell in row))
    width = None if sys.stdout.isatty() else PIPED_WIDTH
    Console(soft_wrap=False, width=width, highlight=False, emoji=False).print(table)


def printable(text: str) -> str:
    """Foreign text made safe for a terminal: control characters and lone surrogates become U+FFFD."""
    return "".join(each if each.isprintable() else "\ufffd" for each in text)


@contextlib.contextmanager
def progress(title: str, unit: str) -> Generator[Callable[[int, int], None]]:
    """Yield a function to call with (done, total): it draws a bar on a terminal, prints a line each tenth elsewhere."""
    if not sys.stderr.isatty():
        yield _ProgressLines(title, unit)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _ProgressLines:
    def __init__(self, title: str, unit: str) -> None:
        self._title = title
        self._unit = unit
        self._tenths = -1

    def __call__(self, done: int, total: int) -> None:
        tenths = 10 if total <= 0 else done * 10 // total
        if tenths != self._tenths:
            self._tenths = tenths
            sys.stderr.write(f"{self._title}: {done} of {total} {self._unit}\n")
            sys.stderr.flush()


def ranges(numbers: Sequence[int], max_ranges: int = 50) -> str:
    """Ascending numbers as ranges: `1-4, 7, 9-12`; after `max_ranges` of them, how many numbers are left out."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in spans[:max_ranges]]
    more = sum(last - first + 1 for first, last in spans[max_ranges:])
    return ", ".join(shown) + (f" and {more} more" if more else "")

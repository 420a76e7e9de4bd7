"""How the command line shows things: tables and bars on a terminal, plain lines and JSON elsewhere.

Answers go to standard output, progress and complaints to standard error: what is piped on holds answers only.
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

WIDE = 200
"""Columns of a table that is not printed on a terminal: piped tables are not squeezed into 80."""


def out() -> Console:
    """Standard output."""
    return Console(soft_wrap=False, width=None if sys.stdout.isatty() else WIDE, highlight=False, emoji=False)


def print_error(message: str) -> None:
    """One line (or more) on standard error."""
    sys.stderr.write(f"tracker: {message}\n")


def print_line(text: str) -> None:
    """A line on standard output, exactly as it is."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_json(value: object) -> None:
    """One JSON document on standard output, indented."""
    print_line(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def json_line(value: object) -> str:
    """One JSON document with its newline."""
    return msgspec.json.encode(value).decode() + "\n"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table on standard output."""
    out().print(table_of(title, columns, rows))


def table_of(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """Rows as a table: None is shown as nothing, numbers stand to the right."""
    shown = Table(title=title, title_justify="left")
    numeric = [all(isinstance(row[n], int | None) for row in rows) and bool(rows) for n in range(len(columns))]
    for column, to_the_right in zip(columns, numeric, strict=True):
        shown.add_column(column, justify="right" if to_the_right else "left", overflow="fold")
    for row in rows:
        # Text, not markup: what vendors and people call things is shown as it is.
        shown.add_row(*(Text("" if cell is None else printable(str(cell))) for cell in row))
    return shown


def printable(text: str) -> str:
    """Text from elsewhere made safe for a terminal: control characters and lone surrogates become U+FFFD."""
    return "".join(each if each.isprintable() else "\ufffd" for each in text)


@contextlib.contextmanager
def progress(title: str, unit: str) -> Generator[Callable[[int, int], None]]:
    """Call what is given with (done, all): a bar on a terminal, a line each tenth of the way elsewhere."""
    if not sys.stderr.isatty():
        yield _Lines(title, unit)
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
        yield lambda done, all_of_it: bar.update(task, completed=done, total=all_of_it)


class _Lines:
    def __init__(self, title: str, unit: str) -> None:
        self._title = title
        self._unit = unit
        self._tenths = -1

    def __call__(self, done: int, all_of_it: int) -> None:
        tenths = 10 if all_of_it <= 0 else done * 10 // all_of_it
        if tenths != self._tenths:
            self._tenths = tenths
            sys.stderr.write(f"{self._title}: {done} of {all_of_it} {self._unit}\n")
            sys.stderr.flush()


def ranges(numbers: Sequence[int], most: int = 50) -> str:
    """Ascending numbers as few words: `1-4, 7, 9-12`; after `most` of them, how many more there are."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    told = [str(first) if first == last else f"{first}-{last}" for first, last in spans[:most]]
    more = sum(last - first + 1 for first, last in spans[most:])
    return ", ".join(told) + (f" and {more} more" if more else "")

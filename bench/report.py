"""What every program of `bench/` shares: its options `--smoke` and `--rows`, and how its headline figures are written.

A program is run as `python -m bench.NAME`, from the root of the checkout. It has `main(argv) -> int`: 0 means done, 1 means
that a goal was missed or a fault found. Nothing is measured here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

WIDTHS = (9, 58, 18)


class Row(NamedTuple):
    """A headline figure. `ratio` is relative to what `of` names, measured in the same run."""

    area: str
    what: str
    value: float
    unit: str
    ratio: float | None = None
    of: str = ""


def run(main: Callable[[], int]) -> None:
    """Run a program and exit with its code. After an error it ends at once: a log that is still open would keep it alive."""
    try:
        code = main()
    except Exception:
        traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
    sys.exit(code)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Options of a program with this docstring: `--smoke` and `--rows`; the program adds its own."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument(
        "--smoke", action="store_true", help="the smallest run: every part once; the figures say nothing"
    )
    found.add_argument(
        "--rows", type=Path, metavar="FILE", help="also append the headline figures to a file of JSON Lines"
    )
    return found


def write(rows: Sequence[Row], options: argparse.Namespace) -> None:
    """Print the headline figures; with `--rows`, append them to its file."""
    print(table(rows), flush=True)
    if options.rows is not None:
        with options.rows.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row._asdict()) + "\n" for row in rows)


def read(path: Path) -> list[Row]:
    """The rows that programs appended to a file."""
    return [Row(**json.loads(line)) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def table(rows: Sequence[Row]) -> str:
    """The rows as a table in Markdown."""
    cells = [("", "", "value", "relative to")]
    cells += [(row.area, row.what, f"{shown(row.value)} {row.unit}".strip(), _relative(row)) for row in rows]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(line, (*WIDTHS, 0), strict=True)) + " |"
        for line in cells
    ]
    return "\n".join([lines[0], "|---|---|---:|---|", *lines[1:]])


def _relative(row: Row) -> str:
    return "" if row.ratio is None else f"{row.ratio:.2f} of {row.of}"


def shown(value: float) -> str:
    """A figure with three significant digits; thousands have commas."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"

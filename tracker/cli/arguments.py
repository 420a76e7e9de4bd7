"""What the command modules share to declare their arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, Protocol

CONFIG = "config.toml"

Command = Callable[[argparse.Namespace], int]
"""Runs one command and returns its exit code: 0 done, 1 found a problem, 3 not everything was checked. Errors become 1 or 2 in `cli/main`."""


class Subparsers(Protocol):
    """What `ArgumentParser.add_subparsers` returns; argparse has no public name for its type."""

    def add_parser(self, name: str, **options: Any) -> argparse.ArgumentParser:
        """Add the parser of one command."""
        ...


def add_command(
    subparsers: Subparsers, name: str, run: Command, summary: str, *, as_json: bool = False
) -> argparse.ArgumentParser:
    """Add a command with `--config`, and with `--json` where it prints a table."""
    parser = subparsers.add_parser(name, help=summary, description=summary)
    parser.add_argument("--config", default=CONFIG, metavar="FILE", help="default: ./config.toml")
    # For commands that a server starts: see `cli/parent`.
    parser.add_argument("--end-with-parent", action="store_true", help=argparse.SUPPRESS)
    if as_json:
        parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(command=run)
    return parser


def position(text: str) -> int:
    """The type of an argument that is a position in the log, or another whole number from 0."""
    number = int(text)
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0")
    return number


def limit(text: str) -> int:
    """The type of `--limit`."""
    number = int(text)
    if not 1 <= number <= 1000:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 to 1000")
    return number

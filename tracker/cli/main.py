"""The command line: parses arguments, loads config.toml, runs the command, and reports errors.

Exit codes: 0 done · 1 found a problem · 2 wrong usage or configuration · 3 (`verify BUNDLE`) not everything was
checked. To add a command, write a module with `add_to` and list it in `COMMANDS`. A command imports its own module only:
importing all of them takes twice as long as most commands.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Mapping, Sequence

import structlog

from tracker.cli.arguments import CONFIG, Command
from tracker.cli.output import print_error
from tracker.config.version import tracker_version
from tracker.errors import ConfigInvalid, LogMissing, QueryError, TrackerError
from tracker.server.sources import load_config

DONE, PROBLEM, WRONG_USE = 0, 1, 2
INTERRUPTED = 130

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "init": ("init",),
    "check": ("check",),
    "serve": ("serve",),
    "import_files": ("import",),
    "rebuild": ("rebuild",),
    "sources": ("sources",),
    "keys": ("rekey", "restore-keys"),
    "erase": ("erase",),
    "copy_log": ("copy",),
    "sessions": ("sessions", "timeline"),
    "records": ("records", "export"),
    "checkpoint": ("checkpoint", "proof"),
    "verify": ("verify",),
    "mint_token": ("token",),
    "demo": ("demo",),
}
"""Each module of `tracker.cli` that declares commands, and their names; in the order of `tracker --help`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. The entry point of `tracker` and `python -m tracker`."""
    words = _command_first(sys.argv[1:] if argv is None else argv)
    arguments = parser(words).parse_args(words)
    command: Command = arguments.command
    if not structlog.is_configured():
        # Standard output is for answers, so log lines go to standard error. `serve` configures more.
        structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
    try:
        # A bundle is verified without config.toml, unless one is named.
        if arguments.needs_config and not (arguments.config is None and getattr(arguments, "bundle", None)):
            arguments.config = load_config(arguments.config or CONFIG, os.environ)
        return command(arguments)
    except (ConfigInvalid, LogMissing, QueryError) as error:
        print_error(str(error))
        return WRONG_USE
    except TrackerError as error:
        print_error(str(error))
        return PROBLEM
    except KeyboardInterrupt:
        print_error("interrupted: finished work is kept, run the command again to do the rest")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output closed the pipe. Python must not complain when it flushes the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def _command_first(words: Sequence[str]) -> Sequence[str]:
    """The words with a `--config FILE` before the command moved behind it, where each command reads it."""
    count = 2 if words[:1] == ["--config"] else 1 if words and words[0].startswith("--config=") else 0
    return [*words[count : count + 1], *words[:count], *words[count + 1 :]] if count and len(words) > count else words


def parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser of the commands that are among these words; where none is, of every command."""
    top = argparse.ArgumentParser(
        prog="tracker", description="The flight recorder for video calls.", epilog="Documentation: README.md and docs/"
    )
    top.add_argument("--version", action="version", version=f"tracker {tracker_version()}")
    top.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS, help="default: ./config.toml")
    top.set_defaults(needs_config=True)
    subparsers = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    asked = [module for module, names in COMMANDS.items() if not set(names).isdisjoint(words)]
    for module in asked or COMMANDS:
        importlib.import_module(f"tracker.cli.{module}").add_to(subparsers)
    return top

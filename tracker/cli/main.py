"""The command line: parses arguments, loads config.toml, runs the command, and reports errors.

Exit codes: 0 done · 1 found a problem · 2 wrong usage or configuration · 3 (`verify BUNDLE`) not everything was
checked. To add a command, write a module with `add_to` and list it in `COMMANDS`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import structlog

from tracker.cli import (
    checkpoint, copy_log, demo, erase, import_files, init, keys, mint_token, rebuild, records, serve, sessions, verify,
)  # fmt: skip
from tracker.cli.arguments import CONFIG, Command
from tracker.cli.output import print_error
from tracker.errors import ConfigInvalid, LogMissing, QueryError, TrackerError
from tracker.server.sources import load_config

DONE, PROBLEM, WRONG_USE = 0, 1, 2
INTERRUPTED = 130

COMMANDS = (
    init, serve, import_files, rebuild, keys, erase, copy_log, sessions, records, checkpoint, verify, mint_token, demo,
)  # fmt: skip
"""In the order of `tracker --help`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. The entry point of `tracker` and `python -m tracker`."""
    arguments = parser().parse_args(argv)
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


def parser() -> argparse.ArgumentParser:
    """The parser of every command and option."""
    top = argparse.ArgumentParser(
        prog="tracker", description="The flight recorder for video calls.", epilog="Documentation: README.md and docs/"
    )
    top.set_defaults(needs_config=True)
    subparsers = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add_to(subparsers)
    return top

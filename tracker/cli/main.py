"""The command line: parse, load config.toml, hand over to the command, say what went wrong and whose turn it is.

Exit: 0 done · 1 found a problem · 2 wrong use or configuration. What each command does: `cli/commands.py`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import structlog

from tracker.cli import commands
from tracker.cli import evidence, keys
from tracker.cli.output import print_error
from tracker.config.schema import Engine
from tracker.errors import ConfigInvalid, LogMissing, QueryError, TrackerError
from tracker.server.roles import Role
from tracker.server.sources import load_config

DONE, PROBLEM, WRONG_USE = 0, 1, 2
INTERRUPTED = 130
CONFIG = "config.toml"

Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. The entry point of `tracker` and `python -m tracker`."""
    arguments = parser().parse_args(argv)
    command: Command = arguments.command
    if not structlog.is_configured():
        # Standard output is what was asked for, JSON perhaps; `serve` says more (`server/logging_setup.py`).
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
        print_error("interrupted; what was finished is kept, run it again for the rest")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python must not complain when it flushes the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def parser() -> argparse.ArgumentParser:
    """Every command and option."""
    top = argparse.ArgumentParser(
        prog="tracker", description="The flight recorder for video calls.", epilog="Documentation: README.md and docs/"
    )
    top.set_defaults(needs_config=True)
    found = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, command: Command, summary: str, *, as_json: bool = False) -> argparse.ArgumentParser:
        one = found.add_parser(name, help=summary, description=summary)
        one.add_argument("--config", default=CONFIG, metavar="FILE", help="default: ./config.toml")
        if as_json:
            one.add_argument("--json", action="store_true", help="JSON instead of a table")
        one.set_defaults(command=command)
        return one

    init = add("init", commands.init, "Make the log, once; and a config.toml where there is none.")
    init.add_argument("--engine", choices=get_args(Engine), help="what keeps the log; config.toml says it too")
    init.set_defaults(needs_config=False)
    _add_serve(add("serve", commands.serve, "Take deliveries, keep the views up to date, answer questions."))
    take = add(
        "import",
        commands.import_files,
        "Read webhook bodies from JSON Lines files, or events from a server's own log files, into the log.",
        as_json=True,
    )
    take.add_argument("source", metavar="SOURCE", help="the name of the source in config.toml")
    take.add_argument(
        "files", metavar="FILE", nargs="+", type=Path, help="a file, or a folder of .log and .jsonl files"
    )
    again = add("rebuild", commands.rebuild, "Make the views anew from the log and swap them in.", as_json=True)
    how = again.add_mutually_exclusive_group()
    how.add_argument("--check", action="store_true", help="only compare; exit 1 and the first rows that differ")
    how.add_argument("--wait", action="store_true", help="where another rebuild is at work, begin when it has ended")
    add("rekey", commands.rekey, "Wrap every record's key with the current master key, after it was changed.")
    keys.add_to(add)
    _add_erase(
        add(
            "erase",
            commands.erase,
            "Erase a person, a session, or what is old; without --yes only list it.",
            as_json=True,
        )
    )
    _add_copy(add("copy", commands.copy, "Copy the log into that of another config.toml.", as_json=True))
    _add_sessions(add("sessions", commands.sessions, "List sessions, newest first.", as_json=True))
    timeline = add("timeline", commands.timeline, "What happened in one session, in order.", as_json=True)
    timeline.add_argument("id", metavar="ID", help="a session's id, or any id its vendor gave it")
    timeline.add_argument("--kind", action="append", default=[], help="only this kind (may be repeated)")
    timeline.add_argument("--subject", help="only what is about this id")
    _add_records(add("records", commands.records, "The raw records, of a session or of the log.", as_json=True))
    _add_export(add("export", commands.export, "Raw records as JSON Lines, which `tracker import` reads back."))
    evidence.add_to(add, _position)
    _add_token(add("token", commands.token, "Mint a token for reading and print it alone."))
    _add_demo(add("demo", commands.demo, "Play signed calls of every vendor into a tracker on a temporary log."))
    return top


def _add_serve(one: argparse.ArgumentParser) -> None:
    one.add_argument("--port", type=int, help="instead of server.port")
    one.add_argument("--link", action="store_true", help="print a link that opens once, though there are read keys")
    one.add_argument(
        "--role", choices=get_args(Role), default="all", help="of a node of a cluster: ingest takes, read answers"
    )


def _add_copy(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--to",
        metavar="FILE",
        required=True,
        help="the config.toml of the log to copy into: of a node of a cluster, or of one machine",
    )


def _add_sessions(one: argparse.ArgumentParser) -> None:
    for name in ("source", "room", "identity", "q"):
        one.add_argument(f"--{name}")
    one.add_argument("--state", choices=("open", "ended", "stuck"))
    one.add_argument("--has", action="append", default=[], choices=("recording", "supervisor", "anomaly"))
    one.add_argument("--from", dest="from_", metavar="TIME", help="RFC 3339, like 2026-11-21T08:00:00Z")
    one.add_argument("--to", metavar="TIME")
    one.add_argument("--min-duration-ms", type=_position, metavar="MS")
    one.add_argument("--limit", type=_limit, default=50, help="at most 1000; default 50")


def _add_erase(one: argparse.ArgumentParser) -> None:
    what = one.add_mutually_exclusive_group(required=True)
    what.add_argument("--identity", metavar="X", help="every record that mentions this person, by identity or name")
    what.add_argument("--session", metavar="ID", help="every record behind this session")
    what.add_argument("--before", metavar="TIME", help="every record received before, like 2026-01-01")
    what.add_argument("--retention", action="store_true", help="what is older than `retention` of its source")
    one.add_argument("--source", action="append", default=[], metavar="NAME", help="with --before: only this source")
    one.add_argument("--yes", action="store_true", help="do it; it cannot be undone")


def _add_records(one: argparse.ArgumentParser) -> None:
    one.add_argument("id", metavar="ID", nargs="?", help="only those of this session")
    one.add_argument("--after", type=_position, default=0, metavar="POSITION", help="only those after this position")
    one.add_argument("--limit", type=_limit, default=50, help="at most 1000; default 50")
    one.add_argument(
        "--body", type=_position, metavar="POSITION", help="print the exact bytes of this record's body, nothing else"
    )


def _add_export(one: argparse.ArgumentParser) -> None:
    one.add_argument("id", metavar="ID", nargs="?", help="only those of this session")
    one.add_argument("--source", help="only those of this source")
    one.add_argument("--after", type=_position, default=0, metavar="POSITION", help="only those after this position")
    one.add_argument("--leaves", action="store_true", help="with each record's leaf in the tree, and its salt")
    one.add_argument(
        "--evidence",
        metavar="SESSION",
        help="the evidence bundle of this session instead: a zip anybody can verify offline",
    )
    one.add_argument("--out", type=Path, metavar="FILE", help="a new file instead of standard output")


def _add_token(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--scope",
        action="append",
        default=[],
        required=True,
        help="read:sessions, read:records or admin; may be repeated",
    )
    one.add_argument("--source", action="append", default=[], metavar="NAME", help="only this source; may be repeated")
    one.add_argument("--expires", default="1d", help="like 90s, 12h or 30d; default 1d")
    one.add_argument("--subject", default="tracker", help="who the token is for (claim `sub`)")
    one.add_argument("--key", metavar="ID", help="which key of [access] signs; default: the first that can")


def _add_demo(one: argparse.ArgumentParser) -> None:
    one.set_defaults(needs_config=False)
    one.add_argument("--speed", type=float, default=20.0, help="seconds of a call played in one second; default 20")
    one.add_argument("--port", type=int, default=0, help="default: a free one")
    stays = one.add_mutually_exclusive_group()
    stays.add_argument(
        "--keep", action="store_true", default=None, help="serve on after the show until Ctrl-C (default on a terminal)"
    )
    stays.add_argument("--no-keep", dest="keep", action="store_false", help="end after the show")


def _position(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0")
    return number


def _limit(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1000:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 to 1000")
    return number

"""`tracker demo`: plays signed calls of every vendor into a server on a temporary log."""

from __future__ import annotations

import argparse

from tracker.cli.arguments import Subparsers, add_command


def add_to(subparsers: Subparsers) -> None:
    """Declare the command."""
    summary = "Play signed calls of every vendor into a tracker on a temporary log."
    parser = add_command(subparsers, "demo", run, summary)
    parser.set_defaults(needs_config=False)
    parser.add_argument("--speed", type=float, default=20.0, help="seconds of a call played in one second; default 20")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    after = parser.add_mutually_exclusive_group()
    after.add_argument(
        "--keep",
        action="store_true",
        default=None,
        help="keep serving after the demo until Ctrl-C (default on a terminal)",
    )
    after.add_argument("--no-keep", dest="keep", action="store_false", help="exit after the demo")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo."""
    from tracker.demo import show  # noqa: PLC0415 - only this command needs an HTTP client

    return show.run(speed=arguments.speed, keep=arguments.keep, port=arguments.port)

"""`tracker serve`: runs the server until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Callable
from typing import get_args

from tracker.cli.arguments import Subparsers, add_command
from tracker.cli.event_loop import new_event_loop
from tracker.cli.output import print_line, progress
from tracker.server import logging_setup, server
from tracker.server.roles import Role


def add_to(subparsers: Subparsers) -> None:
    """Declare the command."""
    summary = "Take deliveries, keep the views up to date, answer readers."
    parser = add_command(subparsers, "serve", run, summary)
    parser.add_argument("--port", type=int, help="overrides server.port")
    parser.add_argument(
        "--link", action="store_true", help="print a one-time link even though read keys are configured"
    )
    parser.add_argument(
        "--role", choices=get_args(Role), default="all",
        help="for a node of a cluster: `ingest` only takes deliveries, `read` only answers readers",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Serve until the process is asked to stop."""
    logging_setup.configure()

    def ready(address: str, link: str | None) -> None:
        # The link is a secret: it goes to the terminal, never into the structured log.
        print_line(f"tracker serves on {address}")
        if link is not None:
            why = "" if arguments.link else "no [access] keys: "
            print_line(f"{why}open this link once to read: {address}{link}")

    def show_progress() -> contextlib.AbstractContextManager[Callable[[int, int], None]]:
        return progress("catch up with the stream", "messages")

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(
            server.serve(
                arguments.config, port=arguments.port, link=arguments.link, role=arguments.role, ready=ready,
                show_progress=show_progress,
            )
        )  # fmt: skip
    return 0

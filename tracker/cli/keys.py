"""The command line's way to the keys that the nodes of a cluster share.

0 everything is there · 1 something is missing
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable

from tracker.cli import output as printing
from tracker.cli import desk_keys
from tracker.config.load import Config


def add_to(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add what is here to the commands."""
    what = "Put a cluster's bucket of data keys back from this node's key store."
    one = add("restore-keys", restore_keys, what, as_json=True)
    one.add_argument(
        "--partly",
        action="store_true",
        help="make the bucket though this node lacks keys; then run it on the others too",
    )


def restore_keys(arguments: argparse.Namespace) -> int:
    """Put back what is missing in the bucket; 1 when something is missing still."""
    config: Config = arguments.config
    with printing.progress("restore keys", "entries") as bar:
        restored = asyncio.run(desk_keys.restore_keys(config, partly=arguments.partly, progress=bar))
    if arguments.json:
        printing.print_json(restored)
    else:
        printing.print_line(
            f"{restored.entries} of {restored.frames} entries were put back, the others need nothing of this node"
        )
        if restored.missing:
            printing.print_line(
                f"the keys of {restored.missing} records are missing still, the first at position {restored.first}: run it "
                "on the other nodes too"
            )
        if restored.ahead:
            printing.print_line(
                f"and those of {restored.ahead} records that this node has not applied: run it on one that has them"
            )
    return 1 if restored.missing or restored.ahead else 0

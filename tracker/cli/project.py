"""`python -m tracker project`: the projector of a running server, which starts it. Nobody needs to type it."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal

import structlog

from tracker.cli.event_loop import new_event_loop
from tracker.cli.parent import lower_priority
from tracker.errors import TrackerError
from tracker.server import logging_setup, projection
from tracker.server.sources import load_config

_log = structlog.get_logger("projector")


def main() -> int:
    """Project until the process is stopped. Every error is a line of the server's log."""
    parser = argparse.ArgumentParser(prog="tracker project")
    parser.add_argument("command")
    parser.add_argument("--config", required=True, metavar="FILE")
    parser.add_argument("--end-with-parent", action="store_true")
    arguments = parser.parse_args()
    # Ctrl-C reaches every process of a terminal: the server stops this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging_setup.configure()
    # Not before: the imports cost half a second, and views are late meanwhile.
    lower_priority()
    try:
        config = load_config(arguments.config, os.environ)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(projection.run(config))
    except TrackerError as error:
        _log.error("the projector ends", reason=str(error))
        return 1
    except Exception:
        _log.exception("the projector failed")
        return 1
    return 0

"""Log lines on standard error: one JSON object a line, or colours on a terminal."""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.typing import Processor


def configure() -> None:
    """Format Tracker's log lines and those of its libraries alike. Call it once, before anything starts.

    No line holds bodies, tokens or proofs: no code logs them, and exceptions are shown without local variables.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    on_terminal = sys.stderr.isatty()
    last: list[Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if on_terminal
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[_add_logger_name, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.getLogger("aiohttp.server").addFilter(_remove_request_text)


def _remove_request_text(record: logging.LogRecord) -> bool:
    """Remove the request text that aiohttp quotes in its errors: it may hold a secret or a token."""
    kind = record.exc_info[0] if record.exc_info else None
    if kind is not None and kind.__module__ == "aiohttp.http_exceptions":
        record.msg, record.args, record.exc_info = f"a request could not be read: {kind.__name__}", (), None
        record.exc_text = None
        record.levelno, record.levelname = logging.WARNING, "WARNING"
    return True


def _add_logger_name(logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    event.setdefault("logger", getattr(logger, "name", "tracker"))
    return event

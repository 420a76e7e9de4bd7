"""Once a day, erases what is older than its source's `retention`, with the command that an operator would run.

The command runs in a process of its own, because reading a whole log and rebuilding the views would keep this process from
answering. If we die meanwhile, the next run does the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import msgspec
import structlog

FIRST_SECONDS = 60.0
INTERVAL_SECONDS = 86_400.0

_log = structlog.get_logger("retention")


RunCommand = Callable[..., Awaitable[tuple[int | None, bytes, str]]]
"""Runs `tracker` with these arguments in a process of its own.

Returns its exit code (None when it did not start), its output, and the last line of its errors.
"""


class RetentionObserver(Protocol):
    """Counts what was erased."""

    def erased(self, source: str, records: int) -> None:
        """This many records of a source were erased because they were too old."""
        ...


async def run(
    run_command: RunCommand,
    observer: RetentionObserver,
    *,
    first: float = FIRST_SECONDS,
    interval: float = INTERVAL_SECONDS,
) -> None:
    """Run for ever; `first` and `interval` in seconds. A failure is logged, and the next day tries again."""
    await asyncio.sleep(first)
    while True:
        await erase_once(run_command, observer)
        await asyncio.sleep(interval)


async def erase_once(run_command: RunCommand, observer: RetentionObserver) -> None:
    """One run of `tracker erase --retention --yes`."""
    code, out, last_error = await run_command("erase", "--retention", "--yes", "--json")
    try:
        answer: Mapping[str, Any] = msgspec.json.decode(out)
    except msgspec.DecodeError:
        _log.error("nothing was erased", exit_code=code, reason=last_error)
        return
    for plan in answer["items"]:
        for source, count in plan["sources"].items():
            observer.erased(source, count)
        in_clear = len(plan["in_clear"])
        _log.info("erased what is older than its retention", sources=plan["sources"], kept_in_clear=in_clear)

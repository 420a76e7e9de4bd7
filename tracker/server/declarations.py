"""Declarations of config.toml go into the log before the first delivery; those in the log decide what its records mean."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from tracker.config.load import Config
from tracker.domain import clock
from tracker.errors import ConfigInvalid
from tracker.log.contract import Log
from tracker.log.declaration_records import DeclarationHistory, declaration_history, make_declaration_record
from tracker.projector.declarations import use_declarations_of
from tracker.sources.declared.reading import DeclarationWrong, read_declaration
from tracker.views.sqlite import schema

_log = structlog.get_logger("declarations")


async def use_recorded(log: Log) -> DeclarationHistory:
    """Interpret this log by its declarations from now on, in this process. Raises `LogError`.

    Views that were written by others are outdated: their stamp is another.
    """
    history = await use_declarations_of(log)
    schema.interpret_by(history.digest)
    return history


async def missing_declarations(config: Config, log: Log, history: DeclarationHistory) -> dict[str, str]:
    """Source → its declaration in config.toml, where the `history` of the log has no such declaration yet.

    Raises `LogError`, and `ConfigInvalid` where a change would make old deliveries new ones.
    """
    found: dict[str, str] = {}
    for n, source in enumerate(config.sources):
        newest = history.newest(source.name)
        if not source.declaration or (newest is not None and newest.text == source.declaration):
            continue
        if newest is not None:
            before, after = _dedupe(newest.text), _dedupe(source.declaration)
            if before not in {None, after} and await log.last_from_source(source.name):
                raise ConfigInvalid(
                    f'sources[{n}].declaration: its records are recognised by dedupe = "{before}", and now it says "{after}":'
                    " repeats of old deliveries would be recorded again. Keep it, or give the source another name"
                )
        found[source.name] = source.declaration
    return found


class Declarer:
    """Records the declarations of config.toml that changed, each before the first delivery of its source."""

    def __init__(self, log: Log, missing: Mapping[str, str]) -> None:
        self._log = log
        self.missing: Mapping[str, str] = missing
        self._lock = asyncio.Lock()

    async def declare(self, source: str) -> None:
        """Append the declaration of a source, if it is missing. Raises `LogError`."""
        async with self._lock:
            text = self.missing.get(source)
            if text is None:
                return
            history = await declaration_history(self._log)
            known = len(history.of_source.get(source, ()))
            appended = await self._log.append(make_declaration_record(source, text, clock.now(), known))
            self.missing = {name: text for name, text in self.missing.items() if name != source}
            _log.info("a declaration is recorded", source=source, position=appended.position)


async def declare(config: Config, log: Log, source: str) -> None:
    """Append the declaration of one source, if it is missing. Raises as `missing_declarations` does."""
    missing = await missing_declarations(config, log, await declaration_history(log))
    await Declarer(log, missing).declare(source)


def _dedupe(text: str) -> str | None:
    """What a declaration recognises repeats by; None where it cannot be read any more."""
    try:
        return read_declaration(text).dedupe
    except DeclarationWrong:
        return None

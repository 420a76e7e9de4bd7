"""The declarations that this process interprets records by: the newest of each source in the log.

They are loaded when a log is opened. The first one of a source is adopted as it is read. A later one changes what all records of
its source mean, so that the views have to be built again by a process that knows it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable

from tracker.domain.deliveries import TRACKER, Record
from tracker.errors import DeclarationsChanged
from tracker.log.contract import Log
from tracker.log.declaration_records import Declared, DeclarationHistory, declaration_history, read_declaration_record
from tracker.sources.declared.declaration import Declaration
from tracker.sources.declared.reading import DeclarationWrong, read_declaration
from tracker.sources.declared.vendor import use_declarations


class _InUse:
    history = DeclarationHistory()


def use_history(history: DeclarationHistory) -> None:
    """Interpret records by the newest declarations of this history from now on, in this process."""
    _InUse.history = history
    use_declarations({source: declaration for source in history.of_source if (declaration := _newest(history, source))})


def _newest(history: DeclarationHistory, source: str) -> Declaration | None:
    newest = history.newest(source)
    try:
        return None if newest is None else read_declaration(newest.text)
    except DeclarationWrong:  # of a newer version of Tracker: its records are shown raw
        return None


async def use_declarations_of(log: Log) -> DeclarationHistory:
    """Interpret records by the declarations of this log from now on, in this process. Raises `LogError`."""
    history = await declaration_history(log)
    use_history(history)
    return history


@contextlib.contextmanager
def using(history: DeclarationHistory) -> Generator[None]:
    """Interpret records by this history meanwhile."""
    before = _InUse.history
    use_history(history)
    try:
        yield
    finally:
        use_history(before)


def digest() -> str:
    """It changes whenever the meaning of records changes; "" without declarations."""
    return _InUse.history.digest


def adopt(records: Iterable[Record]) -> None:
    """Use the declarations among these records, which follow those that were read before.

    The first one of a source precedes all its records. Raises `DeclarationsChanged` for a later one: it interprets records
    that were projected already.
    """
    for record in records:
        body = read_declaration_record(record) if record.vendor == TRACKER else None
        if body is None:
            continue
        known = _InUse.history.of_source.get(body.source, ())
        if any(each.position == record.position for each in known):
            continue
        if known:
            raise DeclarationsChanged(
                f"the record at position {record.position} changes the declaration of {body.source}: the views are built"
                " again from the log"
            )
        use_history(
            DeclarationHistory(_InUse.history.of_source | {body.source: [Declared(record.position, body.declaration)]})
        )

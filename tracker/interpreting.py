"""A second process that reads what records mean while the first one merges it: what a rebuild uses both cores for.

    projector ──records──► worker: evidence_of ──facts──► projector: fold, render, save

The worker has no log, no keys and no views: records go in as MessagePack, facts come out as MessagePack, and what comes
back is what `evidence_of` would have given here. Without it (one core, a worker that died) the same is done in this process.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from types import TracebackType
from typing import Self

import msgspec

from tracker.deliveries import Record
from tracker.facts import AnyFact
from tracker.projections.evidence import Evidence
from tracker.projector import evidence_of, identified

_pack = msgspec.msgpack.Encoder().encode
_records = msgspec.msgpack.Decoder(list[Record]).decode
_facts = msgspec.msgpack.Decoder(list[list[AnyFact]]).decode

Hidden = Mapping[str, frozenset[str]]
"""Source → fields of details that are not shown."""


RARELY = (50_000, 20, 100)
"""Thresholds of the garbage collector: facts and rows are in no cycle, looking for some costs a sixth of a rebuild."""


@contextmanager
def rare_collections() -> Generator[None]:
    """Let the garbage collector look less often, until leaving: for a process that does one large thing."""
    before = gc.get_threshold()
    gc.set_threshold(*RARELY)
    try:
        yield
    finally:
        gc.set_threshold(*before)


class Interpreter:
    """`projector.Ahead` in a process of its own; use it as a context manager, around one rebuild."""

    def __init__(self, hidden: Hidden | None = None) -> None:
        self._hidden: Hidden = {} if hidden is None else hidden
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        if (os.cpu_count() or 1) > 1:
            # Spawned, because a fork copies threads' locks. It starts with the first records.
            self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_settle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def begin(self, records: Sequence[Record]) -> asyncio.Future[bytes] | None:
        """Send records to the worker; None where there is no worker."""
        if self._pool is None:
            return None
        hidden = {source: sorted(names) for source, names in self._hidden.items()}
        try:
            return asyncio.get_running_loop().run_in_executor(self._pool, interpret_packed, _pack(records), hidden)
        except (BrokenExecutor, OSError):  # OSError: no process more may be started
            self._pool = None
            return None

    async def end(self, records: Sequence[Record], begun: asyncio.Future[bytes]) -> list[Evidence] | None:
        """The facts of the records given to `begin`; None where the worker died on them."""
        try:
            told = _facts(await begun)
        except BrokenExecutor:
            self._pool = None
            return None
        return [item for record, facts in zip(records, told, strict=True) for item in identified(record, facts)]


def interpret_packed(records: bytes, hidden: Mapping[str, Sequence[str]]) -> bytes:
    """In the worker: packed records → packed facts, a list for each record."""
    shown = {source: frozenset(names) for source, names in hidden.items()}
    nothing: frozenset[str] = frozenset()
    return _pack([
        [item.fact for item in evidence_of(record, hidden=shown.get(record.source, nothing))]
        for record in _records(records)
    ])  # fmt: skip


def _settle() -> None:
    """In the worker, first: it lives as long as its parent, even one that was killed, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.set_threshold(*RARELY)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        # Nothing to clean up: no file, no lock, and nobody is left to answer.
        os._exit(1)

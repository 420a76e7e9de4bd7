"""Deliveries that arrived in one turn of the event loop: in the next one verified one after the other, and appended.

    hook ─┐                                     ┌─ proof does not fit ──► its error, at once
    hook ─┼─ this turn ─► next turn: verified ──┤
    hook ─┘                                     └─ `Log.append_for` ──► where it is, once that is durable

A step that follows itself finds its code and its data in the processor's caches: what a delivery waits for is one future, and
twenty proofs one after the other take half of what they take each between two requests.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tracker.domain.deliveries import Appended, Delivery
from tracker.errors import DeliveryRejected

if TYPE_CHECKING:
    from tracker.log.contract import Log
    from tracker.sources.contract import Source

Answer = asyncio.Future[Appended]


class VerificationBatcher:
    """What stands between the hooks and one log."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._arrived: list[tuple[Source, Delivery, Answer]] = []

    def recorded(self, source: Source, delivery: Delivery) -> Answer:
        """Where it is, once it is durable. Raises what `Source.verify` and `Log.append` raise; nothing was recorded then.

        A waiter that goes away takes nothing with it, as in the log's own line.
        """
        loop = asyncio.get_running_loop()
        answer: Answer = loop.create_future()
        if not self._arrived:
            loop.call_soon(self._verify)
        self._arrived.append((source, delivery, answer))
        return answer

    def _verify(self) -> None:
        arrived, self._arrived = self._arrived, []
        for source, delivery, answer in arrived:
            try:
                self._log.append_for(answer, source.verify(delivery))
            except DeliveryRejected as error:
                # Its traceback would hold this call, and so the future that holds it, and all bodies of this turn.
                _refuse(answer, error.with_traceback(None))
            except Exception as error:  # a mistake of ours: the hook tells where it was made
                _refuse(answer, error)


def _refuse(answer: Answer, error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)

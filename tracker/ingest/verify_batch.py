"""Verifies and appends the deliveries of one event-loop turn together.

    request ─┐                                                ┌─ proof rejected ──► its error, at once
    request ─┼─ collected this turn ─► verified next turn ────┤
    request ─┘                                                └─ `Appender.append_for` ──► its position, once durable

Running the same step many times in a row keeps its code and data in the CPU caches: twenty proofs verified in a row
take half the time they take when other request handling runs in between. Each request waits for one future.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tracker.domain.deliveries import Appended, ChallengeReceived, Delivery
from tracker.errors import DeliveryRejected

if TYPE_CHECKING:
    from tracker.log.contract import Appender
    from tracker.sources.contract import Source

Answer = asyncio.Future[Appended]


class VerificationBatcher:
    """Collects deliveries for one log."""

    def __init__(self, log: Appender) -> None:
        self._log = log
        self._pending: list[tuple[Source, Delivery, Answer]] = []

    def submit(self, source: Source, delivery: Delivery) -> Answer:
        """A future of the delivery's position, set once the record is durable.

        It raises what `Source.verify` and `Appender.append` raise; nothing was recorded then. Cancelling it does not
        cancel the append.
        """
        loop = asyncio.get_running_loop()
        answer: Answer = loop.create_future()
        if not self._pending:
            loop.call_soon(self._verify_pending)
        self._pending.append((source, delivery, answer))
        return answer

    def _verify_pending(self) -> None:
        pending, self._pending = self._pending, []
        for source, delivery, answer in pending:
            try:
                self._log.append_for(answer, source.verify(delivery))
            except (DeliveryRejected, ChallengeReceived) as error:
                # The traceback refers to this frame, which refers to all bodies of this turn: drop it.
                _fail(answer, error.with_traceback(None))
            except Exception as error:  # a bug; its traceback shows where
                _fail(answer, error)


def _fail(answer: Answer, error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)

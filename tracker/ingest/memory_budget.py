"""Bounds the memory that slow clients hold: bodies that arrive slowly, answers that are read slowly.

Where it is exceeded, somebody is cut off: of the peer that holds most, the connection that has held longest. So a stranger
who holds much loses it, and a client that sends and reads without delay is not noticed. Behind a proxy all clients are one
peer, and the slowest is cut off.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable


class Holding:
    """What one connection holds. `was_cut`: it was cut off and holds nothing more."""

    def __init__(self, budget: MemoryBudget, peer: str, cut: Callable[[], None]) -> None:
        self._budget = budget
        self.peer = peer
        self.cut = cut
        self.held_bytes = 0
        self.was_cut = False

    def add(self, count: int) -> None:
        """Hold more. Somebody may be cut off for it, perhaps this connection."""
        if not self.was_cut:
            self._budget.add(self, count)

    def release(self) -> None:
        """Hold nothing more."""
        self._budget.remove(self)


class MemoryBudget:
    """Bounds `held_bytes`, the bytes of all holdings together, to `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self.cut_off = 0
        """How many connections were cut off."""
        self._peers: dict[str, dict[Holding, None]] = {}
        """The holdings of each peer, oldest first."""
        self._held_by: dict[str, int] = {}

    def hold(self, remote: str | None, cut: Callable[[], None]) -> Holding:
        """Begin to hold. `remote`: the address of the client. `cut` is called once, if this connection is cut off."""
        return Holding(self, _peer(remote), cut)

    def add(self, holding: Holding, count: int) -> None:
        """See `Holding.add`."""
        self._peers.setdefault(holding.peer, {})[holding] = None
        self._change(holding, count)
        while self.held_bytes > self.max_bytes:
            most = max(self._held_by, key=self._held_by.__getitem__)
            oldest = next(iter(self._peers[most]))
            self.remove(oldest)
            oldest.was_cut = True
            self.cut_off += 1
            oldest.cut()

    def remove(self, holding: Holding) -> None:
        """See `Holding.release`."""
        of_peer = self._peers.get(holding.peer)
        if of_peer is None or holding not in of_peer:
            return
        self._change(holding, -holding.held_bytes)
        del of_peer[holding]
        if not of_peer:
            del self._peers[holding.peer], self._held_by[holding.peer]

    def _change(self, holding: Holding, count: int) -> None:
        holding.held_bytes += count
        self.held_bytes += count
        self._held_by[holding.peer] = self._held_by.get(holding.peer, 0) + count


def _peer(remote: str | None) -> str:
    """Who is bounded together: an IPv4 address, or an IPv6 network of 64 bits, which one customer has whole."""
    try:
        address = ipaddress.ip_address(remote or "")
    except ValueError:
        return remote or ""
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or int(address) >> 64)

"""Check at the monitoring addresses that the servers which hold the stream sync every write (`sync_interval: always`).

With NATS' default, a power cut of all servers was measured to lose 27 to 100 % of what they had acknowledged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import aiohttp
import msgspec

from tracker.errors import LogUnavailable

ASK_SECONDS = 3.0


class _Settings(msgspec.Struct):
    sync_always: bool = False


class _Jetstream(msgspec.Struct):
    config: _Settings | None = None


class _VarzResponse(msgspec.Struct):
    """The part of a `/varz` response that is needed."""

    server_name: str
    jetstream: _Jetstream | None = None


class UnreadServers(NamedTuple):
    """What could not be checked: `addresses` that do not answer, and `servers` of the stream behind none of them."""

    addresses: list[str]
    servers: list[str]


async def require_sync_always(addresses: Sequence[str], servers: Sequence[str]) -> UnreadServers:
    """Ask each monitoring address. `servers`: the names of the servers that hold the stream.

    Raises `LogUnavailable` naming the servers that do not sync every write.
    """
    found: dict[str, bool] = {}
    unreachable: list[str] = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_SECONDS)) as web:
        for address in addresses:
            try:
                async with web.get(f"{address.rstrip('/')}/varz") as answer:
                    response = msgspec.json.decode(await answer.read(), type=_VarzResponse)
            except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError):
                unreachable.append(address)
            else:
                settings = response.jetstream and response.jetstream.config
                if settings is not None:  # a server without JetStream holds nothing
                    found[response.server_name] = settings.sync_always
    unsynced = sorted(name for name, always in found.items() if not always)
    if unsynced:
        raise LogUnavailable(
            f"{', '.join(unsynced)}: NATS acknowledges before it syncs, so a power cut would lose acknowledged deliveries: write "
            '"sync_interval: always" under jetstream in nats-server.conf of each server'
        )
    return UnreadServers(unreachable, [name for name in servers if name not in found])

"""A TCP proxy between a client and a server, which fails the way networks do: cut, stalled, or cut in the middle of an answer.

proxy = await Proxy("127.0.0.1", 4222).start()
proxy.cut()                              # every connection is reset, new ones too, until `mend`
proxy.stall()                            # nothing passes any more, nothing is closed, until `mend`
cut = proxy.cut_within(ACKNOWLEDGEMENT)  # resets in the middle of the next answer that matches
await cut.wait()
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import Literal

ACKNOWLEDGEMENT = re.compile(rb'\{"stream":\s*"[^"]+",[^}]*"seq":\s*\d+[^}]*\}')
"""A stream's answer to a stored publication."""


class Proxy:
    """Listens on loopback; `url` is for clients. After `go_to`, new connections go to another server."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._is_cut = False
        self._within: tuple[re.Pattern[bytes], Literal["cut", "stall"], asyncio.Event] | None = None
        self.port = 0
        self.connections = 0

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    async def start(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self._reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def go_to(self, host: str, port: int) -> None:
        self._target = (host, port)

    def cut(self) -> None:
        self._is_cut = True
        self._reset()

    def stall(self) -> None:
        self._flows.clear()

    def mend(self) -> None:
        """Connections are accepted and bytes flow again."""
        self._is_cut = False
        self._flows.set()

    def cut_within(self, pattern: re.Pattern[bytes], how: Literal["cut", "stall"] = "cut") -> asyncio.Event:
        """Let half of the server's next match through, then cut or stall. The returned event is set when that happened."""
        happened = asyncio.Event()
        self._within = (pattern, how, happened)
        return happened

    def _reset(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        if self._is_cut:
            writer.transport.abort()
            return
        try:
            upstream, upward = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers.add(upward)
        for each in (self._pass(reader, upward, watched=False), self._pass(upstream, writer, watched=True)):
            task = asyncio.create_task(each)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, watched: bool) -> None:
        try:
            while data := await reader.read(1 << 16):
                await self._flows.wait()
                found = self._within and watched and self._within[0].search(data)
                if self._within and found:
                    _, how, happened = self._within
                    self._within = None
                    writer.write(data[: (found.start() + found.end()) // 2])
                    with contextlib.suppress(OSError):
                        await asyncio.wait_for(writer.drain(), 1)
                    happened.set()
                    if how == "cut":
                        self.cut()
                        return
                    self.stall()
                    await self._flows.wait()
                    data = data[(found.start() + found.end()) // 2 :]
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort() if self._is_cut else writer.close()

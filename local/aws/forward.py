"""Lets containers reach services that listen on this machine's loopback only."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

HOST_IN_CONTAINER = "host.docker.internal"
_LOCAL = re.compile(r"(?<![\w.])(?:127\.0\.0\.1|localhost):(\d+)")
_CHUNK_BYTES = 65536


class Forwarder:
    """Listens on `address`, one port for each port of the loopback that is asked for.

    `called` is what those behind it call that address.
    """

    def __init__(self, address: str, *, called: str = HOST_IN_CONTAINER) -> None:
        self._address = address
        self._called = called
        self._loop = asyncio.new_event_loop()
        self._ports: dict[int, int] = {}
        self._servers: list[asyncio.Server] = []
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def reachable(self, uri: str) -> str:
        """The address as who is behind it must write it."""
        return _LOCAL.sub(lambda found: f"{self._called}:{self.port(int(found[1]))}", uri)

    def port(self, target: int) -> int:
        """The port at `address` that leads to the loopback's port `target`."""
        if target not in self._ports:
            opening = asyncio.run_coroutine_threadsafe(self._open(target), self._loop)
            self._ports[target] = opening.result(10)
        return self._ports[target]

    def cut(self) -> None:
        """Refuse new connections and end those there are, until `mend`."""
        asyncio.run_coroutine_threadsafe(self._cancel(), self._loop).result(10)
        self._servers.clear()

    def mend(self) -> None:
        """Listen again, where it listened before."""
        for target, port in self._ports.items():
            opening = self._open(target, port=port)
            asyncio.run_coroutine_threadsafe(opening, self._loop).result(10)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._cancel(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _open(self, target: int, *, port: int = 0) -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                there = await asyncio.open_connection("127.0.0.1", target)
            except OSError:
                writer.close()
                return
            await asyncio.gather(_pump(reader, there[1]), _pump(there[0], writer))

        server = await asyncio.start_server(serve, self._address, port)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def _cancel(self) -> None:
        for server in self._servers:
            server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                writer.write(data)
                await writer.drain()
    finally:
        writer.close()


@contextmanager
def forwarding(address: str, *, called: str = HOST_IN_CONTAINER) -> Iterator[Forwarder]:
    """A forwarder for as long as the block lasts."""
    forwarder = Forwarder(address, called=called)
    try:
        yield forwarder
    finally:
        forwarder.close()

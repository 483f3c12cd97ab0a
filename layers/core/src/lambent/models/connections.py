"""Keeps the HTTP client of one environment: made late, and made anew after a freeze."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

import httpx

from lambent.clock import Clock

# Idle sockets do not outlive the NAT and load balancer tables on the way.
_FREEZE: Final = timedelta(seconds=20)


class Connections:
    """Lends one `httpx.AsyncClient`; a client that was dropped closes with its last borrower."""

    def __init__(
        self, *, clock: Clock, tls: bool, headers: Mapping[str, str], connect_timeout_s: float
    ) -> None:
        self._clock = clock
        self._tls = tls
        self._headers = dict(headers)
        self._timeout = httpx.Timeout(None, connect=connect_timeout_s)
        self._client: httpx.AsyncClient | None = None
        self._borrowers: dict[httpx.AsyncClient, int] = {}
        self._used_at = clock.now()
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[httpx.AsyncClient]:
        """The client, over sockets that this environment was awake to see."""
        if self._clock.now() - self._used_at > _FREEZE:
            self.drop()
        if self._client is None:
            self._client = self._make()
            self._borrowers[self._client] = 0
        client = self._client
        self._borrowers[client] += 1
        self.touch()
        try:
            yield client
        finally:
            self._borrowers[client] -= 1
            self.touch()
            self._close_if_unused(client)

    def touch(self) -> None:
        """Note that the sockets are alive now."""
        self._used_at = self._clock.now()

    def drop(self) -> None:
        """Lend a fresh client from now on."""
        client, self._client = self._client, None
        if client is not None:
            self._close_if_unused(client)

    async def close(self) -> None:
        """Close every connection that is not in use."""
        self.drop()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _close_if_unused(self, client: httpx.AsyncClient) -> None:
        if client is self._client or self._borrowers.get(client) != 0:
            return
        del self._borrowers[client]
        # Off the caller's path; the task is held, or the loop would drop it half done.
        task = asyncio.get_running_loop().create_task(client.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _make(self) -> httpx.AsyncClient:
        # Loading the certificate store takes 30 ms of a cold start. Without TLS in the address
        # there is nothing to verify, and a context without authorities lets no TLS through.
        verify = True if self._tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return httpx.AsyncClient(
            headers=self._headers,
            timeout=self._timeout,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            verify=verify,
            trust_env=False,
            follow_redirects=False,
        )

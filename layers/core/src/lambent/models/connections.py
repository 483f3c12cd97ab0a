"""Keeps the HTTP connections of one environment: made late, and made anew after a freeze."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

import httpx

from lambent.clock import Clock

# Idle sockets do not outlive the NAT and load balancer tables on the way.
_FREEZE: Final = timedelta(seconds=20)


class Connections:
    """Lends one pool; a pool that was dropped closes with its last borrower.

    The pool is httpx's transport. The client above it (cookies, redirects, proxies, a log line
    for each request) has nothing to do here and would cost as much again for each call.
    """

    def __init__(self, *, clock: Clock, tls: bool) -> None:
        self._clock = clock
        self._tls = tls
        self._pool: httpx.AsyncHTTPTransport | None = None
        self._borrowers: dict[httpx.AsyncHTTPTransport, int] = {}
        self._used_at = clock.now()
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[httpx.AsyncHTTPTransport]:
        """The pool, whose sockets this environment was awake to see."""
        if self._clock.now() - self._used_at > _FREEZE:
            self.drop()
        if self._pool is None:
            self._pool = self._make()
            self._borrowers[self._pool] = 0
        pool = self._pool
        self._borrowers[pool] += 1
        self.touch()
        try:
            yield pool
        finally:
            self._borrowers[pool] -= 1
            self.touch()
            self._close_if_unused(pool)

    def touch(self) -> None:
        """Note that the sockets are alive now."""
        self._used_at = self._clock.now()

    def drop(self) -> None:
        """Lend a fresh pool from now on."""
        pool, self._pool = self._pool, None
        if pool is not None:
            self._close_if_unused(pool)

    async def close(self) -> None:
        """Close every connection that is not in use."""
        self.drop()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _close_if_unused(self, pool: httpx.AsyncHTTPTransport) -> None:
        if pool is self._pool or self._borrowers.get(pool) != 0:
            return
        del self._borrowers[pool]
        # Off the caller's path; the task is held, or the loop would drop it half done.
        task = asyncio.get_running_loop().create_task(pool.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _make(self) -> httpx.AsyncHTTPTransport:
        # Loading the certificate store takes 30 ms of a cold start. Without TLS in the address
        # there is nothing to verify, and a context without authorities lets no TLS through.
        verify = True if self._tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        return httpx.AsyncHTTPTransport(verify=verify, trust_env=False, limits=limits)

"""Keeps the model loaded while it is wanted, and lets only so many generations at it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from local.model_server.engine import Engine

FOREVER_S = 100 * 365 * 86_400.0


class QueueFull(Exception):
    """As many requests wait as may."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How many generate at once and wait, on how many tokens; how long an idle model stays."""

    parallel: int = 1
    context: int = 4096
    max_queue: int = 512
    keep_alive_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Seat:
    """A place at the loaded model, and how long it took to get."""

    engine: Engine
    load_ns: int


class Residence:
    """The model's stay in memory. One event loop; loading happens in a thread."""

    def __init__(self, load: Callable[[], Engine], limits: Limits) -> None:
        self._load = load
        self.limits = limits
        self._places = asyncio.Semaphore(limits.parallel)
        self.pool = ThreadPoolExecutor(limits.parallel + 1, thread_name_prefix="model")
        self._loading: asyncio.Future[Engine] | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self.expires_at = datetime.now(UTC)
        self.in_flight = 0
        self.waiting = 0

    @property
    def loaded(self) -> bool:
        return self._loading is not None and self._loading.done()

    def preload(self) -> "asyncio.Future[Engine]":
        """Begin to load, unless that is done or under way."""
        if self._loading is None:
            loop = asyncio.get_running_loop()
            self._loading = loop.run_in_executor(self.pool, self._load)
            self._loading.add_done_callback(self._forget_failure)
        return self._loading

    @asynccontextmanager
    async def seat(self, keep_alive_s: float | None) -> AsyncIterator[Seat]:
        """A place at the model, first come first served. Raises QueueFull."""
        if self._places.locked() and self.waiting >= self.limits.max_queue:
            raise QueueFull
        self.waiting += 1
        try:
            await self._places.acquire()
        finally:
            self.waiting -= 1
        self.in_flight += 1
        if self._expiry is not None:
            self._expiry.cancel()
        try:
            asked_at_s = time.monotonic()
            engine = await asyncio.shield(self.preload())
            yield Seat(engine, int((time.monotonic() - asked_at_s) * 1e9))
        finally:
            self.in_flight -= 1
            self._places.release()
            self.keep_for(keep_alive_s)

    def keep_for(self, keep_alive_s: float | None) -> None:
        """Unload after this long without a request (None: the default; below zero: never)."""
        stay_s = self.limits.keep_alive_s if keep_alive_s is None else keep_alive_s
        stay_s = FOREVER_S if stay_s < 0 else min(stay_s, FOREVER_S)
        self.expires_at = datetime.now(UTC) + timedelta(seconds=stay_s)
        if self._expiry is not None:
            self._expiry.cancel()
        loop = asyncio.get_running_loop()
        # The loop's clock takes no timer of a century.
        self._expiry = loop.call_later(min(stay_s, 86_400.0), self._expire)

    def _expire(self) -> None:
        if self.in_flight or not self.loaded:
            return
        if self.expires_at > datetime.now(UTC) + timedelta(seconds=1):
            left_s = (self.expires_at - datetime.now(UTC)).total_seconds()
            self._expiry = asyncio.get_running_loop().call_later(
                min(left_s, 86_400.0), self._expire
            )
            return
        self._loading = None

    def _forget_failure(self, loading: "asyncio.Future[Engine]") -> None:
        if loading.cancelled() or loading.exception() is not None:
            problem = None if loading.cancelled() else loading.exception()
            print(f"the model could not be loaded: {problem}", flush=True)
            self._loading = None

"""Renews leases from a thread of its own, so that a blocking call of an author lapses none.

A renewal may say what its owner is at. Where that has changed it is brought forward, but never so
that there is more than one in `LOOK_EVERY_S`: what is told costs a renewal more, and no more.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final, Protocol

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from lambent.clock import Clock
from lambent.due import LEASE_S, Lease
from lambent.mongo import Document, is_refused
from lambent.rotation import RotatingSecret
from lambent.tls import mongo_options

RENEW_EVERY_S: Final = 10.0
LOOK_EVERY_S: Final = 2.0
_RETRY_S: Final = 1.0
# The thread ends when it had nothing to do for so long; the next lease starts another.
_IDLE_S: Final = 30.0


@dataclass(slots=True)
class Held:
    """A lease in use; the keeper replaces `lease` by the renewed one. `signals`: as last seen.

    `news`: what a renewal sets besides. It is called in the keeper's thread, so it neither waits
    nor raises, and the store must be able to keep what it gives.
    """

    lease: Lease
    signals: int
    news: Callable[[], Document] = dict


# Called on the event loop: with True if the lease is lost, with False if the document was woken.
Told = Callable[[bool], None]


class Keeper(Protocol):
    def keep(self, held: Held, told: Told) -> Any:
        """A context manager: the lease is renewed while inside."""
        ...


@dataclass(slots=True)
class _Kept:
    held: Held
    told: Told
    loop: asyncio.AbstractEventLoop
    renew_at_s: float
    look_at_s: float
    said: Document = field(default_factory=dict)


class LeaseKeeper:
    """Renews every 10 s, and where there is news, over its own connection.

    Only "matched nothing" means lost; any error is retried: whether the lease has ended is then
    told by its owner's monotonic clock.
    """

    def __init__(
        self,
        uri: str | RotatingSecret,
        db_name: str,
        *,
        clock: Clock,
        every_s: float = RENEW_EVERY_S,
        look_every_s: float = LOOK_EVERY_S,
        ca: str = "",
    ) -> None:
        if not isinstance(uri, RotatingSecret):
            uri = RotatingSecret("MONGO_URI", uri, clock=clock)
        self._uri = uri
        self._ca = ca
        self._told = uri.value
        self._db_name = db_name
        self._clock = clock
        self._every_s = every_s
        self._look_every_s = look_every_s
        self._kept: dict[int, _Kept] = {}
        self._woken = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    @contextmanager
    def keep(self, held: Held, told: Told) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        now_s = self._clock.monotonic_s()
        kept = _Kept(held, told, loop, now_s + self._every_s, now_s + self._look_every_s)
        with self._woken:
            self._kept[id(held)] = kept
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
                self._thread.start()
            self._woken.notify()
        try:
            yield
        finally:
            with self._woken:
                self._kept.pop(id(held), None)

    def close(self) -> None:
        """End the thread and its connection; leases that are still kept will lapse."""
        with self._woken:
            self._closed = True
            thread = self._thread
            self._woken.notify()
        if thread is not None:
            thread.join(timeout=5.0)

    def _run(self) -> None:
        client: MongoClient[Document] | None = None
        idle_since_s = self._clock.monotonic_s()
        try:
            while True:
                with self._woken:
                    kept, rest_s = self._next()
                    if kept is None and rest_s > 0 and not self._closed:
                        self._woken.wait(min(rest_s, _IDLE_S))
                    now_s = self._clock.monotonic_s()
                    idle_since_s = now_s if self._kept else idle_since_s
                    if self._closed or (not self._kept and now_s - idle_since_s >= _IDLE_S):
                        self._thread = None
                        return
                if kept is not None and self._has_to_renew(kept):
                    if client is not None and self._told != self._uri.value:
                        client.close()
                        client = None
                    client = client or self._connect()
                    self._renew(client, kept)
        finally:
            if client is not None:
                client.close()

    def _next(self) -> tuple[_Kept | None, float]:
        now_s = self._clock.monotonic_s()
        first = min(self._kept.values(), key=_next_at_s, default=None)
        if first is None:
            return None, _IDLE_S
        rest_s = _next_at_s(first) - now_s
        return (first, 0.0) if rest_s <= 0 else (None, rest_s)

    def _has_to_renew(self, kept: _Kept) -> bool:
        """Whether it is time, or there is something to say; then the next look is later."""
        now_s = self._clock.monotonic_s()
        if kept.renew_at_s <= now_s:
            return True
        kept.look_at_s = now_s + self._look_every_s
        return kept.held.news() != kept.said

    def _connect(self) -> MongoClient[Document]:
        self._told = self._uri.value
        return MongoClient(
            self._told,
            **mongo_options(self._told, self._ca),
            timeoutMS=4000,
            serverSelectionTimeoutMS=3000,
            maxPoolSize=1,
            tz_aware=True,
            w="majority",
            journal=True,
            appname="lambent-leases",
        )

    def _renew(self, client: MongoClient[Document], kept: _Kept) -> None:
        begun_s = self._clock.monotonic_s()
        lease = kept.held.lease
        collection = client[self._db_name][lease.kind.collection]
        mine = {"_id": lease.id, "lease": lease.token}
        until = self._clock.now() + timedelta(seconds=LEASE_S)
        kept.look_at_s = begun_s + self._look_every_s
        news = kept.held.news()
        try:
            answer = collection.update_one(mine, {"$set": {**news, "lease_until": until}})
            lost = answer.matched_count == 0
            seen = None if lost else collection.find_one(mine, {"signals": 1})
        except PyMongoError as error:
            if is_refused(error):
                self._uri.renew_now(self._told)
            kept.renew_at_s = self._clock.monotonic_s() + _RETRY_S
            return
        kept.renew_at_s = begun_s + self._every_s
        if lost:
            kept.renew_at_s = kept.look_at_s = float("inf")
            self._tell(kept, lost=True)
            return
        kept.said = news
        kept.held.lease = replace(lease, ends_s=begun_s + LEASE_S)
        if seen is not None and seen["signals"] != kept.held.signals:
            self._tell(kept, lost=False)

    def _tell(self, kept: _Kept, *, lost: bool) -> None:
        with self._woken:
            if id(kept.held) not in self._kept:
                return
        try:
            kept.loop.call_soon_threadsafe(kept.told, lost)
        except RuntimeError:
            # The loop was closed: nobody is left to be told.
            kept.renew_at_s = kept.look_at_s = float("inf")


def _next_at_s(kept: _Kept) -> float:
    return min(kept.renew_at_s, kept.look_at_s)


class NoKeeper:
    """Renews nothing: for tests that own the time."""

    @contextmanager
    def keep(self, held: Held, told: Told) -> Iterator[None]:
        del held, told
        yield

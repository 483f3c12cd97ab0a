"""`StreamKeeper`: writes one stream's events away in batches, and hears what its readers want."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from lambent.clock import FAR_FUTURE, Clock
from lambent.errors import StoreUnavailable
from lambent.streams.log import StreamLog
from lambent.streams.store import OWNER_LEASE, FramesTaken, StreamStore
from lambent.streams.values import Stream
from lambent.telemetry import log_fields, logger

# At most one write a stream in this time: frames come faster than a store should be asked.
_WRITE_EVERY_S: Final = 0.2
# How often it is asked whether the stream shall stop; the wish has to be obeyed within 2 s.
_LOOK_EVERY_S: Final = 0.7
_RENEW_EVERY_S: Final = OWNER_LEASE.total_seconds() / 3
# After a failure the store is left alone for a while.
_REST_S: Final = 1.0
# What the last writing may take where the store had been well, and where it had not: the answer
# is out by then, but its request has not ended.
_LAST_S: Final = 2.0
_LAST_SICK_S: Final = 0.3
# How long a lease that lapsed by what was last heard is waited for: a look that is under way may
# tell of a renewal. The model has to stop within 2 s.
_UNHEARD: Final = timedelta(seconds=1.5)


class Why(StrEnum):
    """Why a stream shall stop: asked for, its readers are gone, or it is no longer ours."""

    ASKED = "asked"
    LAPSED = "lapsed"
    TAKEN = "taken"


class StreamKeeper:
    """Runs in its own task, off the path of the events, from `start` to `finish`.

    A store that is away costs the live stream nothing: events wait in the log, and those which
    cannot be written by the end are not kept, which a log line tells. The readers' lease holds
    without the store too, by what was last heard of it. `on_stop` is called once.
    """

    def __init__(
        self,
        store: StreamStore,
        stream: Stream,
        log: StreamLog,
        *,
        clock: Clock,
        on_stop: Callable[[Why], None],
    ) -> None:
        self._store = store
        self._log = log
        self._clock = clock
        self._on_stop: Callable[[Why], None] | None = on_stop
        self._readers_until = stream.readers_until
        # A renewal in this process that is not on record yet.
        self._renewed_until: datetime | None = None
        self._written = 0
        self._ending = asyncio.Event()
        self._sick = store.rests
        self._unwanted = False
        self._next_look_s = clock.monotonic_s() + _LOOK_EVERY_S
        self._next_renewal_s = clock.monotonic_s() + _RENEW_EVERY_S
        self.stream = stream
        self.opened = False
        self._task = asyncio.create_task(self._run())
        self._watch = asyncio.create_task(self._until_lapsed())

    async def finish(self, *, unwanted: bool = False) -> None:
        """Write what is left, and how the stream ended; never raises, never takes long.

        An `unwanted` stream, of which nobody got to know, is not kept at all.
        """
        self._unwanted = unwanted
        self._watch.cancel()
        self._ending.set()
        limit_s = _LAST_SICK_S if self._sick else _LAST_S
        _, late = await asyncio.wait({self._task}, timeout=limit_s)
        for task in late:
            task.cancel()
            self._store.rest()
            self._give_up(None)

    async def attached(self) -> bool:
        """Whether somebody else reads the stream, as far as that can be found out quickly."""
        try:
            async with asyncio.timeout(_LAST_SICK_S):
                found = await self._store.look(self.stream.id)
        except (StoreUnavailable, TimeoutError):
            return False
        return found is not None and found.attached

    def renew_readers(self) -> datetime | None:
        """A reader has come to this process; until when the readers' lease lasts now, if there is
        one. It counts at once, and is on record from the next look on."""
        if self.stream.readers_lease_s is None:
            return None
        until = self._clock.now() + timedelta(seconds=self.stream.readers_lease_s)
        self._readers_until = self._renewed_until = until
        return until

    def readers_left(self) -> None:
        """A reader goes, and has said so in the store: no earlier renewal is to undo that."""
        self._renewed_until = None

    async def _run(self) -> None:
        await self._store.prepare()
        while not self._ending.is_set():
            await self._pause(_REST_S if self._sick else _WRITE_EVERY_S)
            if self._ending.is_set():
                break
            try:
                await self._write()
                await self._look()
                self._sick = False
            except StoreUnavailable as error:
                if not self._sick:
                    why = log_fields(stream=self.stream.id, detail=error.detail)
                    logger().warning("A stream cannot be kept for now", **why)
                self._sick = True
                self._store.rest()
            except FramesTaken:
                self._stop(Why.TAKEN)
                return
        await self._end()

    async def _until_lapsed(self) -> None:
        # By the clock alone: a store that hangs holds up each look for seconds.
        while (until := self._readers_until) is not None:
            left = until + _UNHEARD - self._clock.now()
            if left <= timedelta():
                self._stop(Why.LAPSED)
                return
            # Not all of it at once: a reader who goes makes the lease shorter.
            await self._clock.sleep(min(left.total_seconds(), _LOOK_EVERY_S))

    def _stop(self, why: Why) -> None:
        on_stop, self._on_stop = self._on_stop, None
        if on_stop is not None:
            on_stop(why)

    async def _pause(self, seconds: float) -> None:
        waiting = asyncio.ensure_future(self._ending.wait())
        await asyncio.wait({waiting}, timeout=seconds)
        waiting.cancel()

    async def _write(self) -> None:
        await self._open()
        if events := self._log.after(self._written):
            # Its own number of events: more may have come by the time it is written.
            self._written = await self._store.append(self.stream, self._written + 1, events)

    async def _open(self) -> None:
        if not self.opened:
            now = self._clock.now()
            self.stream = replace(self.stream, lease_until=now + OWNER_LEASE)
            await self._store.open(self.stream)
            self.opened = True

    async def _look(self) -> None:
        now_s = self._clock.monotonic_s()
        if now_s < self._next_look_s:
            return
        self._next_look_s = now_s + _LOOK_EVERY_S
        if now_s >= self._next_renewal_s:
            self._next_renewal_s = now_s + _RENEW_EVERY_S
            if not await self._store.renew(self.stream):
                raise FramesTaken(self.stream.id)
        await self._record_renewal()
        found = await self._store.look(self.stream.id)
        if found is None:
            return
        # Where a reader came to this process meanwhile, the record is behind.
        until = self._readers_until = self._renewed_until or found.readers_until
        if found.stop:
            self._stop(Why.ASKED)
        elif until is not None and until < self._clock.now():
            self._stop(Why.LAPSED)

    async def _record_renewal(self) -> None:
        if (until := self._renewed_until) is not None:
            await self._store.prolong_readers(self.stream, until)
            if self._renewed_until == until:
                self._renewed_until = None

    async def _end(self) -> None:
        try:
            if self.opened:
                await self._write()
                await self._store.finish(self.stream, self._log.status)
            elif not self._unwanted:
                await self._keep_at_once()
        except StoreUnavailable as error:
            self._store.rest()
            self._give_up(error)
        except FramesTaken as error:
            self._give_up(error)

    async def _keep_at_once(self) -> None:
        """A short stream, whose end came before its first writing: two inserts and no update."""
        self.stream = replace(self.stream, status=self._log.status, lease_until=FAR_FUTURE)
        kept, events = self.stream.kept_after, self._log.after(self._written)
        self._written = await self._store.append(self.stream, 1, events, kept=kept)
        await self._store.open(self.stream)

    def _give_up(self, error: Exception | None) -> None:
        lost = log_fields(stream=self.stream.id, events=self._log.last - self._written)
        logger().warning("A stream could not be kept to its end", exc_info=error, **lost)

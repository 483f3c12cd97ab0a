"""`StreamReader`: follows a stream that another process makes, or made, through MongoDB."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from lambent.clock import Clock
from lambent.errors import StoreUnavailable
from lambent.streams.store import StreamStore
from lambent.streams.values import Stream, StreamStatus

_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Broken:
    """The stream's owner died before its end; `event` is the number that an end would have."""

    stream: Stream
    event: int


Followed = AsyncGenerator[list[bytes] | Broken, None]


class StreamReader:
    """Reads one stream from behind an event on."""

    def __init__(self, store: StreamStore, stream: Stream, *, after: int, clock: Clock) -> None:
        self._store = store
        self._stream = stream
        self._after = after
        self._clock = clock

    async def events(self) -> AsyncGenerator[list[bytes] | Broken, None]:
        """Events as they come, an empty list at each look that found none; ends with the stream.

        `Broken` is the last where its owner died. Raises `StoreUnavailable` only at the first
        look: later the stream may go on without us looking.
        """
        # The status first: a stream that is seen to have ended has all its events written.
        stream: Stream | None = self._stream
        pause_s = _FIRST_PAUSE_S
        events = await self._next()
        while stream is not None:
            if events:
                pause_s = _FIRST_PAUSE_S
                yield events
            elif stream.status is not StreamStatus.LIVE:
                if stream.orphaned:
                    yield Broken(stream, self._after + 1)
                return
            elif stream.lease_until < self._clock.now():
                await self._lapse(stream)
            else:
                yield []
            if stream.status is StreamStatus.LIVE:
                await self._clock.sleep(pause_s)
                pause_s = min(1.5 * pause_s, _LONGEST_PAUSE_S)
                stream = await self._look(stream)
            events = await self._next_or_none()

    async def _next(self) -> list[bytes]:
        events: list[bytes] = []
        for batch in await self._store.read(self._stream.id, after=self._after):
            events.extend(batch.after(self._after))
            self._after = batch.last
        return events

    async def _next_or_none(self) -> list[bytes]:
        try:
            return await self._next()
        except StoreUnavailable:
            return []

    async def _lapse(self, stream: Stream) -> None:
        # Where this does nothing, its owner lives or somebody else was faster: the next look tells.
        with suppress(StoreUnavailable):
            await self._store.lapse(stream)

    async def _look(self, stream: Stream) -> Stream | None:
        try:
            return await self._store.look(stream.id)
        except StoreUnavailable:
            return stream

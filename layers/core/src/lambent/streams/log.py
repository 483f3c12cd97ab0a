"""`StreamLog`: one stream's events in the memory of the process that makes them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from lambent.streams.values import StreamStatus


class StreamLog:
    """Append-only; any number of readers, each with its own place.

    It is kept whole: a reader may start anywhere, and what is not yet in MongoDB must not go.
    """

    def __init__(self) -> None:
        self._events: list[bytes] = []
        self._waiting: set[asyncio.Future[None]] = set()
        self.status = StreamStatus.LIVE

    @property
    def last(self) -> int:
        """The number of the last event; 0 where there is none."""
        return len(self._events)

    @property
    def ended(self) -> bool:
        """Whether no event comes any more."""
        return self.status is not StreamStatus.LIVE

    def add(self, events: Sequence[bytes]) -> None:
        """More events."""
        self._events.extend(events)
        self._tell()

    def end(self, status: StreamStatus) -> None:
        """No event follows; only the first end counts."""
        if not self.ended:
            self.status = status
            self._tell()

    def after(self, event: int) -> list[bytes]:
        """The events with a number above `event`."""
        return self._events[event:]

    async def news(self, event: int, *, within_s: float) -> bool:
        """Wait for an event above `event`, or the end; False after so much silence."""
        if self.last > event or self.ended:
            return True
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(told)
        try:
            await asyncio.wait({told}, timeout=max(0.0, within_s))
        finally:
            self._waiting.discard(told)
        return told.done()

    def _tell(self) -> None:
        for one in self._waiting:
            if not one.done():
                one.set_result(None)

"""`Watching`: server-sent events of something that is looked at again and again."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from typing import ClassVar, Generic, TypeVar

from starlette.types import Receive, Scope, Send

from lambent.clock import Clock
from lambent.errors import StoreUnavailable
from lambent.http.sse import DONE, HEADERS, KEEP_ALIVE

T = TypeVar("T")


class Watching(ABC, Generic[T]):
    """An ASGI application that tells each state that its reader has not seen.

    A frame is a whole state, and its id is a digest of it: who comes back with `Last-Event-ID` is
    told the present state at once where it differs, and nothing twice. Ends with `data: [DONE]`
    where what is watched has an end, and without it after `longest_s`: a reader who went away
    unheard must not be paid for to the function's timeout.

    `first_pause_s`: between two looks; it doubles up to `longest_pause_s` while nothing changes.
    """

    event: ClassVar[str]
    first_pause_s: ClassVar[float]
    longest_pause_s: ClassVar[float]

    def __init__(
        self,
        *,
        last_event_id: str,
        keep_alive_s: float,
        clock: Clock,
        longest_s: float,
        headers: Mapping[str, str],
    ) -> None:
        self._seen = last_event_id
        self._keep_alive_s = keep_alive_s
        self._clock = clock
        self._ends_s = clock.monotonic_s() + longest_s
        self._headers = {**HEADERS, **headers}

    @abstractmethod
    async def look(self) -> T:
        """What there is now. What the first look raises is a problem document, not a stream."""

    @abstractmethod
    def shown(self, state: T) -> str:
        """The state as JSON."""

    def has_ended(self, state: T) -> bool:
        """Whether no other state follows."""
        return False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = await self.look()
        raw = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in self._headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        async for frame in self._frames(state):
            await send({"type": "http.response.body", "body": frame, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _frames(self, state: T) -> AsyncIterator[bytes]:
        pause_s, silent_s = self.first_pause_s, 0.0
        while True:
            data = self.shown(state)
            frame_id = digest(data)
            if frame_id != self._seen:
                self._seen, pause_s, silent_s = frame_id, self.first_pause_s, 0.0
                yield f"id: {frame_id}\nevent: {self.event}\ndata: {data}\n\n".encode()
            elif silent_s >= self._keep_alive_s:
                silent_s = 0.0
                yield KEEP_ALIVE
            if self.has_ended(state):
                yield DONE
                return
            if self._clock.monotonic_s() >= self._ends_s:
                return
            await self._clock.sleep(pause_s)
            silent_s += pause_s
            pause_s = min(pause_s * 2, self.longest_pause_s)
            try:
                state = await self.look()
            except StoreUnavailable:
                continue  # what is watched goes on without us looking; so does the stream


def digest(text: str) -> str:
    """What tells one state from another."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]

"""Answers with a stream that is kept: to its first reader and to later ones, here or elsewhere."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from lambent.chat.stream_turn import StreamTurn
from lambent.clock import Clock
from lambent.errors import ModelUnavailable
from lambent.http import sse
from lambent.http.chat_stream import begins_within_s
from lambent.http.openai_errors import openai_error
from lambent.http.problems import Rejected, encode_headers, problem
from lambent.streams.reader import Broken
from lambent.streams.values import Dialect

# How the runtime says that not the client has left, but this environment's time is up.
FOR_GOOD: Final = {"deadline", "shutdown"}


def stream_headers(id: str, *, reworded: bool = False) -> dict[str, str]:
    """What tells a client where its stream is.

    `reworded`: told in other words than it is kept in; but it can be stopped, and its lease be
    renewed.
    """
    named = {"x-stream-id": id}
    return named if reworded else {**named, "content-location": f"/chat/streams/{id}"}


def keep_alive_of(dialect: Dialect) -> bytes:
    """A comment. OpenAI's client takes a blank line behind it for an event, once it has an id."""
    return sse.KEEP_ALIVE if dialect is Dialect.LAMBENT else sse.KEEP_ALIVE[:-1]


class StreamAnswer:
    """An ASGI application that streams a turn of this process from behind an event on.

    The `first` reader's answer begins with the first frame or, while the model is silent, after
    `keep_alive_s`: so what fails early has its own status, and a front sees a sign of life in
    time. It waits until the turn is booked and kept; where that reader leaves, the turn may end.
    After `longest_s` it ends without an end: its reader is to come back.
    """

    def __init__(
        self,
        turn: StreamTurn,
        *,
        headers: Mapping[str, str],
        keep_alive_s: float,
        clock: Clock,
        after: int = 0,
        first: bool = True,
        longest_s: float | None = None,
    ) -> None:
        self.turn = turn
        self._ends = _Ends(clock, longest_s)
        self._headers = headers
        self._keep_alive_s = keep_alive_s
        self._clock = clock
        self.after = after
        self._first = first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._first:
            self.turn.attach()
            await self._stream(send)
            return
        async with reading(self.turn, receive) as leave:
            await self._stream(send)
            if not self.turn.log.ended:
                leave()

    async def _stream(self, send: Send) -> None:
        log, turn = self.turn.log, self.turn
        await self._until_begun()
        if turn.refused is not None:
            raise Rejected(turn.refused, self._headers)
        told = {**self._headers, **sse.HEADERS}
        if turn.kept or turn.reworded:
            told |= stream_headers(turn.live.id, reworded=turn.reworded)
        await send_start(send, told)
        if log.last <= self.after and not log.ended:
            await send_more(send, keep_alive_of(turn.dialect))
        while True:
            events = log.after(self.after)
            self.after += len(events)
            # Before anything is awaited: the end stands in the log together with the last event.
            ended = log.ended
            if events or ended:
                body = b"".join(events)
                await send({"type": "http.response.body", "body": body, "more_body": not ended})
            if ended:
                return
            if self._ends.left_s <= 0:
                await send({"type": "http.response.body", "body": b""})
                return
            within_s = min(self._keep_alive_s, self._ends.left_s)
            if not await log.news(self.after, within_s=within_s):
                await send_more(send, keep_alive_of(turn.dialect))

    async def _until_begun(self) -> None:
        """A place in the queue alone begins an answer only after a while."""
        turn, at = self.turn, 0
        openai = turn.dialect is not Dialect.LAMBENT
        began_s = self._clock.monotonic_s()
        while not (turn.begun or turn.log.ended):
            within_s = begins_within_s(self._keep_alive_s, queued=turn.queued, openai=openai)
            left_s = began_s + within_s - self._clock.monotonic_s()
            if left_s <= 0:
                return
            await turn.log.news(at, within_s=left_s)
            at = turn.log.last


class StreamElsewhere:
    """An ASGI application that streams what another process makes, or made."""

    def __init__(
        self,
        events: AsyncGenerator[list[bytes] | Broken, None],
        *,
        dialect: Dialect,
        headers: Mapping[str, str],
        keep_alive_s: float,
        clock: Clock,
        request_id: str,
        longest_s: float | None = None,
    ) -> None:
        self._ends = _Ends(clock, longest_s)
        self._events = events
        self._dialect = dialect
        self._headers = {**headers, **sse.HEADERS}
        self._keep_alive_s = keep_alive_s
        self._clock = clock
        self._request_id = request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watcher = asyncio.create_task(_watch(receive, lambda _: None))
        try:
            async with aclosing(self._events):
                # The first look may fail, and then has a status of its own.
                events = await anext(self._events, None)
                await send_start(send, self._headers)
                told_s = self._clock.monotonic_s()
                while events is not None and not watcher.done() and self._ends.left_s > 0:
                    data = self._bytes(events)
                    if not data and self._clock.monotonic_s() - told_s >= self._keep_alive_s:
                        data = keep_alive_of(self._dialect)
                    if data:
                        told_s = self._clock.monotonic_s()
                        await send_more(send, data)
                    events = await anext(self._events, None)
                await send({"type": "http.response.body", "body": b""})
        finally:
            watcher.cancel()

    def _bytes(self, events: list[bytes] | Broken) -> bytes:
        if isinstance(events, Broken):
            return self._broken(events.event)
        return b"".join(events)

    def _broken(self, number: int) -> bytes:
        error = ModelUnavailable("What made this stream died before its end.")
        if self._dialect is Dialect.LAMBENT:
            return sse.json_event(number, problem(error, self._request_id), event="error")
        return sse.json_event(number, openai_error(error))


class _Ends:
    """When an answer has to end; never where there is no limit."""

    def __init__(self, clock: Clock, longest_s: float | None) -> None:
        self._clock = clock
        self._at_s = math.inf if longest_s is None else clock.monotonic_s() + longest_s

    @property
    def left_s(self) -> float:
        return self._at_s - self._clock.monotonic_s()


@asynccontextmanager
async def reading(turn: StreamTurn, receive: Receive) -> AsyncIterator[Callable[[], None]]:
    """Tells the turn that its first reader left, and sees it booked before the request ends.

    Gives what says the same of a reader who is sent away.
    """
    gone_alone = False

    def left(reason: str) -> None:
        nonlocal gone_alone
        gone_alone = reason not in FOR_GOOD
        turn.reader_left(for_good=not gone_alone)

    watcher = asyncio.create_task(_watch(receive, left))
    try:
        yield partial(left, "")
    finally:
        watcher.cancel()
        # A stream that goes on alone is not waited for: this request is over.
        if not (gone_alone and turn.lasts_alone and not turn.log.ended):
            await turn.closed()


async def send_start(send: Send, headers: Mapping[str, str]) -> None:
    """Begin an answer of 200."""
    raw = encode_headers(headers)
    await send({"type": "http.response.start", "status": 200, "headers": raw})


async def send_more(send: Send, data: bytes) -> None:
    """A part of the body that is not the last."""
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def _watch(receive: Receive, left: Callable[[str], Any]) -> None:
    while (message := await receive())["type"] != "http.disconnect":
        pass
    left(message.get("reason", ""))

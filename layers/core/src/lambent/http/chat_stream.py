"""Answers a chat request from a live turn: as an event stream, or as one JSON document."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

from starlette.types import Receive, Scope, Send

from lambent.agents.agent import Chunk
from lambent.agents.turn_frames import awaited_body, tool_bodies, usage_body
from lambent.chat.live_turn import LiveTurn
from lambent.chat.parked import parked_event
from lambent.chat.stream_turn import FrameEncoder
from lambent.chat.values import Failed, Finished, Frame, Queued
from lambent.clock import Clock
from lambent.errors import LambentError, TurnParked
from lambent.http import sse
from lambent.http.problems import Rejected, encode_headers, problem, send_json

# A place in the queue that changes hands sooner than this is not worth beginning an answer for.
_QUEUED_S: Final = 1.0
# How much longer than a silence an answer to OpenAI's clients waits for its status.
_PATIENCE: Final = 1.2
# A turn that produces nothing is looked at this often where no comment has to be sent.
_LOOK_S: Final = 60.0


class EventEncoder:
    """Numbers the frames of one stream and writes them as events."""

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._id = 0

    async def encode(self, frames: Sequence[Frame]) -> bytes:
        return b"".join([piece for frame in frames for piece in self._events(frame)])

    def _events(self, frame: Frame) -> list[bytes]:
        match frame:
            case Chunk():
                return self._chunk_events(frame)
            case Queued():
                place = {
                    "position": frame.position,
                    "estimated_wait_s": frame.estimated_wait_s,
                }
                return [self._event(place, event="queued")]
            case Finished():
                end = {"finish_reason": frame.finish_reason, "usage": usage_body(frame.usage)}
                return [self._event(end), sse.DONE]
            case Failed(error=TurnParked() as error):
                return [parked_event(error)]
            case Failed():
                return [self._event(problem(frame.error, self._request_id), event="error")]

    def _chunk_events(self, chunk: Chunk) -> list[bytes]:
        events = []
        if chunk.thinking:
            events.append(self._event({"thinking": chunk.thinking}))
        if chunk.delta:
            self._id += 1
            events.append(sse.delta_event(self._id, chunk.delta))
        if chunk.tool_calls:
            calls = [{"name": c.name, "arguments": dict(c.arguments)} for c in chunk.tool_calls]
            events.append(self._event({"tool_calls": calls}))
        if chunk.sources:
            sources = [{"title": s.title, "url": s.url} for s in chunk.sources]
            events.append(self._event({"sources": sources}))
        events.extend(self._event(told) for told in tool_bodies(chunk))
        return events

    def _event(self, data: object, *, event: str | None = None) -> bytes:
        self._id += 1
        return sse.json_event(self._id, data, event=event)


def begins_within_s(keep_alive_s: float, *, queued: bool, openai: bool) -> float:
    """How long an answer may wait for its first frame, so that what fails early has its status.

    A reader is shown its place in the queue soon. OpenAI's clients would not show it; they try a
    503 again by themselves, so their answer begins a little later than a wait for a slot may end.
    """
    if not queued:
        return keep_alive_s
    return keep_alive_s * _PATIENCE if openai else min(_QUEUED_S, keep_alive_s)


class EventStreamAnswer:
    """An ASGI application that streams one turn, as OpenAI's clients want it.

    It begins with the first frame or, while the model is silent, after `keep_alive_s`: so what
    fails early has its own status, and a front sees a sign of life in time.
    """

    def __init__(
        self,
        live: LiveTurn,
        encoder: FrameEncoder,
        *,
        headers: Mapping[str, str],
        keep_alive_s: float,
        clock: Clock,
    ) -> None:
        self._live = live
        self._encoder = encoder
        self._headers = headers
        self._keep_alive_s = keep_alive_s
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with reading(self._live, receive):
            frames = await self._first_frames()
            if frames and isinstance(frames[-1], Failed) and not _has_begun(frames):
                raise Rejected(frames[-1].error, self._headers)
            headers = encode_headers({**self._headers, **sse.HEADERS})
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            while True:
                last = bool(frames) and isinstance(frames[-1], Finished | Failed)
                data = await self._encoder.encode(frames) if frames else sse.KEEP_ALIVE
                if data or last:
                    body = {"type": "http.response.body", "body": data, "more_body": not last}
                    await send(body)
                if last:
                    return
                frames = await self._live.take(within_s=self._keep_alive_s)

    async def _first_frames(self) -> list[Frame]:
        """What is ready once the answer begins; a place in the queue does not begin it."""
        began_s = self._clock.monotonic_s()
        waiting: list[Frame] = []
        while True:
            within_s = begins_within_s(self._keep_alive_s, queued=bool(waiting), openai=True)
            left_s = began_s + within_s - self._clock.monotonic_s()
            if left_s <= 0:
                return waiting
            frames = await self._live.take(within_s=left_s)
            if any(not isinstance(frame, Queued) for frame in frames):
                return frames
            waiting = frames[-1:] or waiting


class WholeBody(Protocol):
    """Makes one document of a turn."""

    async def body(self, chunks: Sequence[Chunk], end: Finished) -> Mapping[str, Any]:
        """May raise an error of ours where the chunks do not make an answer."""
        ...


class JsonAnswer:
    """An ASGI application that collects one turn into one document."""

    def __init__(self, live: LiveTurn, whole: WholeBody, *, headers: Mapping[str, str]) -> None:
        self._live = live
        self._whole = whole
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with reading(self._live, receive):
            chunks: list[Chunk] = []
            while True:
                for frame in await self._live.take(within_s=_LOOK_S):
                    match frame:
                        case Chunk():
                            chunks.append(frame)
                        case Failed():
                            raise Rejected(frame.error, self._headers)
                        case Finished():
                            await self._send(send, chunks, frame)
                            return
                        case Queued():
                            pass

    async def _send(self, send: Send, chunks: list[Chunk], end: Finished) -> None:
        try:
            body = await self._whole.body(chunks, end)
        except LambentError as error:
            raise Rejected(error, self._headers) from None
        await send_json(send, body, headers={**self._headers, "cache-control": "no-store"})


class JsonBody:
    """The document that `POST /chat` answers with."""

    def __init__(self, id: str, *, agent: str, model: str) -> None:
        self._named = {"id": id, "agent": agent, "model": model}

    async def body(self, chunks: Sequence[Chunk], end: Finished) -> Mapping[str, Any]:
        body: dict[str, Any] = {
            **self._named,
            "output": "".join(chunk.delta for chunk in chunks),
            "finish_reason": end.finish_reason,
            "usage": usage_body(end.usage),
        }
        if awaited := [chunk.awaited for chunk in chunks if chunk.awaited is not None]:
            body["waiting"] = [awaited_body(one)["waiting"] for one in awaited]
        if thinking := "".join(chunk.thinking for chunk in chunks):
            body["thinking"] = thinking
        if sources := [source for chunk in chunks for source in chunk.sources]:
            body["sources"] = [{"title": one.title, "url": one.url} for one in sources]
        return body


class Json:
    """An ASGI application that sends one document."""

    def __init__(self, body: object, headers: Mapping[str, str], *, status: int = 200) -> None:
        self._body = body
        self._headers = {**headers, "cache-control": "no-store"}
        self._status = status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, self._body, status=self._status, headers=self._headers)


@asynccontextmanager
async def reading(live: LiveTurn, receive: Receive) -> AsyncIterator[None]:
    """Ends the turn as soon as its reader leaves, and see it booked before the request ends."""
    watcher = asyncio.create_task(_until_gone(receive))
    watcher.add_done_callback(lambda task: None if task.cancelled() else live.cancel())
    try:
        yield
    finally:
        watcher.cancel()
        await live.close()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _has_begun(frames: Sequence[Frame]) -> bool:
    return any(isinstance(frame, Chunk) for frame in frames)

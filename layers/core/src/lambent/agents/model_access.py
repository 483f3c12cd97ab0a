"""The model as one turn may use it: one generation at a time, booked, and ended with the turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from lambent.errors import LambentError, ModelBusy, ModelUnavailable
from lambent.models.manager import ModelManager
from lambent.models.values import Embeddings, ModelChunk, ModelRequest, Usage


class Answered(StrEnum):
    """How the model host did in a turn, as the breaker wants to know it."""

    nothing = "nothing"  # it was not asked, or the turn ended before it answered
    success = "success"
    refused = "refused"  # it answered, with a 4xx
    busy = "busy"
    failure = "failure"


@dataclass(slots=True)
class _Open:
    """A generation; `busy` while its reader waits in it, as against leaving it at a chunk."""

    task: asyncio.Task[Any] | None = None
    busy: bool = True
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    stream: AsyncGenerator[ModelChunk, None] | None = None


class ModelAccess:
    """Books what a turn takes from the model; `on_first_token` is called once, at the first."""

    def __init__(
        self,
        models: ModelManager,
        *,
        host: str | None = None,
        on_first_token: Callable[[], None] = lambda: None,
    ) -> None:
        self._models = models
        self._host = host
        self._on_first_token = on_first_token
        self._open: _Open | None = None
        self._closed = False
        self.usage = Usage()
        self.answered = Answered.nothing

    def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        """One generation; the slot of the turn is one, so it first sees the one before ended."""
        opened = _Open()
        opened.stream = self._stream(request, opened)
        return opened.stream

    async def _stream(
        self, request: ModelRequest, opened: _Open
    ) -> AsyncGenerator[ModelChunk, None]:
        opened.task = asyncio.current_task()
        await self._take_turn()
        if self._closed:
            raise RuntimeError("the turn has ended; its model cannot be called any more")
        self._open = opened
        try:
            generation = self._models.generate_stream(request, host=self._host)
            async with aclosing(generation) as pieces:
                async for piece in pieces:
                    self._note_token()
                    if piece.end:
                        self.usage = self.usage + piece.end.usage
                    opened.busy = False
                    yield piece
                    opened.busy = True
        except LambentError as error:
            self.answered = _judge(error)
            raise
        finally:
            self._open = None
            opened.ended.set()

    async def embed(self, model: str, inputs: Sequence[str]) -> Embeddings:
        """One vector for each input, booked like a generation."""
        try:
            found = await self._models.embed(model, inputs, host=self._host)
        except LambentError as error:
            self.answered = _judge(error)
            raise
        self.answered = Answered.success
        self.usage = self.usage + found.usage
        return found

    async def close(self) -> None:
        """End what is still being generated; later calls are refused."""
        self._closed = True
        opened = self._open
        if opened is None or opened.stream is None:
            return
        if opened.busy and opened.task is not None:
            opened.task.cancel()
            await opened.ended.wait()
        else:
            await opened.stream.aclose()

    async def _take_turn(self) -> None:
        while (other := self._open) is not None and other.stream is not None:
            forgotten = other.task is asyncio.current_task() or (other.task and other.task.done())
            if forgotten and not other.busy:
                # Its reader left it without closing it.
                with suppress(RuntimeError):
                    await other.stream.aclose()
                self._open = None
            else:
                await other.ended.wait()

    def _note_token(self) -> None:
        if self.answered is not Answered.success:
            first = self.answered is Answered.nothing
            self.answered = Answered.success
            if first:
                self._on_first_token()


def _judge(error: LambentError) -> Answered:
    match error:
        case ModelBusy():
            return Answered.busy
        case ModelUnavailable():
            return Answered.failure
        case _:
            return Answered.refused

"""The model as one turn may use it: one generation at a time, booked, and ended with the turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from lambent.admission.usage import ModelUse
from lambent.errors import LambentError, ModelBusy, ModelUnavailable
from lambent.metrics import Metric, note
from lambent.models.manager import ModelManager
from lambent.models.values import Embeddings, ModelChunk, ModelRequest, Usage
from lambent.telemetry import log_fields, logger
from lambent.tracing import begin

if TYPE_CHECKING:
    from lambent.agents.loans import Loans

_CHARACTERS_A_TOKEN: Final = 4


class Answered(StrEnum):
    """How the model host did in a turn, as the breaker wants to know it."""

    nothing = "nothing"  # it was not asked, or the turn ended before it answered
    success = "success"
    refused = "refused"  # it answered, with a 4xx
    busy = "busy"
    failure = "failure"


@dataclass(slots=True)
class _Open:
    """A generation; `busy` while its reader waits in it, as against leaving it at a chunk.

    `pieces` came until `last_s`: what is known of its use as long as the server has not told it.
    """

    request: ModelRequest
    task: asyncio.Task[Any] | None = None
    busy: bool = True
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    stream: AsyncGenerator[ModelChunk, None] | None = None
    pieces: int = 0
    began_s: float = 0.0
    last_s: float = 0.0

    def use(self) -> ModelUse:
        """As it is booked if nothing more comes."""
        return ModelUse(
            model=self.request.model,
            requests=1,
            broken=1,
            prompt_tokens=0,
            completion_tokens=self.pieces,
            estimated_tokens=_estimate(self.request),
            model_s=self.last_s - self.began_s,
        )


class ModelAccess:
    """Counts what a turn takes from the model at `host`; None is the only one, or the first.

    `on_first_token` is called at the first token of a host. `move` is asked for another host when
    one failed, or was busy, before it had answered anything; None ends the call with its error.
    `loans` are for models that the host may not hold; what they use is booked there, and counted
    in `usage` here too.
    """

    def __init__(self, models: ModelManager) -> None:
        self._models = models
        self.host: str | None = None
        self.move: Callable[[], Awaitable[str | None]] | None = None
        self.loans: Loans | None = None
        self._open: _Open | None = None
        self._embedding = asyncio.Lock()
        self._closed = False
        self._used: dict[str, ModelUse] = {}
        self.on_first_token: Callable[[], None] = lambda: None
        self.usage = Usage()
        # The first whole call, and the tokens of its prompt: a measure of the conversation's text.
        self.first: tuple[ModelRequest, int] | None = None
        self.answered = Answered.nothing

    def owns(self, model: str) -> bool:
        """Whether it is the turn's own model, however it is spelled."""
        return self.loans is None or self.loans.owns(model)

    def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        """One generation; the slot of the turn is one, so it first sees the one before ended."""
        opened = _Open(request)
        # A turn's own tokens pass through one generator less.
        stream = self._stream if self.owns(request.model) else self._stream_elsewhere
        opened.stream = stream(request, opened)
        return opened.stream

    async def _stream_elsewhere(
        self, request: ModelRequest, opened: _Open
    ) -> AsyncGenerator[ModelChunk, None]:
        await self._enter(opened)
        try:
            async with self._lent(request.model) as lent:
                stream = self._stream(request, opened) if lent is None else lent.stream(request)
                try:
                    async with aclosing(stream) as pieces:
                        async for piece in pieces:
                            opened.busy = False
                            yield piece
                            opened.busy = True
                finally:
                    if lent is not None:
                        self.usage = self.usage + lent.usage
        finally:
            if self._open is opened:
                self._open = None
            opened.ended.set()

    def _lent(self, model: str) -> AbstractAsyncContextManager[ModelAccess | None]:
        return nullcontext() if self.loans is None else self.loans.access_to(model, host=self.host)

    async def _stream(
        self, request: ModelRequest, opened: _Open
    ) -> AsyncGenerator[ModelChunk, None]:
        await self._enter(opened)
        clock = asyncio.get_running_loop().time
        spent: Usage | None = None
        failed: LambentError | None = None
        call = begin("model call", model=request.model)
        try:
            while True:
                opened.began_s = opened.last_s = clock()
                try:
                    generation = self._models.generate_stream(request, host=self.host)
                    async with aclosing(generation) as pieces:
                        async for piece in pieces:
                            self._note_token()
                            opened.last_s = clock()
                            if piece.end:
                                opened.pieces = 0
                                spent = piece.end.usage
                                self._told(request.model, spent)
                                self.first = self.first or (request, spent.prompt_tokens)
                            else:
                                opened.pieces += 1
                            opened.busy = False
                            yield piece
                            opened.busy = True
                    return
                except (ModelUnavailable, ModelBusy) as error:
                    if opened.pieces or not await self._moved(error):
                        raise
        except LambentError as error:
            failed = error
            self.answered = _judge(error)
            raise
        finally:
            call.end(failed)
            if opened.pieces:
                self._add(opened.use())
            self._open = None
            opened.ended.set()
            if spent is not None:
                _tell(request.model, spent)

    async def _enter(self, opened: _Open) -> None:
        if self._open is opened:
            return
        opened.task = asyncio.current_task()
        await self._take_turn()
        if self._closed:
            raise RuntimeError("the turn has ended; its model cannot be called any more")
        self._open = opened

    async def _moved(self, error: LambentError) -> bool:
        """Whether there is another host to ask."""
        if self.move is None:
            return False
        self.answered = _judge(error)
        host = await self.move()
        if host is None:
            return False
        self.host, self.answered = host, Answered.nothing
        return True

    def used(self) -> tuple[ModelUse, ...]:
        """What the turn has used of each model so far, the generation that goes on included."""
        used = self._used
        if self._open is not None and self._open.pieces:
            running = self._open.use()
            used = {**used, running.model: _sum(used.get(running.model), running)}
        return tuple(used.values())

    async def embed(self, model: str, inputs: Sequence[str], *, whole: bool = False) -> Embeddings:
        """One vector for each input, booked like a generation; see `ModelManager.embed`.

        One call after another, as the turn has one slot. They do not wait for a generation: its
        reader may want a vector before it reads on.
        """
        async with self._embedding:
            return await self._embed(model, inputs, whole=whole)

    async def _embed(self, model: str, inputs: Sequence[str], *, whole: bool) -> Embeddings:
        async with self._lent(model) as lent:
            if lent is not None:
                found = await lent.embed(model, inputs, whole=whole)
                self.usage = self.usage + found.usage
                return found
        try:
            found = await self._models.embed(model, inputs, host=self.host, whole=whole)
        except (ModelUnavailable, ModelBusy) as error:
            if await self._moved(error):
                return await self._embed(model, inputs, whole=whole)
            self.answered = _judge(error)
            raise
        except LambentError as error:
            self.answered = _judge(error)
            raise
        self.answered = Answered.success
        self._told(model, found.usage)
        _tell(model, found.usage)
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

    def _told(self, model: str, usage: Usage) -> None:
        """What the server says that a call took."""
        self.usage = self.usage + usage
        self._add(
            ModelUse(
                model=model,
                requests=1,
                broken=0,
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                estimated_tokens=0,
                model_s=usage.total_s,
            )
        )

    def _add(self, use: ModelUse) -> None:
        self._used[use.model] = _sum(self._used.get(use.model), use)

    def _note_token(self) -> None:
        if self.answered is not Answered.success:
            first = self.answered is Answered.nothing
            self.answered = Answered.success
            if first:
                self.on_first_token()


def _judge(error: LambentError) -> Answered:
    match error:
        case ModelBusy():
            return Answered.busy
        case ModelUnavailable():
            return Answered.failure
        case _:
            return Answered.refused


def _sum(one: ModelUse | None, other: ModelUse) -> ModelUse:
    if one is None:
        return other
    return ModelUse(
        model=one.model,
        requests=one.requests + other.requests,
        broken=one.broken + other.broken,
        prompt_tokens=one.prompt_tokens + other.prompt_tokens,
        completion_tokens=one.completion_tokens + other.completion_tokens,
        estimated_tokens=one.estimated_tokens + other.estimated_tokens,
        model_s=one.model_s + other.model_s,
    )


def _estimate(request: ModelRequest) -> int:
    """Tokens of a prompt of which the server told nothing: a quarter of its characters."""
    return max(1, sum(len(one.content) for one in request.messages) // _CHARACTERS_A_TOKEN)


def _tell(model: str, usage: Usage) -> None:
    """What the call cost, once its last token is out."""
    note(Metric.MODEL_TIME, usage.total_s * 1000)
    note(Metric.PROMPT_TOKENS, usage.prompt_tokens)
    note(Metric.COMPLETION_TOKENS, usage.completion_tokens)
    told = log_fields(
        model=model,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        model_ms=round(usage.total_s * 1000),
    )
    logger().info("Model call", **told)

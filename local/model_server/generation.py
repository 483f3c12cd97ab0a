"""Answers /api/chat and /api/generate: from a prompt to lines, until done or left alone."""

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from local.model_server import options, prompts, wire
from local.model_server.engine import Chunk, Engine
from local.model_server.http1 import Exchange, encode_json
from local.model_server.requests import Generation, Refused
from local.model_server.residence import Residence, Seat


@dataclass(slots=True)
class Work:
    """What the server has done since it began, for tests and the curious."""

    generated_tokens: int = 0
    finished: int = 0
    stopped: int = 0


@dataclass(slots=True)
class Outcome:
    """How one generation went; its last chunk fills this in."""

    reason: str = "stop"
    error: Refused | None = None
    prompt_tokens: int = 0
    tokens: int = 0
    prompt_ms: float = 0.0
    eval_ms: float = 0.0
    said: list[str] = field(default_factory=list)

    def take(self, chunk: Chunk) -> str:
        """Note what a chunk of llama.cpp's says; returns its text."""
        if "error" in chunk:
            problem = chunk["error"]
            self.error = Refused(int(problem.get("code", 500)), str(problem.get("message")))
            return ""
        if timings := chunk.get("timings"):
            self.tokens = int(timings["predicted_n"])
            self.prompt_ms = float(timings["prompt_ms"])
            self.eval_ms = float(timings["predicted_ms"])
        if usage := chunk.get("usage"):
            self.tokens = int(usage["completion_tokens"])
        text = ""
        for choice in chunk.get("choices", ()):
            self.reason = choice.get("finish_reason") or self.reason
            text += choice.get("text") or ""
        return text

    def timings(self, seat: Seat, began_at_s: float) -> wire.Timings:
        return wire.Timings(
            total_duration=int((time.monotonic() - began_at_s) * 1e9),
            load_duration=seat.load_ns,
            prompt_eval_count=self.prompt_tokens,
            prompt_eval_duration=max(int(self.prompt_ms * 1e6), 1),
            eval_count=self.tokens,
            eval_duration=max(int(self.eval_ms * 1e6), 1),
        )


class Teller:
    """Tells a client what the model says: line by line, or all at the end."""

    def __init__(self, exchange: Exchange, wanted: Generation) -> None:
        self._exchange = exchange
        self._wanted = wanted
        self._held = "" if wanted.tools else None  # words that may still become tool calls

    async def tell(self, text: str) -> None:
        if not self._wanted.stream:
            return
        if self._held is not None:
            self._held += text
            if prompts.may_be_calls(self._held):
                return
            text, self._held = self._held, None
        await self._line(wire.piece(self._wanted.route, self._wanted.model, text))

    async def finish(
        self, outcome: Outcome, *, timings: wire.Timings, context: list[int] | None
    ) -> None:
        """The last line, or the whole answer. Raises Refused where that is an error's status."""
        route, model = self._wanted.route, self._wanted.model
        if outcome.error is not None:
            await self.fail(outcome.error)
            return
        last = functools.partial(
            wire.last, route, model, outcome.reason, timings=timings, context=context
        )
        said = "".join(outcome.said)
        names = {str(tool.get("function", {}).get("name")) for tool in self._wanted.tools}
        calls = prompts.read_calls(said, names=names) if names else []
        if not self._wanted.stream:
            whole = last(text="" if calls else said, tool_calls=calls)
            self._exchange.respond_json(200, whole)
            return
        if self._held:
            held = "" if calls else self._held
            await self._line(wire.piece(route, model, held, tool_calls=calls))
        await self._line(last())
        self._exchange.end_stream()

    async def fail(self, error: Refused) -> None:
        """What the model's own failure looks like: a stream has begun by then, with 200."""
        if not self._wanted.stream:
            raise error
        await self._line({"error": str(error)})
        self._exchange.end_stream()

    async def _line(self, line: wire.Line) -> None:
        if not self._exchange.started:
            self._exchange.start_stream()
        await self._exchange.write(encode_json(line) + b"\n")


async def answer(exchange: Exchange, wanted: Generation, *, model: Residence, work: Work) -> None:
    """Generate and tell. Raises QueueFull, and Refused while nothing has been sent."""
    began_at_s = time.monotonic()
    teller = Teller(exchange, wanted)
    try:
        sampling = options.read(wanted.options, context=model.limits.context)
    except options.OptionError as error:
        raise Refused(500, str(error)) from error
    try:
        form = options.constraint(wanted.form)
    except ValueError as error:
        await teller.fail(Refused(500, str(error)))
        return
    async with model.seat(wanted.keep_alive_s) as seat:
        tokens = await _in_thread(model, _prompt, seat.engine, wanted, sampling)
        payload = {**sampling.payload, **form, "prompt": tokens}
        outcome = Outcome(prompt_tokens=len(tokens))
        pieces = speak(seat.engine, payload, outcome, model=model, work=work)
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                outcome.said.append(piece)
                await teller.tell(piece)
        context = None
        if wanted.route is wire.Route.GENERATE and not wanted.raw:
            said = await _in_thread(model, seat.engine.tokenize, "".join(outcome.said))
            context = tokens + said
        timings = outcome.timings(seat, began_at_s)
    await teller.finish(outcome, timings=timings, context=context)
    work.finished += 1


async def speak(
    engine: Engine, payload: dict[str, Any], outcome: Outcome, *, model: Residence, work: Work
) -> AsyncGenerator[str, None]:
    """What the model says. Closing this ends the generation, and returns once it has ended."""
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[Chunk | None] = asyncio.Queue()
    unwanted = threading.Event()

    def hear(chunk: Chunk) -> bool:
        loop.call_soon_threadsafe(chunks.put_nowait, chunk)
        return unwanted.is_set()

    def run() -> None:
        try:
            engine.generate(payload, hear)
        finally:
            loop.call_soon_threadsafe(chunks.put_nowait, None)

    running = loop.run_in_executor(model.pool, run)
    try:
        while (chunk := await chunks.get()) is not None:
            before = outcome.tokens
            text = outcome.take(chunk)
            work.generated_tokens += max(outcome.tokens - before, 0)
            if text:
                yield text
        await running
    finally:
        if not running.done():
            unwanted.set()
            work.stopped += 1
            # The slot must not be given on while the model still works for the one who left.
            await asyncio.wait([running])


def _prompt(engine: Engine, wanted: Generation, sampling: options.Sampling) -> list[int]:
    """The tokens to go on from, cut to the context; blocks."""
    keep = int(sampling.payload["n_keep"])
    room = sampling.context - 1  # llama.cpp refuses a prompt that leaves no room for a word
    if wanted.raw:
        return prompts.cut(engine.tokenize(wanted.prompt), room=room, keep=keep)
    earlier = list(wanted.context)
    fitted = prompts.fit(
        wanted.messages, tools=wanted.tools, tokenize=engine.tokenize, room=room, keep=keep
    )
    return prompts.cut(earlier + fitted, room=room, keep=keep)


async def _in_thread(model: Residence, function: Any, *arguments: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(model.pool, function, *arguments)

"""`ToolAgent`: an agent that is its prompt and its tools; the platform does the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import ClassVar, Final

from lambent.agents.agent import Agent, AgentInfo, Chunk, info_of
from lambent.agents.tool_calls import AT_ONCE, ToolEnded, ToolStarted, answer_to, run_tool
from lambent.agents.tool_context import ToolContext
from lambent.agents.tools import Tool, by_name
from lambent.agents.turn import Turn
from lambent.models.values import Message, Role, ToolCall

NO_MORE: Final = (
    "You have called tools as often as you may. Answer now with what you have, without tools."
)


class ToolAgent(Agent):
    """Derive, set `system`, and name the tools in `@agent(..., tools=[...])`.

    `system` goes before the conversation unless that brings a system message of its own.
    """

    system: ClassVar[str | None] = None

    async def generate_stream(self, turn: Turn) -> AsyncIterator[Chunk]:
        info = info_of(type(self))
        assert info is not None
        told = opening(self.system, turn.messages)
        if not info.mcp:
            chunks = tool_loop(turn, info.tools, messages=told, rounds=info.rounds)
        else:
            chunks = _with_mcp(turn, info, told)
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk


async def _with_mcp(
    turn: Turn, info: AgentInfo, told: Sequence[Message]
) -> AsyncGenerator[Chunk, None]:
    from lambent.agents.mcp_servers import offered

    servers = None if turn.means is None else turn.means.mcp
    async with offered(info.mcp, servers) as remote:
        loop = tool_loop(
            turn,
            [*info.tools, *remote.tools],
            messages=[*told, *remote.notes],
            rounds=info.rounds,
        )
        async with aclosing(loop) as chunks:
            async for chunk in chunks:
                yield chunk


def opening(system: str | None, messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation with the agent's prompt before it."""
    if system is None or any(one.is_rule for one in messages):
        return tuple(messages)
    return (Message(role=Role.system, content=system), *messages)


async def tool_loop(
    turn: Turn,
    tools: Iterable[Tool],
    *,
    messages: Sequence[Message] | None = None,
    rounds: int = 8,
) -> AsyncGenerator[Chunk, None]:
    """Generate, run the tools that the model calls, tell it what came of them, until it answers.

    After `rounds` rounds of tools the model is asked once more without any; where it still gives
    no text, the answer ends with the finish reason "tool_rounds".
    """
    known = by_name(tools)
    offers = [one.offer for one in known.values()]
    said = list(turn.messages if messages is None else messages)
    for number in range(rounds + 1):
        last = number == rounds
        asked = [*said, Message(role=Role.system, content=NO_MORE)] if last else said
        text, calls = [], list[ToolCall]()
        stream = turn.generate_stream(messages=asked, tools=() if last else offers)
        async with aclosing(stream) as chunks:
            async for chunk in chunks:
                calls.extend(chunk.tool_calls)
                text.append(chunk.delta)
                yield _shown(chunk, bool(calls))
        if last:
            if not "".join(text).strip():
                yield Chunk(finish_reason="tool_rounds")
            return
        if not calls:
            return
        said.append(Message(role=Role.assistant, content="".join(text), tool_calls=tuple(calls)))
        ids = [call_id(number, index) for index in range(len(calls))]
        for id, call in zip(ids, calls, strict=True):
            yield Chunk(tool_started=ToolStarted(id, call.name, call.arguments))
        room = asyncio.Semaphore(AT_ONCE)
        running = [
            asyncio.create_task(_run_within(room, known, call, turn.tool_context(id)))
            for id, call in zip(ids, calls, strict=True)
        ]
        try:
            for call, task in zip(calls, running, strict=True):
                ended = await task
                said.append(answer_to(call, ended))
                yield Chunk(tool_ended=ended)
        finally:
            for task in running:
                task.cancel()


async def _run_within(
    room: asyncio.Semaphore, known: Mapping[str, Tool], call: ToolCall, context: ToolContext
) -> ToolEnded:
    async with room:
        return await run_tool(known, call, context)


def call_id(number: int, index: int) -> str:
    """A call's name within its turn: its round and its place in that, from 0."""
    return f"{number}.{index}"


def _shown(chunk: Chunk, called: bool) -> Chunk:
    """The calls are the platform's to carry out, and a round with some is not the last."""
    if not called and not chunk.tool_calls:
        return chunk
    return Chunk(delta=chunk.delta, thinking=chunk.thinking)

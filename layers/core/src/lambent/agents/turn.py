"""`Turn`: what an agent is given, and its only way to the model."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, overload

from lambent import structured
from lambent.agents.agent import Chunk
from lambent.agents.model_access import ModelAccess
from lambent.agents.tool_context import Caller, Means, ToolContext
from lambent.agents.turn_runs import TurnRuns
from lambent.clock import Clock
from lambent.models.values import Embeddings, Message, ModelRequest, Role, ToolCall, Usage
from lambent.settings import Settings

if TYPE_CHECKING:
    from pydantic import BaseModel

M = TypeVar("M", bound="BaseModel")


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole generation."""

    text: str
    thinking: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One request to an agent.

    `input` is the text of the last user message, `messages` the conversation with it. `model`,
    `options` and `think` are what the request asks for, already defaulted and checked. `client`
    owns the key that asked, None where keys are switched off; `key` is its id, and `scopes` are
    what that key may.
    `runs` is None for a key without that scope.
    """

    id: str
    input: str
    messages: tuple[Message, ...]
    model: str
    client: str | None
    settings: Settings
    clock: Clock
    access: ModelAccess = field(repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)
    think: bool | str | None = None
    conversation: str | None = None
    runs: TurnRuns | None = field(default=None, repr=False)
    scopes: frozenset[str] = frozenset()
    key: str | None = None
    means: Means | None = field(default=None, repr=False)

    def tool_context(self, call: str) -> ToolContext:
        """What this call of a tool may reach: as much as the key that asked."""
        return ToolContext(
            turn=self.id,
            call=call,
            caller=Caller(client=self.client, scopes=self.scopes),
            means=self.means or Means(settings=self.settings, clock=self.clock),
            embed=self._embed,
        )

    async def _embed(self, text: str) -> Embeddings:
        return await self.access.embed(self.settings.embedding_model, [text])

    async def generate_stream(
        self,
        *,
        messages: Iterable[Message] | None = None,
        system: str | None = None,
        model: str | None = None,
        options: Mapping[str, Any] | None = None,
        tools: Iterable[Mapping[str, Any]] = (),
        format: str | Mapping[str, Any] | None = None,
        think: bool | str | None = None,
        whole: bool = False,
    ) -> AsyncGenerator[Chunk, None]:
        """Stream one generation, by default of the turn's conversation with the turn's model.

        `system` goes before the messages; `options` go over the turn's. `whole`: a server that
        knows how refuses messages that do not fit, instead of leaving some out. A turn generates
        one at a time: a second one in the same task closes the first, in another waits for it.
        Raises what `ModelManager.generate_stream` raises.
        """
        told = tuple(self.messages if messages is None else messages)
        if system is not None:
            told = (Message(role=Role.system, content=system), *told)
        request = ModelRequest(
            model=model or self.model,
            messages=told,
            tools=tuple(tools),
            format=format,
            options={**self.options, **(options or {})},
            think=self.think if think is None else think,
            whole=whole,
        )
        async with aclosing(self.access.stream(request)) as stream:
            async for piece in stream:
                end = piece.end
                yield Chunk(
                    delta=piece.content,
                    thinking=piece.thinking,
                    tool_calls=piece.tool_calls,
                    finish_reason=end.finish_reason if end else None,
                    usage=end.usage if end else None,
                )

    @overload
    async def generate(self, wanted: None = None, /, **asked: Any) -> Reply: ...

    @overload
    async def generate(self, wanted: type[M], /, **asked: Any) -> M: ...

    async def generate(self, wanted: type[M] | None = None, /, **asked: Any) -> Reply | M:
        """One whole generation; takes what `generate_stream` takes.

        With a pydantic model, an object of it: the model server is held to its schema, and told
        once what is wrong where the answer does not fit. Raises `BadStructure`.
        """
        if wanted is None:
            return await self._generate(**asked)
        messages = tuple(asked.pop("messages", None) or self.messages)
        asked["format"] = structured.schema_of(wanted)
        reply = await self._generate(messages=messages, **asked)
        found = structured.parsed(wanted, reply.text)
        if isinstance(found, str):
            said = Message(role=Role.assistant, content=reply.text)
            told = Message(role=Role.user, content=structured.repair_of(found))
            reply = await self._generate(messages=(*messages, said, told), **asked)
            found = structured.parsed(wanted, reply.text)
        if isinstance(found, str):
            raise structured.BadStructure(f"The model's answer does not fit: {found}.")
        return found

    async def _generate(self, **asked: Any) -> Reply:
        text: list[str] = []
        thinking: list[str] = []
        calls: list[ToolCall] = []
        finish_reason, usage = "stop", Usage()
        async with aclosing(self.generate_stream(**asked)) as stream:
            async for chunk in stream:
                text.append(chunk.delta)
                thinking.append(chunk.thinking)
                calls.extend(chunk.tool_calls)
                finish_reason = chunk.finish_reason or finish_reason
                usage = chunk.usage or usage
        return Reply("".join(text), "".join(thinking), tuple(calls), finish_reason, usage)

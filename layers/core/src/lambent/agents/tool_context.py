"""`ToolContext`: what one call of a tool may reach, in the name of whoever asked the agent.

A tool acts with the scopes of the caller's key and nothing else: what a page or a prompt says is
data, and no text can add a scope.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from lambent.admission.decisions import Scope
from lambent.agents.turn_runs import TurnRuns
from lambent.clock import Clock
from lambent.errors import Unavailable, Unprocessable
from lambent.settings import Settings

if TYPE_CHECKING:
    from lambent.agents.mcp_servers import McpServers
    from lambent.agents.memory import Memory
    from lambent.bus.events import EventBus
    from lambent.engine.engine import WorkflowEngine
    from lambent.models.values import Embeddings


class Conversations(Protocol):
    """What clients and agents have said to each other."""

    async def search(self, client: str, question: str, *, limit: int) -> list[dict[str, Any]]:
        """Where that client's conversations hold all these words, the newest first."""
        ...


Embed = Callable[[str], Awaitable["Embeddings"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What an environment can do for tools; each part is called for at its first use."""

    settings: Settings
    clock: Clock
    engine: Callable[[], WorkflowEngine] | None = None
    bus: Callable[[], EventBus] | None = None
    memory: Callable[[], Memory] | None = None
    mcp: Callable[[], McpServers] | None = None
    conversations: Callable[[], Conversations] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """In whose name a turn's tools act; `client` is None where keys are switched off."""

    client: str | None
    scopes: frozenset[str]

    def may(self, scope: Scope) -> bool:
        return scope.value in self.scopes


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolContext:
    """`call` names this call within its turn: the same when it is tried again.

    `embed` turns a text into a vector, booked on the turn.
    """

    turn: str
    call: str
    caller: Caller
    means: Means = field(repr=False)
    embed: Embed | None = field(default=None, repr=False)

    @property
    def settings(self) -> Settings:
        return self.means.settings

    @property
    def client(self) -> str:
        """Who owns what the tool makes."""
        return self.caller.client or "anonymous"

    @property
    def runs(self) -> TurnRuns | None:
        """None for a key without the scope `runs`."""
        engine = self.means.engine
        if engine is None or not self.caller.may(Scope.RUNS):
            return None
        return TurnRuns(engine, client=self.client, clock=self.means.clock)

    @property
    def memory(self) -> Memory:
        """What is remembered for clients. Raises `Unavailable` where nothing can be."""
        if self.means.memory is None:
            raise Unavailable("There is no memory here.")
        return self.means.memory()

    async def said(self, question: str, *, limit: int) -> list[dict[str, Any]]:
        """Where the caller's own conversations hold all these words. Raises `Unavailable`."""
        if self.means.conversations is None:
            raise Unavailable("There are no conversations here.")
        return await self.means.conversations().search(self.client, question, limit=limit)

    async def vector(self, text: str) -> tuple[float, ...]:
        """The text's meaning as a vector. Raises `Unavailable` and what the model raises."""
        if self.embed is None:
            raise Unavailable("There is no embedding model here.")
        return (await self.embed(text)).vectors[0]

    async def publish(self, type: str, data: Any, *, subject: str | None = None) -> bool:
        """Publish an event, once for this call; False for a key without the scope `events`.

        Raises `Unprocessable`, also for a type that is the platform's own.
        """
        from lambent.bus.cloudevents import CloudEvent
        from lambent.waits import RESERVED, is_reserved

        if is_reserved(type):
            raise Unprocessable(f"Types that begin with {RESERVED!r} are the platform's own.")
        bus = self.means.bus
        if bus is None or not self.caller.may(Scope.EVENTS):
            return False
        event = CloudEvent(
            id=f"{self.turn}/{self.call}",
            source="lambent/agents",
            type=type,
            subject=subject,
            data=data,
        )
        await bus().publish(self.client, [event])
        return True

"""The work of one turn: waits for its slot, runs its agent, and books how the model did."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from lambent.admission import decisions
from lambent.admission.decisions import Admitted, Candidates, Scope
from lambent.admission.gate import Gate
from lambent.admission.usage import Payer
from lambent.agents.agent import Agent, Chunk, Source, info_of
from lambent.agents.booking import Booking
from lambent.agents.loans import Loans
from lambent.agents.model_access import ModelAccess
from lambent.agents.model_hosts import ModelHosts
from lambent.agents.runner import run_agent
from lambent.agents.tool_context import Means
from lambent.agents.tool_uses import ToolUses
from lambent.agents.turn import Turn
from lambent.agents.turn_runs import TurnRuns
from lambent.chat.exchanges import has_upkeep
from lambent.chat.live_turn import LiveTurn
from lambent.chat.values import ChatRequest, Failed, Finished, Queued
from lambent.clock import Clock
from lambent.errors import LambentError, TurnParked, Unavailable
from lambent.metrics import Metric, note
from lambent.models.manager import ModelManager
from lambent.models.values import Message, ModelRequest, Role, Usage
from lambent.settings import Settings
from lambent.telemetry import log_fields, logger

if TYPE_CHECKING:
    from lambent.agents.mcp_servers import McpServers
    from lambent.agents.memory import Memory
    from lambent.bus.events import EventBus
    from lambent.chat.conversations import ConversationStore
    from lambent.chat.dialogue import Dialogue, Windows
    from lambent.chat.durable_chats import DurableChats
    from lambent.chat.upkeep import Upkeep
    from lambent.engine.engine import WorkflowEngine


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The environment's parts that turns share."""

    gate: Gate
    models: ModelManager
    hosts: ModelHosts
    settings: Settings
    clock: Clock
    engine: Callable[[], WorkflowEngine] | None = None
    bus: Callable[[], EventBus] | None = None
    durable: Callable[[], DurableChats] | None = None
    memory: Callable[[], Memory] | None = None
    mcp: Callable[[], McpServers] | None = None
    conversations: Callable[[], ConversationStore] | None = None

    def durable_chats(self) -> DurableChats:
        """Raises `Unavailable`."""
        if self.durable is None:
            raise Unavailable("Durable agents need the engine, which is not here.")
        return self.durable()

    @cached_property
    def windows(self) -> Windows:
        """The models' windows, asked once each."""
        from lambent.chat.dialogue import Windows

        loaded = self.settings.conversation_tokens
        return Windows(self.models, loaded_tokens=loaded, clock=self.clock)

    @property
    def means(self) -> Means:
        """What tools may use."""
        return Means(
            settings=self.settings,
            clock=self.clock,
            engine=self.engine,
            bus=self.bus,
            memory=self.memory,
            mcp=self.mcp,
            conversations=self.conversations,
        )


class TurnWork:
    """One admitted, or queued, request on its way through; `run`, then always `book`."""

    def __init__(
        self,
        request: ChatRequest,
        decision: Admitted | decisions.Queued,
        *,
        agent: type[Agent] | None,
        model: str,
        among: Candidates,
        parts: Parts,
        began_s: float,
    ) -> None:
        self._request = request
        self._decision = decision
        self._agent = agent
        self._model = model
        self._among = among
        self._parts = parts
        self._began_s = began_s
        self._booking: Booking | None = None
        self._turn_id: str | None = None  # of a durable turn that was begun
        self._goes_on = False  # without this function, as far as that has heard
        self._dialogue: Dialogue | None = None
        self._access = ModelAccess(parts.models)
        self._first_s: float | None = None
        self._tokens: int | None = None  # once it has come to its end
        if isinstance(decision, Admitted):
            # At once: the grant has to be given back even if `run` is never reached.
            self._hold(decision)

    async def run(self, live: LiveTurn) -> None:
        """Tell the turn's frames; the last is `Finished` or `Failed`."""
        try:
            await self._wait_for_slot(live)
            assert self._booking is not None
            async with self._booking.keeping():
                await self._answer(live)
        except LambentError as error:
            parked = isinstance(error, TurnParked)  # it goes on once somebody lets it
            # Not what its client did: a stop, or a prompt that the model refuses.
            if self._first_s is not None and not parked and error.status >= 500:
                note(Metric.STREAMS_BROKEN)
            if parked:
                logger().info(error.detail, **log_fields(turn=live.id))
            elif error.status == 500:
                logger().error("A turn failed", exc_info=error, **log_fields(turn=live.id))
            if self._dialogue is not None:
                await self._dialogue.end()
            await live.put(Failed(error))

    async def book(self) -> None:
        """End what still runs at the model, and give the slot back."""
        await self._access.close()
        if self._parts.durable is not None and self._turn_id is not None:
            await self._parts.durable().settled(self._turn_id)
        if self._first_s is not None or self._tokens is not None:
            # Before the booking, which takes it along.
            self._parts.gate.tally.chat(
                self._decision.principal.client,
                first_s=self._first_s,
                tokens=self._tokens or self._access.usage.total_tokens,
            )
        if self._booking is not None:
            await self._booking.finish()
        if self._dialogue is not None:
            if self._goes_on:
                self._dialogue.leave()
            await self._dialogue.end()

    async def _wait_for_slot(self, live: LiveTurn) -> None:
        if not isinstance(self._decision, decisions.Queued):
            return
        await live.put(_place(self._decision))
        async with aclosing(self._parts.gate.wait(self._decision)) as places:
            async for place in places:
                match place:
                    case Admitted():
                        self._hold(place)
                    case decisions.Refused():
                        raise place.error
                    case decisions.Queued():
                        await live.put(_place(place))

    async def _answer(self, live: LiveTurn) -> None:
        finish_reason, used = "stop", Usage()
        sources: list[Source] = []
        messages = await self._messages(live)
        said: list[Chunk] = []
        uses = ToolUses()
        async with aclosing(self._chunks(self._turn(live, messages))) as chunks:
            async for chunk in chunks:
                self._first_token()
                finish_reason = chunk.finish_reason or finish_reason
                sources.extend(chunk.sources)
                used = chunk.usage or used
                if self._dialogue is not None:
                    said.append(chunk)
                    uses.take(chunk)
                await live.put(chunk)
        # A run's use is booked by its steps, and told with its last frame.
        usage = used if live.durable else self._access.usage
        self._tokens = usage.total_tokens
        # What waits for a person is not whole; its run adds it once it is.
        self._goes_on = False
        if self._dialogue is not None and not (live.durable and finish_reason == "waiting"):
            # Before the end is told: the client may go on at once.
            await self._dialogue.keep(
                "".join(chunk.delta for chunk in said),
                thinking="".join(chunk.thinking for chunk in said),
                usage=usage,
                first=self._first_call(),
                tools=uses.all(),
            )
        await live.put(Finished(finish_reason, usage, tuple(sources)))

    def _first_call(self) -> tuple[ModelRequest, int] | None:
        """None where it was of another model, whose tokens are not the conversation's."""
        first = self._access.first
        return first if first is not None and self._access.owns(first[0].model) else None

    async def _messages(self, live: LiveTurn) -> tuple[Message, ...]:
        request, conversations = self._request, self._parts.conversations
        if request.recall is not None:
            return await request.recall(live.client)
        if request.conversation is None or conversations is None:
            return request.messages
        from lambent.chat.dialogue import Dialogue

        window = await self._parts.windows.tokens_of(
            self._model, request.options, host=self._access.host
        )
        self._dialogue = Dialogue(
            conversations(),
            request.conversation,
            turn=live.id,
            client=live.client,
            clock=self._parts.clock,
            upkeep=self._upkeep(window),
        )
        return await self._dialogue.begin(
            request.messages, window_tokens=window, options=request.options
        )

    def _upkeep(self, window_tokens: int) -> Upkeep | None:
        settings, principal = self._parts.settings, self._decision.principal
        if self._parts.engine is None or not has_upkeep(settings):
            return None
        from lambent.chat.upkeep import Upkeep

        return Upkeep(
            engine=self._parts.engine,
            settings=settings,
            client=principal.client,
            key=principal.key_id,
            model=self._model,
            options=self._request.options,
            window_tokens=window_tokens,
        )

    def _chunks(self, turn: Turn) -> AsyncGenerator[Chunk, None]:
        if self._agent is not None:
            info = info_of(self._agent)
            if info is not None and info.durable:
                durable = self._parts.durable_chats()
                self._turn_id = turn.id
                self._goes_on = True
                asked, dialogue = self._request, self._dialogue
                return durable.chunks(
                    turn,
                    info,
                    patient=asked.patient,
                    lease_s=asked.lease_s,
                    place=None if dialogue is None else dialogue.place,
                )
            return run_agent(self._agent, turn)
        asked = self._request
        return turn.generate_stream(tools=asked.tools, format=asked.format, whole=asked.whole)

    def _turn(self, live: LiveTurn, messages: tuple[Message, ...]) -> Turn:
        said = (one.content for one in reversed(messages) if one.role is Role.user)
        return Turn(
            id=live.id,
            input=next(said, ""),
            messages=messages,
            model=self._model,
            options=self._request.options,
            think=self._request.think,
            conversation=self._request.conversation,
            client=self._decision.principal.client,
            key=self._decision.principal.key_id,
            settings=self._parts.settings,
            clock=self._parts.clock,
            access=self._access,
            runs=self._runs(),
            scopes=self._decision.principal.scopes,
            means=self._parts.means,
        )

    def _runs(self) -> TurnRuns | None:
        principal, engine = self._decision.principal, self._parts.engine
        if engine is None or not principal.may(Scope.RUNS):
            return None
        return TurnRuns(engine, client=principal.client, clock=self._parts.clock)

    def _hold(self, admitted: Admitted) -> None:
        principal = admitted.principal
        payer = Payer(
            client=principal.client, key_id=principal.key_id, agent=self._request.agent or ""
        )
        self._booking = Booking(
            self._parts.gate, admitted.grant, payer=payer, access=self._access, among=self._among
        )
        parts = self._parts
        self._access.loans = Loans(
            parts.gate, parts.hosts, parts.models, payer=payer, model=self._model
        )
        judge = self._booking.first_token

        def first_token() -> None:
            self._first_token()
            judge()

        self._access.on_first_token = first_token

    def _first_token(self) -> None:
        """Of the model, or of an agent's own words, whichever comes first."""
        if self._first_s is None:
            self._first_s = self._parts.clock.monotonic_s() - self._began_s
            note(Metric.TIME_TO_FIRST, self._first_s * 1000)


def _place(queued: decisions.Queued) -> Queued:
    return Queued(queued.position, round(queued.estimated_wait_s, 1))

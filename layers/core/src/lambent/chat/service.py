"""`ChatService`: takes a chat from the caller's key to a running turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any

from lambent.admission.decisions import AdmissionRequest, Refused, Scope
from lambent.admission.gate import Gate
from lambent.agents.model_hosts import ModelHosts
from lambent.agents.registry import AgentRegistry
from lambent.chat.embedding import Embedded, embed
from lambent.chat.live_turn import LiveTurn
from lambent.chat.stream_turn import FrameEncoder, KeeperOf, StreamTurn
from lambent.chat.turn_work import Parts, TurnWork
from lambent.chat.values import ChatRequest, Known, Refusal, StreamWish
from lambent.clock import Clock
from lambent.errors import LambentError, UnknownAgent
from lambent.ids import new_ulid
from lambent.models.manager import ModelManager
from lambent.models.values import ModelInfo
from lambent.settings import Settings
from lambent.streams.keeper import StreamKeeper, Why
from lambent.streams.log import StreamLog
from lambent.streams.values import Dialect, Stream

if TYPE_CHECKING:
    from lambent.agents.mcp_servers import McpServers
    from lambent.agents.memory import Memory
    from lambent.bus.events import EventBus
    from lambent.chat.conversations import ConversationStore
    from lambent.chat.durable_chats import DurableChats
    from lambent.chat.idempotency import IdempotencyKeys
    from lambent.chat.responses import ResponseStore
    from lambent.engine.engine import WorkflowEngine
    from lambent.mongo import Mongo
    from lambent.streams.store import StreamStore


class ChatService:
    """Joins admission, agents and models; one for each environment."""

    def __init__(
        self,
        *,
        gate: Gate,
        registry: AgentRegistry,
        models: ModelManager,
        settings: Settings,
        clock: Clock,
        engine: Callable[[], WorkflowEngine] | None = None,
        mongo: Callable[[], Mongo] | None = None,
        bus: Callable[[], EventBus] | None = None,
        durable: Callable[[], DurableChats] | None = None,
        memory: Callable[[], Memory] | None = None,
        mcp: Callable[[], McpServers] | None = None,
    ) -> None:
        """`engine` and all after it are called at their first use: few turns need them."""
        self._gate = gate
        self.registry = registry
        self.settings = settings
        self.clock = clock
        self._models = models
        self._hosts = ModelHosts(models)
        self._parts = Parts(
            gate=gate,
            models=models,
            hosts=self._hosts,
            settings=settings,
            clock=clock,
            engine=engine,
            bus=bus,
            durable=durable,
            memory=memory,
            mcp=mcp,
            conversations=lambda: self.conversations,
        )
        self._live: set[LiveTurn] = set()
        self._held: set[asyncio.Task[None]] = set()
        self._streams: dict[str, StreamTurn] = {}
        self._keeps = mongo is not None
        self._mongo = mongo or cache(self._own_mongo)

    @cached_property
    def responses(self) -> ResponseStore:
        """What /v1/responses keeps."""
        from lambent.chat.responses import ResponseStore

        return ResponseStore(self._mongo, clock=self.clock)

    @cached_property
    def streams(self) -> StreamStore:
        """Streams of all environments, as kept."""
        from lambent.streams.store import StreamStore

        return StreamStore(self._mongo, clock=self.clock)

    @cached_property
    def conversations(self) -> ConversationStore:
        """What clients and agents have said to each other."""
        from lambent.chat.conversations import ConversationStore

        return ConversationStore(self._mongo, clock=self.clock)

    @cached_property
    def keys(self) -> IdempotencyKeys:
        """What was answered under which idempotency key."""
        from lambent.chat.idempotency import IdempotencyKeys

        return IdempotencyKeys(self._mongo, clock=self.clock)

    def model_for(self, request: ChatRequest) -> str:
        """The request's model, else the agent's, else the deployment's."""
        if request.model is not None:
            return request.model
        agent = request.agent
        if (
            agent is not None
            and agent in self.registry
            and (own := self.registry.info(agent).model)
        ):
            return own
        return self.settings.ollama_model

    async def check(
        self, credential: str | None, *, limited: bool = True, leaving: bool = False
    ) -> Known | Refusal:
        """Key and limit alone, for what calls no model. Raises `StoreUnavailable`."""
        asked = AdmissionRequest(
            credential=credential, scope=Scope.CHAT, limited=limited, leaving=leaving
        )
        decision = await self._gate.admit(asked)
        if isinstance(decision, Refused):
            return Refusal(decision.error, decision.limit)
        return Known(decision.principal.client, decision.limit)

    async def start(
        self,
        request: ChatRequest,
        *,
        credential: str | None,
        counted: Known | None = None,
        durable_id: str | None = None,
    ) -> LiveTurn | Refusal:
        """Ask the decision tree, then let the turn run. Raises `StoreUnavailable`.

        `counted`: as who the request counted before. `durable_id`: that of a durable turn, which
        may have been begun before: then it goes on.
        """
        agent, model = request.agent, self.model_for(request)
        durable = self._is_durable(agent)
        among = await self._hosts.for_model(model)
        began_s = self.clock.monotonic_s()
        decision = await self._gate.admit(
            AdmissionRequest(
                credential=credential,
                scope=Scope.CHAT,
                agent_exists=agent is None or agent in self.registry,
                among=among,
                # A durable turn's steps take a slot each.
                slot=not durable,
                limited=counted is None,
                counted=None if counted is None else counted.limit,
            )
        )
        if isinstance(decision, Refused):
            refusal = decision.error
            if isinstance(refusal, UnknownAgent):  # admission has not heard its name
                refusal = UnknownAgent(f"There is no agent {agent!r}; GET /agents lists them all.")
            return Refusal(refusal, decision.limit)
        work = TurnWork(
            request,
            decision,
            agent=None if agent is None else self.registry.get(agent),
            model=model,
            among=among,
            parts=self._parts,
            began_s=began_s,
        )
        live = LiveTurn(
            id=(durable_id if durable else None) or new_ulid(self.clock),
            client=decision.principal.client,
            limit=decision.limit,
            work=work.run,
            book=work.book,
            durable=durable,
        )
        self._live.add(live)
        live.on_end(lambda: self._live.discard(live))
        return live

    def _is_durable(self, agent: str | None) -> bool:
        return agent is not None and agent in self.registry and self.registry.info(agent).durable

    @property
    def durable(self) -> DurableChats:
        """Turns that are runs. Raises `Unavailable` where the environment has no engine."""
        return self._parts.durable_chats()

    def stream(
        self, live: LiveTurn, encoder: FrameEncoder, *, dialect: Dialect, wish: StreamWish
    ) -> StreamTurn:
        """Tell the turn as a stream that others can read too."""
        keeps = self._keeps and not live.durable
        turn = StreamTurn(
            live,
            encoder,
            dialect=dialect,
            keeper_of=self._keeper_of(live, dialect, wish) if keeps else None,
            lasting=wish.lasting,
            # In the platform's own dialect, whichever this reader wants.
            kept_by_run=live.durable and dialect is Dialect.LAMBENT,
        )
        self._streams[live.id] = turn
        turn.on_end(partial(self._forget, live.id, turn))
        return turn

    def _forget(self, id: str, turn: StreamTurn) -> None:
        if self._streams.get(id) is turn:  # a durable turn may be told here a second time
            del self._streams[id]

    def stream_here(self, id: str, *, client: str) -> StreamTurn | None:
        """The client's stream, if it is this environment's and has not ended."""
        turn = self._streams.get(id)
        return turn if turn is not None and turn.live.client == client else None

    async def embed(
        self,
        model: str,
        inputs: Sequence[str],
        *,
        credential: str | None,
        counted: Known | None = None,
    ) -> Embedded | Refusal:
        """One vector for each input, through the same gate as a turn.

        `counted`: as who the request counted before.
        Raises `StoreUnavailable`, and what `chat.embedding` raises.
        """
        among = await self._hosts.for_model(model)
        asked = AdmissionRequest(
            credential=credential,
            scope=Scope.CHAT,
            among=among,
            slot=True,
            limited=counted is None,
            counted=None if counted is None else counted.limit,
        )
        decision = await self._gate.admit(asked)
        if isinstance(decision, Refused):
            return Refusal(decision.error, decision.limit)
        try:
            return await embed(
                decision, self._gate, models=self._models, model=model, inputs=inputs, among=among
            )
        except LambentError as error:
            return Refusal(error, decision.limit)

    async def models(self) -> tuple[ModelInfo, ...]:
        """What any model server holds; neither breaker nor slot is asked. Raises `Unavailable`."""
        return await self._hosts.all_models()

    def _keeper_of(self, live: LiveTurn, dialect: Dialect, wish: StreamWish) -> KeeperOf:
        now, lease_s = self.clock.now(), wish.lease_s
        stream = Stream(
            id=live.id,
            client=live.client,
            dialect=dialect,
            lease=new_ulid(self.clock),
            lease_until=now,
            readers_lease_s=lease_s,
            readers_until=None if lease_s is None else now + timedelta(seconds=lease_s),
            kept_after=wish.kept_after,
        )

        def keeper_of(log: StreamLog, stop: Callable[[Why], None]) -> StreamKeeper:
            return StreamKeeper(self.streams, stream, log, clock=self.clock, on_stop=stop)

        return keeper_of

    def _own_mongo(self) -> Mongo:
        from lambent.mongo import Mongo

        settings = self.settings
        return Mongo(settings.mongo_uri, settings.mongo_db_name, clock=self.clock)

    def hold(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Work that goes on without whoever began it."""
        task = asyncio.create_task(work)
        self._held.add(task)
        task.add_done_callback(self._let_go)
        return task

    def _let_go(self, task: asyncio.Task[None]) -> None:
        self._held.discard(task)
        if not task.cancelled():
            task.exception()  # who began it was told, or has left

    async def tell_tally(self) -> None:
        """After an answer: what was counted for the operators' charts."""
        await self._gate.tell_tally()

    def stop(self) -> None:
        """End every turn now, with an error frame each: the environment is going away."""
        for live in tuple(self._live):
            live.cancel()

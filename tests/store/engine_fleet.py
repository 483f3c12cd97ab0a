"""The functions around the engine in one schedule's world: pollers, and whom they invoke."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, cast

from pymongo.asynchronous.database import AsyncDatabase

from lambent.bus.delivery import Deliverer
from lambent.bus.sending import Answer, WebhookSender
from lambent.bus.transitions import DELIVERIES, EVENTS
from lambent.dispatch import Work
from lambent.due import Database, DueDocuments
from lambent.engine.engine import WorkflowEngine
from lambent.engine.model import RUNS
from lambent.intercept import Gate, StoreCall
from lambent.mongo import Document
from lambent.poller.generation import COLLECTION as POLLERS
from lambent.poller.generation import PollerBell
from lambent.poller.poller import Left, Poller
from lambent.poller.source import Fleet as Room
from lambent.poller.source import Source
from lambent.schedules.ticker import Ticker
from lambent.schedules.transitions import SCHEDULES
from lambent.testing import VirtualClock
from tests.store.engine_explorer import CLOCK, Act

_KINDS = {
    Work.RUNS: RUNS,
    Work.EVENTS: EVENTS,
    Work.SCHEDULES: SCHEDULES,
    Work.WEBHOOKS: DELIVERIES,
}
# Longer ones bound real waiting (the end of a function), and are called off in time.
_LONGEST_REST_S = 5.0
_ROUNDS = 14


class RestingClock(VirtualClock):
    """Virtual time in which a short rest is over when the scheduler says so."""

    def __init__(self, gate: Callable[[], Gate | None]) -> None:
        super().__init__()
        self.gate = gate

    async def sleep(self, seconds: float) -> None:
        if not 0 < seconds <= _LONGEST_REST_S:
            await super().sleep(seconds)
            return
        until = self.now() + timedelta(seconds=seconds)

        async def over() -> None:
            self.move_to(until)

        gate = self.gate()
        await (over() if gate is None else gate(StoreCall(CLOCK, "sleep", None), over))


class _Sender(WebhookSender):
    """To whom a call of a receiver is a point like a store call: others go on, or it dies there."""

    def __init__(self, mongo: Database, *, clock: RestingClock) -> None:
        super().__init__(mongo, clock=clock, allow_loopback=True)
        self._gate = clock.gate

    async def _call(
        self, webhook: Document, event: Document, delivery_id: str, now: datetime
    ) -> Answer:
        async def make() -> Answer:
            return await super(_Sender, self)._call(webhook, event, delivery_id, now)

        gate = self._gate()
        if gate is None:
            return await make()
        answer: Answer = await gate(StoreCall("receiver", "post", delivery_id), make)
        return answer


class Fleet:
    """`Nudges` for pollers and bells: each batch becomes a function of its own, an actor more.

    Nudges of all others are lost. `polls`: what the pollers of this world go round.
    """

    def __init__(
        self, mongo: Database, *, clock: RestingClock, engine: WorkflowEngine, deliverer: Deliverer
    ) -> None:
        self._mongo = mongo
        self._clock = clock
        self._engine = engine
        self._deliverer = deliverer
        self._ticker = Ticker(mongo, clock=clock, starts=engine)
        self._sender = _Sender(mongo, clock=clock)
        self._bell = PollerBell(mongo, clock=clock, nudges=self)
        self._invoked = Counter[Work]()
        self.polls: tuple[Work, ...] = ()
        self.rings = False  # whether who settles a run rings for a poller
        self.most = 3  # invocations; more are throttled, as good as lost
        self.call_up: Callable[[str, Act], None] | None = None

    def poller(self, life_s: float) -> Act:
        """One poller from its tick to its end, in a function that lasts so long."""

        async def poll() -> None:
            await self._poller().watch(deadline_s=self._clock.monotonic_s() + life_s)

        return poll

    async def nudge(
        self, work: Work, ids: Iterable[str], *, news: bool = False, early: bool = False
    ) -> int:
        named = list(ids)
        if not named:
            return 0
        if self.call_up is None:
            await self._function(work, named)
        elif self._invoked.total() >= self.most:
            return 0
        else:
            self._invoked[work] += 1
            name = f"{work} {self._invoked[work]}"
            self.call_up(name, lambda: self._function(work, named))
        return len(named)

    async def drain(self, lapse_s: float) -> None:
        """Tick after tick, each after all leases have lapsed, until a poller finds nothing due."""
        for _ in range(_ROUNDS):
            self._clock.move_s(lapse_s)
            # Long enough for one look.
            ends_s = self._clock.monotonic_s() + 0.5
            if await self._poller().watch(deadline_s=ends_s) is Left.IDLE:
                return
        raise AssertionError("the pollers find no rest")

    def _poller(self) -> Poller:
        return Poller(self._mongo, [self._source(work) for work in self.polls], clock=self._clock)

    def _source(self, work: Work) -> Source:
        documents = DueDocuments(self._mongo, _KINDS[work], clock=self._clock)
        return Source(work, documents, fleet=Room(4, 5), nudges=self, clock=self._clock)

    async def _function(self, work: Work, ids: list[str]) -> None:
        """What the handlers of the functions do (`lambent.app`)."""
        match work:
            case Work.RUNS:
                await self.step(ids)
            case Work.EVENTS:
                ends_s = self._clock.monotonic_s() + 60
                await self._deliverer.deliver_due(ids, deadline_s=ends_s)
            case Work.SCHEDULES:
                await self.tick(ids)
            case Work.POLL:
                await self.poller(60)()
            case Work.WEBHOOKS:
                await self.send(ids)

    async def step(self, ids: list[str]) -> None:
        """The step function: slices, and the bell for what is due before the next tick."""
        verdicts = await self._engine.advance(ids)
        for verdict in verdicts.values():
            if verdict.error is not None:
                raise verdict.error
        if self.rings and verdicts:
            await self._bell.ring(min(one.due_at for one in verdicts.values()))

    async def send(self, ids: list[str]) -> None:
        """The deliver function, as far as it is about webhooks."""
        await self._sender.send_due(ids, deadline_s=self._clock.monotonic_s() + 60)

    async def tick(self, ids: list[str]) -> None:
        """The deliver function, as far as it is about schedules."""
        await self._ticker.tick_due(ids)


class Scoped:
    """A world's own part of a database: who asks for all that is due gets only what is its own."""

    def __init__(self, mongo: Database, client: str) -> None:
        self._mongo = mongo
        self._client = client

    @property
    def db(self) -> AsyncDatabase[Document]:
        return cast("AsyncDatabase[Document]", self)

    def __getitem__(self, name: str) -> Any:
        collection = self._mongo.db[name]
        if name == POLLERS:
            return _OwnPoller(collection, self._client)
        if name in {kind.collection for kind in _KINDS.values()}:
            return _Own(collection, self._client)
        return collection


class _Own:
    def __init__(self, collection: Any, client: str) -> None:
        self._collection = collection
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._collection, name)

    def with_options(self, **options: Any) -> _Own:
        return _Own(self._collection.with_options(**options), self._client)

    def find(self, query: Document, *args: Any, **more: Any) -> Any:
        return self._collection.find(self._mine(query), *args, **more)

    async def count_documents(self, query: Document, **more: Any) -> int:
        found: int = await self._collection.count_documents(self._mine(query), **more)
        return found

    async def aggregate(self, pipeline: list[Document]) -> Any:
        return await self._collection.aggregate(self._stages(pipeline))

    def _mine(self, query: Document) -> Document:
        asks_all = "_id" not in query and not query.keys().isdisjoint({"due_at", "lease_until"})
        return {"client": self._client, **query} if asks_all else query

    def _stages(self, pipeline: list[Document]) -> list[Document]:
        return [self._stage(dict(stage)) for stage in pipeline]

    def _stage(self, stage: Document) -> Document:
        if "$match" in stage:
            stage["$match"] = self._mine(stage["$match"])
        if "$unionWith" in stage:
            union = stage["$unionWith"]
            stage["$unionWith"] = {**union, "pipeline": self._stages(union["pipeline"])}
        return stage


class _OwnPoller:
    """The one document of the pollers, under another name in each world."""

    def __init__(self, collection: Any, client: str) -> None:
        self._collection = collection
        self._client = client

    async def find_one(self, query: Document, *args: Any) -> Any:
        return await self._collection.find_one({**query, "_id": self._client}, *args)

    async def update_one(self, query: Document, update: Document, **more: Any) -> Any:
        own = {**query, "_id": self._client}
        return await self._collection.update_one(own, update, **more)

"""What the tests of the bus share: a clock to turn, a store that can be cut off, starts, nudges."""

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from pymongo.errors import DuplicateKeyError

from lambent.bus.cloudevents import CloudEvent
from lambent.bus.delivery import Deliverer
from lambent.bus.events import EventBus, ensure_event_indexes
from lambent.bus.transitions import EVENTS
from lambent.bus.webhooks import WebhookQueue, Webhooks, ensure_webhook_indexes
from lambent.clock import EPOCH, FAR_FUTURE
from lambent.dispatch import Work
from lambent.due import DueDocuments, DueKind, new_due_fields
from lambent.mongo import Document, Mongo
from lambent.waits import Waits

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
RUNS = DueKind("runs", wakeable={"status": {"$in": ["pending", "running", "waiting"]}})


class TurnedClock:
    """A clock that moves only when told to."""

    def __init__(self, at: datetime = START) -> None:
        self.passed_s = 0.0
        self._begin = at

    def now(self) -> datetime:
        return self._begin + timedelta(seconds=self.passed_s)

    def monotonic_s(self) -> float:
        return self.passed_s

    async def sleep(self, seconds: float) -> None:
        self.passed_s += seconds
        await asyncio.sleep(0)


class Killed(BaseException):
    """The process is gone: nothing of it runs any further."""


class MortalMongo:
    """The real store as seen by a process that dies before its operation number `dies_at`."""

    def __init__(self, mongo: Mongo, dies_at: int | None = None) -> None:
        self._mongo = mongo
        self.left = dies_at
        self.operations = 0

    @property
    def db(self) -> Any:
        return _MortalDatabase(self)

    def begin(self) -> None:
        self.operations += 1
        if self.left is not None and self.operations > self.left:
            raise Killed

    def collection(self, name: str) -> Any:
        return self._mongo.db[name]


class _MortalDatabase:
    def __init__(self, owner: MortalMongo) -> None:
        self._owner = owner

    def __getitem__(self, name: str) -> Any:
        return _MortalCollection(self._owner, self._owner.collection(name))


class _MortalCollection:
    def __init__(self, owner: MortalMongo, collection: Any) -> None:
        self._owner, self._collection = owner, collection

    def with_options(self, **options: Any) -> Any:
        return _MortalCollection(self._owner, self._collection.with_options(**options))

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._collection, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self._owner.begin()
            return method(*args, **kwargs)

        return call


class SilentNudges:
    """Notes nudges and loses every one: the store alone must carry the work on."""

    def __init__(self) -> None:
        self.sent: list[tuple[Work, str]] = []
        self.early: list[str] = []

    def nudge(
        self, work: Work, ids: Iterable[str], *, news: bool = False, early: bool = False
    ) -> Coroutine[Any, Any, int]:
        async def send() -> int:
            self.sent += [(work, one) for one in ids]
            self.early += ids if early else ()
            return 0

        return send()


class KeyedStarts:
    """Starts as the engine promises them: one run a key, by a unique index."""

    def __init__(self, mongo: Any, triggers: dict[str, str]) -> None:
        self._mongo, self._triggers = mongo, triggers
        self.problem: Exception | None = None

    async def start_for_event(self, event: Document) -> list[Any]:
        if self.problem is not None:
            raise self.problem
        workflow = self._triggers.get(event["type"])
        key = f"event:{event['_id']}:{workflow}"
        return [await self.start(workflow, client="acme", key=key)] if workflow else []

    async def start(self, workflow: str, input: Any = None, **rest: Any) -> Any:
        run = {"_id": rest["key"], "status": "pending", **new_due_fields(EPOCH)}
        with contextlib.suppress(DuplicateKeyError):
            await self._mongo.db["runs"].insert_one(run)
        return SimpleNamespace(run=run)


class BusWorld:
    """One store and as many processes over it as a test wants."""

    def __init__(self, mongo: Mongo, clock: TurnedClock) -> None:
        self.mongo, self.clock = mongo, clock
        self.nudges = SilentNudges()
        self.waits = Waits(mongo, clock=clock)
        self.webhooks = Webhooks(mongo, clock=clock, allow_loopback=True)
        self.triggers = {"order.placed": "ship"}

    @classmethod
    async def make(cls, uri: str, db_name: str) -> "BusWorld":
        clock = TurnedClock()
        world = cls(Mongo(uri, db_name, clock=_Steady()), clock)
        await ensure_event_indexes(world.mongo, clock=clock)
        await ensure_webhook_indexes(world.mongo, clock=clock)
        await world.waits.ensure_indexes()
        return world

    def deliverer(self, mongo: Any = None) -> Deliverer:
        mongo = mongo or self.mongo
        return Deliverer(
            mongo,
            clock=self.clock,
            runs=DueDocuments(mongo, RUNS, clock=self.clock),
            starts=KeyedStarts(mongo, self.triggers),
            webhooks=WebhookQueue(mongo, clock=self.clock),
            nudges=self.nudges,
            retention=timedelta(days=30),
        )

    def bus(self, mongo: Any = None) -> EventBus:
        mongo = mongo or self.mongo
        return EventBus(mongo, clock=self.clock, deliverer=self.deliverer(mongo))

    async def poll(self) -> int:
        """What the poller and `deliver` do once: every due event is claimed and delivered."""
        events = DueDocuments(self.mongo, EVENTS, clock=self.clock)
        ids = [one.id for one in await events.find(100)]
        await self.deliverer().deliver_due(ids, deadline_s=self.clock.passed_s + 60)
        return len(ids)

    async def sleeping_run(self, run_id: str, *, type: str = "order.placed") -> None:
        """A run that waits for an event of this type, and sleeps until it is woken."""
        run = {"_id": run_id, "client": "acme", "status": "waiting", **new_due_fields(FAR_FUTURE)}
        await self.mongo.db["runs"].insert_one(run)
        await self.waits.open(self.wait_of(run_id, type=type))

    def wait_of(self, run_id: str, *, type: str = "order.placed", key: str = "w") -> Document:
        return {
            "_id": f"{run_id}/0/{key}",
            "run": run_id,
            "epoch": 0,
            "key": key,
            "kind": "event",
            "client": "acme",
            "type": type,
            "subject": None,
            "where": [],
            "since": EPOCH,
            "deadline_at": FAR_FUTURE,
            "opened_at": self.clock.now(),
        }

    async def run(self, run_id: str) -> Document:
        found = await self.mongo.db["runs"].find_one({"_id": run_id})
        assert found is not None, f"no run {run_id}"
        return found

    async def wait_status(self, run_id: str) -> str:
        found = await self.mongo.db["waits"].find_one({"_id": f"{run_id}/0/w"})
        assert found is not None
        return str(found["status"])

    async def count(self, collection: str) -> int:
        return int(await self.mongo.db[collection].count_documents({}))


class _Steady(TurnedClock):
    """For the connection alone: turned time must not look like a freeze to it."""


def placed(id: str = "1", **changes: Any) -> CloudEvent:
    return CloudEvent(**{"id": id, "source": "/shop", "type": "order.placed", **changes})

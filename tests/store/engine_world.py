"""One schedule's world: the real engine and bus over the real store, and what must hold after."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from lambent.bus.cloudevents import CloudEvent
from lambent.bus.delivery import Deliverer
from lambent.bus.events import EventBus, StepEvents
from lambent.bus.webhooks import WebhookQueue
from lambent.clock import EPOCH, FAR_FUTURE
from lambent.due import Database
from lambent.engine.config import EngineConfig
from lambent.engine.engine import MongoStore, WorkflowEngine
from lambent.engine.model import ACTIVE, ENDED, FINAL
from lambent.engine.registry import Registry
from lambent.intercept import Gate, Intercepted, StoreCall
from lambent.leases import NoKeeper
from lambent.mongo import Document
from lambent.testing import VirtualClock

LAPSE_S = 31.0


class _Nobody:
    """Every nudge is lost: the poller must be enough."""

    async def nudge(self, *args: Any, **kwargs: Any) -> int:
        return 0


class World:
    """A client of its own, so that thousands of worlds share one database."""

    def __init__(self, mongo: Database, workflows: Registry) -> None:
        self.mongo = mongo
        self.clock = VirtualClock()
        self.client = secrets.token_hex(6)
        self.gate: Gate | None = None
        self.undelivered: set[str] = set()
        self.faulty = False  # whether an actor died or stalled in this schedule
        self.last: list[Document] = []  # the runs, as the last drain found them at rest
        self.effects: list[str] = []
        self.ends: dict[str, int] = {}
        self.finals: dict[str, Document] = {}
        config = EngineConfig(warm_s=0.0)
        gated = Intercepted(mongo, self._watch)
        store = MongoStore(gated, clock=self.clock, config=config, keeper=NoKeeper())
        self.engine = WorkflowEngine(
            store, workflows=workflows, config=config, events=StepEvents(lambda: self.bus)
        )
        deliverer = Deliverer(
            gated,
            clock=self.clock,
            runs=store.due,
            starts=self.engine,
            webhooks=WebhookQueue(gated, clock=self.clock),
            nudges=_Nobody(),
            retention=timedelta(days=1),
        )
        self.deliverer = deliverer
        self.bus = EventBus(gated, clock=self.clock, deliverer=deliverer)

    async def _watch(self, call: StoreCall, make: Callable[[], Awaitable[Any]]) -> Any:
        async def watched() -> Any:
            answer = await make()
            self._note(call, answer)
            return answer

        return await (self.gate(call, watched) if self.gate else watched())

    def _note(self, call: StoreCall, answer: Any) -> None:
        """Remember each end of a run and each checkpoint, as the store accepted it."""
        if call.name == "insert_one" and call.collection == "steps":
            self._final(call.about, call.args[0])
        if call.name == "insert_one" and call.collection == "events":
            self.undelivered.add(call.about)
        if call.name != "update_one" or not answer.matched_count:
            return
        changes = call.args[1].get("$set", {})
        if call.collection == "steps":
            self._final(call.about, changes)
        if call.collection == "events" and changes.get("status", "pending") != "pending":
            self.undelivered.discard(call.about)
        if call.collection == "runs":
            ended = changes.get("finished_at") is not None
            self.ends[call.about] = self.ends.get(call.about, 0) + ended - ("epoch" in changes)

    def _final(self, step_id: str, fields: Document) -> None:
        if fields.get("status") in FINAL:
            assert step_id not in self.finals, f"a checkpoint was written twice: {step_id}"
            self.finals[step_id] = dict(fields)

    async def effect(self, what: str) -> str:
        self.effects.append(what)
        return what

    async def start(self, workflow: str, input: Any = None, key: str | None = None) -> str:
        started = await self.engine.start(workflow, input, client=self.client, key=key)
        return str(started.run["_id"])

    async def publish(self, type: str, data: Any, *, subject: str | None = None) -> None:
        event = CloudEvent(
            id=f"{type}-{data}", source="world", type=type, subject=subject, data=data
        )
        await self.bus.publish(self.client, [event])

    async def advance(self, run_id: str) -> None:
        await self.engine.advance([run_id])

    async def poll(self, rounds: int = 1) -> None:
        """What the poller and a step function do together."""
        for _ in range(rounds):
            for one in await self.engine.store.due.find(20):
                await self.engine.advance([one.id])

    async def runs(self) -> list[Document]:
        return await self.mongo.db["runs"].find({"client": self.client}).to_list()

    async def drain(self) -> None:
        """Let every lease lapse and every timer go off, until nothing of this client is due."""
        for _ in range(14):
            self.clock.move_s(LAPSE_S)
            now = self.clock.now()
            events = sorted(self.undelivered)
            if events:
                await self.deliverer.deliver_due(events, deadline_s=self.clock.monotonic_s() + 9)
            self.last = await self.runs()
            due = [run for run in self.last if run["due_at"] <= now]
            if not events and not due:
                return
            for run in due:
                await self.engine.advance([run["_id"]])
        raise AssertionError("the runs do not come to rest")

    async def check(self) -> None:
        """The invariants of DESIGN §4, on what the schedule left behind."""
        for run in self.last:
            about = {name: run[name] for name in ("_id", "workflow", "status", "due_at", "owes")}
            assert (run["lease"], run["lease_until"]) == (None, EPOCH), f"a lease is left: {about}"
            if run["status"] in ENDED:
                assert run["due_at"] == FAR_FUTURE, f"an ended run is due: {about}"
                assert run["owes"] == [], f"a debt is left: {about}"
                assert "expire_at" in run, f"an ended run has no expiry: {about}"
                assert "slot_key" not in run, f"a slot is left: {about}"
                assert "active_key" not in run, f"an active key is left: {about}"
                assert self.ends.get(run["_id"], 1) <= 1, f"a run ended twice: {about}"
            elif run["status"] in ACTIVE:
                raise AssertionError(f"a run sleeps for ever: {about}")
        await self._check_records()

    async def _check_records(self) -> None:
        of_runs = {"run": {"$in": [run["_id"] for run in self.last]}}
        ended = {run["_id"] for run in self.last if run["status"] in ENDED}
        waits = await self.mongo.db["waits"].find(of_runs).to_list()
        taken = [(one["run"], one["event"]) for one in waits if one["status"] == "satisfied"]
        assert len(taken) == len(set(taken)), "an event was taken twice"
        steps = {one["_id"]: one for one in await self.mongo.db["steps"].find(of_runs).to_list()}
        for step_id, was in self.finals.items():
            now = {name: steps[step_id].get(name) for name in was}
            assert now == was, f"a checkpoint changed: {was} -> {now}"
        left = [one for one in waits if one["status"] == "open" and one["run"] in ended]
        assert not left, f"a wait is left open: {left}"

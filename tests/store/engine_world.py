"""One schedule's world: the real engine and bus over the real store, and what must hold after."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

from lambent.bus.cloudevents import CloudEvent
from lambent.bus.delivery import Deliverer
from lambent.bus.events import EventBus, StepEvents
from lambent.bus.transitions import DELIVERIES
from lambent.bus.webhooks import WebhookQueue, Webhooks
from lambent.clock import EPOCH, FAR_FUTURE
from lambent.due import LEASE_S, Database
from lambent.engine.config import EngineConfig
from lambent.engine.engine import MongoStore, WorkflowEngine
from lambent.engine.model import ACTIVE, ENDED, FINAL
from lambent.engine.registry import Registry
from lambent.engine.values import is_chunked
from lambent.intercept import Gate, Intercepted, StoreCall
from lambent.leases import NoKeeper
from lambent.mongo import Document
from lambent.schedules.schedules import Schedules
from tests.store.engine_explorer import Scheduler
from tests.store.engine_fleet import Fleet, RestingClock, Scoped

LAPSE_S = 31.0


class _Nobody:
    """Every nudge is lost: the poller must be enough."""

    async def nudge(self, *args: Any, **kwargs: Any) -> int:
        return 0


class World:
    """A client of its own, so that thousands of worlds share one database."""

    def __init__(self, mongo: Database, workflows: Registry, *, config: EngineConfig) -> None:
        self.mongo = mongo
        self.gate: Gate | None = None
        self.clock = RestingClock(lambda: self.gate)
        self.client = secrets.token_hex(6)
        self.undelivered: set[str] = set()
        self.events = 0
        self.faulty = False  # whether an actor died or stalled in this schedule
        self.last: list[Document] = []  # the runs, as the last drain found them at rest
        self.effects: list[str] = []
        self.ends: dict[str, int] = {}
        self.finals: dict[str, Document] = {}
        self.settled: set[str] = set()  # waits that are open no more
        self.chunks: set[str] = set()
        self.deliveries = Counter[str]()  # of webhooks: how often they were settled, and replayed
        self.told: dict[str, Any] = {}  # what a scenario's parts tell each other
        self.closing = AsyncExitStack()
        gated = Intercepted(Scoped(mongo, self.client), self._watch)
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
        self.schedules = Schedules(gated, clock=self.clock)
        self.webhooks = Webhooks(gated, clock=self.clock, allow_loopback=True)
        self.fleet = Fleet(gated, clock=self.clock, engine=self.engine, deliverer=deliverer)

    def begin(self, scheduler: Scheduler) -> None:
        """From here on the scheduler has every store call, and every function that is invoked."""
        self.gate = scheduler.gate
        self.fleet.call_up = scheduler.call_up
        self._began_s = self.clock.monotonic_s()

    def stop(self, *, faulty: bool) -> None:
        """Nobody else is about any more."""
        self.gate = self.fleet.call_up = None
        # Rests that took a lease's time together are as good as a stall.
        self.faulty = faulty or self.clock.monotonic_s() - self._began_s > LEASE_S / 2

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
            self.events += 1
        if call.name == "insert_one" and call.collection == "chunks":
            self.chunks.add(call.about)
        if call.name != "update_one" or not answer.matched_count:
            return
        changes = call.args[1].get("$set", {})
        if call.collection == "steps":
            self._final(call.about, changes)
        if call.collection == "waits" and "status" in changes:
            assert call.about not in self.settled, f"a wait was settled twice: {call.about}"
            self.settled.add(call.about)
        if call.collection == "events" and changes.get("status", "pending") != "pending":
            self.undelivered.discard(call.about)
        if call.collection == DELIVERIES.collection and "status" in changes:
            self.deliveries["replayed" if changes["status"] == "pending" else "settled"] += 1
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

    async def undo(self, what: str) -> None:
        # A coroutine function, as all that scenarios give to steps: no other has its turns here.
        await self.effect(f"undo {what}")

    async def start(self, workflow: str, input: Any = None, key: str | None = None) -> str:
        started = await self.engine.start(workflow, input, client=self.client, key=key)
        return str(started.run["_id"])

    async def publish(self, type: str, data: Any, *, subject: str | None = None) -> None:
        event = CloudEvent(
            id=f"{type}-{data}", source="world", type=type, subject=subject, data=data
        )
        await self.bus.publish(self.client, [event])

    async def advance(self, run_id: str) -> None:
        for verdict in (await self.engine.advance([run_id])).values():
            if verdict.error is not None:
                raise verdict.error

    async def poll(self, rounds: int = 1) -> None:
        """What the poller and a step function do together."""
        for _ in range(rounds):
            for one in await self.engine.store.due.find(20):
                await self.advance(one.id)

    async def runs(self) -> list[Document]:
        return await self.mongo.db["runs"].find({"client": self.client}).to_list()

    async def drain(self) -> None:
        """Let every lease lapse and every timer go off, until nothing of this client is due."""
        if self.fleet.polls:
            await self.fleet.drain(LAPSE_S)
            self.last = await self.runs()
            return
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
                await self.advance(run["_id"])
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
                assert run["due_at"] != FAR_FUTURE, f"a run sleeps for ever: {about}"
        await self._check_records()

    async def _check_records(self) -> None:
        of_runs = {"run": {"$in": [run["_id"] for run in self.last]}}
        ended = {run["_id"] for run in self.last if run["status"] in ENDED}
        bases = {run["_id"]: run["base_epoch"] for run in self.last}
        waits = await self.mongo.db["waits"].find(of_runs).to_list()
        taken = [(one["run"], one["event"]) for one in waits if one["status"] == "satisfied"]
        assert len(taken) == len(set(taken)), "an event was taken twice"
        steps = {one["_id"]: one for one in await self.mongo.db["steps"].find(of_runs).to_list()}
        for step_id, was in self.finals.items():
            now = {name: steps[step_id].get(name) for name in was}
            assert now == was, f"a checkpoint changed: {was} -> {now}"
        left = [one for one in waits if one["status"] == "open" and one["run"] in ended]
        assert not left, f"a wait is left open: {left}"
        for one in [*waits, *steps.values()]:
            if one["run"] in ended:
                assert "expire_at" in one, f"it stays for ever: {one}"
            elif one["epoch"] >= bases[one["run"]]:
                assert "expire_at" not in one, f"it goes while it is needed: {one}"
        if self.events:
            await self._check_events()
        if self.chunks:
            await self._check_chunks(steps.values(), ended)

    async def _check_events(self) -> None:
        for one in await self.mongo.db["events"].find({"client": self.client}).to_list():
            about = {name: one[name] for name in ("_id", "type", "status", "due_at", "lease")}
            assert (one["lease"], one["due_at"]) == (None, FAR_FUTURE), f"not over: {about}"
            assert one["status"] == "delivered", f"not over: {about}"
            assert "expire_at" in one, f"it stays for ever: {about}"

    async def _check_chunks(self, steps: Iterable[Document], ended: set[str]) -> None:
        """Each chunk is of a value that is pointed at, or goes with its run; none is missing."""
        found = await self.mongo.db["chunks"].find({"_id": {"$in": sorted(self.chunks)}}).to_list()
        pointed = {
            form["v"]["set"]: form["v"]["count"]
            for document in [*self.last, *steps]
            for name in ("input", "output", "progress")
            for form in _chunked(document.get(name))
        }
        known = {run["_id"] for run in self.last}
        for chunk in found:
            about = {name: value for name, value in chunk.items() if name != "data"}
            if chunk["run"] in ended or chunk["run"] not in known:  # or its starter died first
                assert "expire_at" in chunk, f"orphan: {about}"
            else:
                assert chunk["set"] in pointed, f"orphan: {about}"
                assert "expire_at" not in chunk, f"it goes while it is needed: {about}"
        for name, count in pointed.items():
            assert count == sum(one["set"] == name for one in found), f"chunks of {name} are gone"


def _chunked(form: Any) -> list[Document]:
    if isinstance(form, dict) and "value" in form and "order" in form:  # progress
        form = form["value"]
    return [one for one in (form if isinstance(form, list) else [form]) if is_chunked(one)]

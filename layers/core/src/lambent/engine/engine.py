"""The durable engine as one thing: what app.py builds and everybody else calls."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, cast

from lambent.clock import Clock, SystemClock
from lambent.due import LEASE_S, Claimed, Database, DueDocuments, read_winner
from lambent.engine.callbacks import Callbacks
from lambent.engine.config import EngineConfig, EventPort, ModelPort, NoNudges, Nudger
from lambent.engine.context import ChildSpec
from lambent.engine.control import RunControl
from lambent.engine.debts import Debts
from lambent.engine.documents import is_child
from lambent.engine.flow import Gates
from lambent.engine.inputs import check_input
from lambent.engine.limits import Limits
from lambent.engine.model import ENDED, RUNS, Status
from lambent.engine.options import event_input
from lambent.engine.registry import Registry, registry
from lambent.engine.retries import Retries
from lambent.engine.run_records import RunRecords
from lambent.engine.slices import Slice
from lambent.engine.starter import Start, Started, Starter
from lambent.engine.tenure import Did, Parts, Verdict
from lambent.engine.transitions import Transitions
from lambent.engine.values import Values
from lambent.errors import RequestError, RetryLater, StoreUnavailable
from lambent.leases import Keeper, LeaseKeeper, NoKeeper
from lambent.mongo import Document, Mongo, guarded
from lambent.telemetry import log_fields, logger
from lambent.waits import Waits


class MongoStore:
    """The durable state in MongoDB: due runs, values, waits, and the keeper of their leases."""

    def __init__(
        self, mongo: Database, *, clock: Clock, config: EngineConfig, keeper: Keeper | None = None
    ) -> None:
        self.mongo = mongo
        self.clock = clock
        self.due = DueDocuments(mongo, RUNS, clock=clock)
        self.values = Values(mongo, config, clock=clock)
        self.waits = Waits(mongo, clock=clock)
        self.keeper: Keeper = keeper or NoKeeper()

    @classmethod
    def connect(
        cls, uri: str, db_name: str, *, clock: Clock | None = None, config: EngineConfig
    ) -> MongoStore:
        """A store with connections of its own: one for calls, one for the leases."""
        clock = clock or SystemClock()
        keeper = LeaseKeeper(uri, db_name, clock=clock)
        return cls(Mongo(uri, db_name, clock=clock), clock=clock, config=config, keeper=keeper)

    async def close(self) -> None:
        if isinstance(self.keeper, LeaseKeeper):
            await asyncio.to_thread(self.keeper.close)
        if isinstance(self.mongo, Mongo):
            await self.mongo.close()


class WorkflowEngine:
    """Starts runs, advances them by slices, and answers what is asked of them (`control`)."""

    def __init__(
        self,
        store: MongoStore,
        *,
        workflows: Registry = registry,
        config: EngineConfig | None = None,
        nudger: Nudger | None = None,
        model: ModelPort | None = None,
        events: EventPort | None = None,
    ) -> None:
        self.store = store
        self.workflows = workflows
        self.config = config or EngineConfig()
        nudger = nudger or NoNudges()
        mongo, due, clock = store.mongo, store.due, store.clock
        transitions = Transitions(due, clock=clock, config=self.config)
        self._gates = Gates(due, registry=workflows, clock=clock)
        self._starter = Starter(
            due, registry=workflows, values=store.values, nudger=nudger, clock=clock
        )
        debts = Debts(
            mongo,
            due,
            transitions=transitions,
            gates=self._gates,
            waits=store.waits,
            nudger=nudger,
            clock=clock,
            config=self.config,
        )
        self.limits = Limits(mongo, registry=workflows, gates=self._gates, nudger=nudger)
        retries = Retries(mongo, due, transitions=transitions)
        self.control = RunControl(
            mongo,
            due,
            transitions=transitions,
            debts=debts,
            retries=retries,
            values=store.values,
            waits=store.waits,
            nudger=nudger,
            clock=clock,
        )
        self.records = RunRecords(mongo, due, values=store.values, waits=store.waits, clock=clock)
        self.callbacks = Callbacks(store.waits, events=events, due=due, clock=clock)
        self._nudger = nudger
        self._parts = Parts(
            mongo=mongo,
            due=due,
            registry=workflows,
            transitions=transitions,
            gates=self._gates,
            debts=debts,
            values=store.values,
            waits=store.waits,
            children=_Children(self._starter, due, transitions, retries, nudger),
            keeper=store.keeper,
            nudger=nudger,
            clock=clock,
            config=self.config,
            model=model,
            events=events,
        )
        self._slices: set[Slice] = set()

    async def ensure_indexes(self) -> None:
        """Make every index the engine stands on; for setup. The unique ones are its rules."""
        await self.store.due.ensure_indexes()
        await self.store.waits.ensure_indexes()
        await self.store.values.ensure_indexes()
        await self._starter.ensure_indexes()
        await self._gates.ensure_indexes()
        await self.control.ensure_indexes()
        await self.records.ensure_indexes()

    async def start(
        self,
        workflow: str,
        input: Any = None,
        *,
        client: str,
        key: str | None = None,
        version: int | None = None,
        priority: int | None = None,
        budget: int | None = None,
        checked: bool = False,
    ) -> Started:
        """Start a run, or find the one that `key` has started before. See `Starter.start`."""
        return await self._starter.start(
            Start(
                workflow=workflow,
                client=client,
                input=input,
                key=key,
                version=version,
                priority=priority,
                budget=budget,
                checked=checked,
            )
        )

    def check_input(self, workflow: str, version: int | None, input: Any) -> None:
        """Raises `Unprocessable` where a deployed workflow declares another input."""
        check_input(self.workflows, workflow, version, input)

    async def start_internal(
        self,
        workflow: str,
        input: Any,
        *,
        client: str,
        key: str | None,
        version: int,
        nudge: bool = False,
    ) -> Started:
        """Start a run of an internal workflow, without a nudge for whoever is going to advance it
        himself: then the poller is the guarantee."""
        wanted = Start(
            workflow=workflow, client=client, input=input, key=key, version=version, internal=True
        )
        return await self._starter.start(wanted, nudge=nudge)

    async def take_internal(
        self, workflow: str, input: Any, *, client: str, key: str, version: int
    ) -> Started:
        """The same, and the run, if it is made here, is this caller's, to `advance` at once."""
        wanted = Start(
            workflow=workflow, client=client, input=input, key=key, version=version, internal=True
        )
        return await self._starter.take(wanted)

    async def start_for_event(self, event: Mapping[str, Any]) -> list[Started]:
        """Start each workflow that names the event's type, once for this event.

        One that the event does not fit, or that cannot be started now, is told of last: it keeps
        no other from starting. Delivered again, the event starts only those that are missing.
        """
        started: list[Started] = []
        problem: RequestError | RetryLater | None = None
        for workflow in self.workflows.started_by(event["type"]):
            wanted = Start(
                workflow=workflow.name,
                client=event["client"],
                input=event_input(event),
                key=f"event:{event['_id']}:{workflow.name}",
            )
            try:
                started.append(await self._starter.start(wanted))
            except StoreUnavailable:
                raise  # the others stand on the same store
            except (RequestError, RetryLater) as error:
                problem = problem or error
        if problem is not None:
            raise problem
        return started

    async def start_for_tick(
        self, workflow: str, input: Any, *, client: str, schedule: str, tick_at: datetime
    ) -> Started:
        """Start the run of one tick of a schedule, once whatever the number of pollers."""
        key = f"tick:{schedule}:{tick_at.isoformat()}"
        return await self.start(workflow, input, client=client, key=key)

    async def wake(self, run_id: str) -> bool:
        """Tell a run to look again, for example because an event is there for it."""
        return await self.store.due.wake(run_id)

    async def advance(
        self,
        run_ids: Sequence[str],
        *,
        ends_s: float | None = None,
        early: bool = False,
        taken: Claimed | None = None,
    ) -> dict[str, Verdict]:
        """Advance a batch by one slice each, side by side on this event loop.

        `ends_s`: the end of this invocation by the monotonic clock. A run whose last owner died
        goes alone: from a batch of several it is released and nudged by itself. `early`: what
        makes them due may still be on its way to the store. `taken`: the hold on one of them that
        was started by `take_internal`. An error in one slice is logged and told in its verdict; it
        is no affair of the other runs.
        """
        if ends_s is None:
            ends_s = self.store.clock.monotonic_s() + self.config.longest_step_s
        unique = list(dict.fromkeys(run_ids))
        held = {} if taken is None else {taken.lease.id: taken}
        slices = [
            Slice(self._parts, run_id, ends_s=ends_s, taken=held.get(run_id)) for run_id in unique
        ]
        self._slices.update(slices)
        try:
            alone = len(slices) == 1
            # Beside them: those who wait may be many, and the slices' leases do not wait.
            noticed, *outcomes = await asyncio.gather(
                self._notice_limits(ends_s),
                *(one.advance(alone=alone, early=early) for one in slices),
                return_exceptions=True,
            )
        finally:
            self._slices.difference_update(slices)
        if isinstance(noticed, BaseException):
            raise noticed
        by_id = dict(zip(unique, cast("list[Verdict | BaseException]", outcomes), strict=True))
        found = {run_id: self._verdict(run_id, outcome) for run_id, outcome in by_id.items()}
        for run_id, verdict in found.items():
            if verdict.did is Did.RELEASED:
                await self._nudger.nudge([run_id])
        return found

    async def _notice_limits(self, ends_s: float) -> None:
        with suppress(TimeoutError):  # the next invocation begins with it anew
            async with asyncio.timeout(ends_s - self.store.clock.monotonic_s()):
                await self.limits.take_effect()

    def _verdict(self, run_id: str, outcome: Verdict | BaseException) -> Verdict:
        if isinstance(outcome, Verdict):
            return outcome
        if not isinstance(outcome, Exception):
            # Raised only when all slices are over: else the others would go on, with their leases,
            # in a function that has given its answer and may be frozen at any moment.
            raise outcome
        logger().error("A slice failed", exc_info=outcome, **log_fields(run=run_id))
        lapses_at = self.store.clock.now() + timedelta(seconds=LEASE_S)
        return Verdict(Did.BROKEN, lapses_at, outcome)

    def stop(self) -> None:
        """SIGTERM: every slice settles at once, due."""
        for one in list(self._slices):
            one.stop()

    def stop_run(self, run_id: str) -> None:
        """Settle this run's slice at once, if one is here: it goes on elsewhere."""
        for one in list(self._slices):
            if one.run_id == run_id:
                one.stop()

    def poke_run(self, run_id: str) -> None:
        """Let this run's slice, if one is here, look at once at what was asked of it."""
        for one in list(self._slices):
            if one.run_id == run_id:
                one.poke()

    async def result(self, run_id: str) -> Any:
        """The output of a completed run as its author's value; None for any other run."""
        run = await guarded(self.store.due.collection.find_one({"_id": run_id}))
        if run is None or run["status"] != Status.COMPLETED:
            return None
        return await self.store.values.fetch(run["output"])


class _Children:
    """How runs reach other runs."""

    def __init__(
        self,
        starter: Starter,
        due: DueDocuments,
        transitions: Transitions,
        retries: Retries,
        nudger: Nudger,
    ) -> None:
        self._retries = retries
        self._starter = starter
        self._due = due
        self._transitions = transitions
        self._nudger = nudger

    async def start_child(self, spec: ChildSpec) -> Document:
        return (await self._starter.start(_start_of(spec))).run

    async def bury_child(self, spec: ChildSpec) -> Document:
        return await self._starter.bury(_start_of(spec))

    async def read(self, run_id: str) -> Document | None:
        # With majority concern: its end becomes a checkpoint of its parent.
        return await read_winner(self._due.collection, run_id)

    async def retry_child(self, run_id: str, *, parent: str, epoch: int) -> None:
        if await self._retries.retry_child(run_id, parent=parent, epoch=epoch):
            await self._nudger.nudge([run_id])

    async def cancel_children(self, parent: str) -> None:
        """All that the run started, those of which it has no record yet among them."""
        await self._nudger.nudge(await self._transitions.ask_cancel_children(parent))

    async def cancel_child(self, run_id: str, *, parent: str) -> None:
        run = await self.read(run_id)
        if run is None or not is_child(run, parent):
            return
        if run["status"] not in ENDED:
            await self._transitions.ask_cancel(run_id)
            await self._nudger.nudge([run_id])


def _start_of(spec: ChildSpec) -> Start:
    parent = spec.parent
    place = {"run": parent["_id"], "epoch": parent["epoch"], "key": spec.key}
    return Start(
        workflow=spec.workflow,
        client=parent["client"],
        input=spec.input,
        key=f"child:{place['run']}/{place['epoch']}/{spec.key}",
        version=spec.version,
        priority=parent["priority"] if spec.priority is None else spec.priority,
        budget=spec.budget,
        parent=place,
        checked=True,
    )

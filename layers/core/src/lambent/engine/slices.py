"""Advances one run by one slice: claim, replay, go on, settle."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any, Final, TypeVar

from lambent.clock import FAR_FUTURE, Clock
from lambent.due import Claimed, Database, DueDocuments, Settled
from lambent.engine.config import EngineConfig, EventPort, ModelPort, Nudger
from lambent.engine.context import Children, RunContext
from lambent.engine.debts import Debts
from lambent.engine.execution import Ended, Execution, Outcome, Settling
from lambent.engine.flow import Gates
from lambent.engine.journal import Journal
from lambent.engine.model import ENDED, Control, Reason, Status
from lambent.engine.registry import Registry, Workflow
from lambent.engine.step import Step
from lambent.engine.tidying import failure_document, tidy
from lambent.engine.transitions import Transitions
from lambent.engine.undo import undo_all
from lambent.engine.values import Values
from lambent.errors import LeaseLost, Stopped, StoreUnavailable, Unserialisable
from lambent.leases import Held, Keeper
from lambent.mongo import Document
from lambent.waits import Waits

T = TypeVar("T")

_STORE_RETRY_S: Final = 0.25


class Did(StrEnum):
    """What became of a run in a slice."""

    NOTHING = "nothing"  # it was not due, or someone else had it
    ENDED = "ended"
    WAITING = "waiting"
    STOPPED = "stopped"  # out of time: due at once, and nudged
    PARKED = "parked"
    RELEASED = "released"  # its last owner died: it must go alone
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`due_at`: when the run wants its next slice, as far as this one knows."""

    did: Did
    due_at: datetime = FAR_FUTURE


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What slices are made of; one for each environment."""

    mongo: Database
    due: DueDocuments
    registry: Registry
    transitions: Transitions
    gates: Gates
    debts: Debts
    values: Values
    waits: Waits
    children: Children
    keeper: Keeper
    nudger: Nudger
    clock: Clock
    config: EngineConfig
    model: ModelPort | None = None
    events: EventPort | None = None


class Slice:
    """One run in the hands of this environment, from its claim to its settle."""

    def __init__(self, parts: Parts, run_id: str, *, ends_s: float) -> None:
        self._parts = parts
        self._run_id = run_id
        self._ends_s = ends_s
        self._execution: Execution | None = None
        self._stopped = False
        self._begun = False
        self._claimed: Claimed
        self._held: Held
        self.run: Document
        self.journal: Journal

    def stop(self) -> None:
        """This environment is about to go: settle at once, as due."""
        self._stopped = True
        if self._execution is not None:
            self._execution.unwind(Stopped())

    async def advance(self, *, alone: bool) -> Verdict:
        """Do what can be done. `alone`: nobody else goes down with this run if it kills us."""
        claimed = await self._parts.due.claim(self._run_id)
        if claimed is None:
            return Verdict(Did.NOTHING)
        if claimed.document["claims"] > 1 and not alone:
            await self._parts.due.release(claimed.lease)
            return Verdict(Did.RELEASED, claimed.document["due_at"])
        self.run, self._claimed = claimed.document, claimed
        self._held = Held(claimed.lease, claimed.document["signals"])
        with self._parts.keeper.keep(self._held, self._told):
            try:
                return await self._work()
            except (LeaseLost, StoreUnavailable):
                return Verdict(Did.LOST)

    def _told(self, lost: bool) -> None:
        if self._execution is None:
            return
        if lost:
            self._execution.unwind(LeaseLost())
        else:
            self._execution.poke()

    async def _work(self) -> Verdict:
        while True:
            if self.run["status"] in ENDED:
                await self._steady(lambda: self._parts.debts.pay(self._held.lease, self.run))
                return Verdict(Did.ENDED)
            if (verdict := await self._once()) is not None:
                return verdict

    async def _once(self) -> Verdict | None:
        """One pass; None: the run has changed, look at it again."""
        parts, run = self._parts, self.run
        workflow = parts.registry.get(run["workflow"], run["version"])
        if self._stopped:
            return await self._yield()
        if run["ending"] is None and run["control"] is not None:
            return await self._obey(Control(run["control"]), workflow)
        if workflow is None:
            return await self._no_code()
        if run["ending"] is None:
            held_until = await self._steady(
                lambda: parts.gates.wait_until(self._held.lease, run, workflow)
            )
            if held_until is not None:
                return await self._hold(held_until)
        if (verdict := await self._begin()) is not None:
            return verdict
        if self.run["status"] != Status.RUNNING:
            return None
        return await self._pass(workflow)

    async def _obey(self, control: Control, workflow: Workflow | None) -> Verdict | None:
        parts, run, lease = self._parts, self.run, self._held.lease
        if control is Control.PAUSE:
            await self._pass_on()
            pause = parts.transitions.pause
            return await self._settled(
                lambda: pause(lease, seen_signals=self._held.signals, noted={}),
                Verdict(Did.PARKED),
            )
        if run["started_at"] is None or workflow is None:
            # Nothing was done, or nothing knows how to undo it.
            await self._end(Status.CANCELLED)
            return None
        if not await self._steady(lambda: parts.transitions.decide(lease, Status.CANCELLED, None)):
            raise LeaseLost
        run["ending"] = {"status": Status.CANCELLED.value, "error": None}
        run["control"] = None
        return None

    async def _no_code(self) -> Verdict | None:
        run, transitions = self.run, self._parts.transitions
        await self._pass_on()
        tries = int((run["blocked"] or {}).get("tries", 0))
        due_at = transitions.no_code_until(tries)
        return await self._block(
            Reason.NO_CODE,
            f"Version {run['version']} of {run['workflow']!r} is not deployed.",
            noted={},
            due_at=due_at,
            tries=tries + 1,
        )

    async def _hold(self, until: datetime) -> Verdict | None:
        hold = self._parts.transitions.hold
        return await self._settled(
            lambda: hold(self._held.lease, until, seen_signals=self._held.signals, set={}),
            Verdict(Did.WAITING, until),
        )

    async def _begin(self) -> Verdict | None:
        parts, run = self._parts, self.run
        self.journal = Journal(parts.mongo, run)
        fresh = run["started_at"] is None and run["epoch"] == 0
        if not fresh:
            if run.get("untidy"):
                await self._steady(lambda: tidy(parts.mongo, parts.children, run))
            await self._steady(lambda: self.journal.load(parts.waits))
        died = run["claims"] > 1
        got_on = self.journal.count > run["records"]
        if run["claims"] > parts.config.deaths and not got_on:
            last = self.journal.last_key()
            return await self._block(
                Reason.POISON,
                f"{parts.config.deaths} slices in a row died with it; last on record: {last}.",
                noted=self._noted(),
            )
        records = self.journal.count if died else None
        begin = partial(parts.transitions.begin, self._held.lease, run, records=records)
        if not await self._steady(begin):
            await self._reread()
            if run["due_at"] > parts.clock.now():
                return await self._hold(self.run["due_at"])
            return None
        self._begun = False
        return None

    async def _pass(self, workflow: Workflow) -> Verdict | None:
        """Run the code once; then, if the run is ending with something to undo, the undoing."""
        unwinding = self.run["ending"] is not None
        context = self._context(workflow, unwinding=unwinding)
        value = await self._steady(lambda: self._parts.values.fetch(self.run["input"]))
        step = Step(context)
        outcome = await self._run(context, lambda: workflow.fn(step, value))
        if not unwinding:
            return await self._after(outcome, context)
        if outcome.ended in {Ended.LOST, Ended.STOPPED}:
            return await self._after(outcome, context)
        undoing = self._context(workflow, unwinding=False)
        code = partial(undo_all, undoing, context.undos)
        undone = await self._run(undoing, code, path="undo")
        if undone.ended is Ended.RETURNED:
            ending = self.run["ending"]
            await self._end(Status(ending["status"]), error=undone.value or ending["error"])
            return None
        return await self._after(undone, undoing)

    async def _run(
        self, context: RunContext, code: Callable[[], Awaitable[Any]], path: str = ""
    ) -> Outcome:
        self._execution = context.execution
        if self._stopped:
            context.execution.unwind(Stopped())
        try:
            return await context.execution.run(code, path)
        finally:
            self._begun = context.execution.begun
            self._execution = None

    def _context(self, workflow: Workflow, *, unwinding: bool) -> RunContext:
        parts = self._parts
        execution = Execution(
            journal=self.journal,
            held=self._held,
            clock=parts.clock,
            config=parts.config,
            settling=Settling(suspend=self._suspend, reread=self._reread),
            ends_s=self._ends_s,
            unwinding=unwinding,
            begun=self._begun,
        )
        return RunContext(
            run=self.run,
            workflow=workflow,
            execution=execution,
            journal=self.journal,
            values=parts.values,
            waits=parts.waits,
            children=parts.children,
            clock=parts.clock,
            config=parts.config,
            model=parts.model,
            events=parts.events,
            report=self._report,
        )

    async def _after(self, outcome: Outcome, context: RunContext) -> Verdict | None:
        match outcome.ended:
            case Ended.RETURNED:
                return await self._returned(outcome.value, context)
            case Ended.RAISED:
                assert outcome.error is not None
                return await self._raised(outcome.error, context)
            case Ended.SUSPENDED:
                return Verdict(Did.WAITING, self.run["due_at"])
            case Ended.STOPPED:
                return await self._yield()
            case Ended.CONTROLLED:
                await self._reread()
                return None
            case Ended.NONDETERMINISTIC:
                return await self._stuck(Reason.NONDETERMINISTIC, outcome.detail)
            case Ended.OVER_BUDGET:
                return await self._stuck(Reason.BUDGET, outcome.detail)
            case Ended.CONTINUED:
                return await self._continued(outcome.value)
            case Ended.LOST:
                raise LeaseLost

    async def _returned(self, value: Any, context: RunContext) -> Verdict | None:
        unasked = self.journal.unasked(context.execution.abandoned)
        if unasked is not None:
            text = f"The code came to its end without the recorded step {unasked!r}."
            return await self._stuck(Reason.NONDETERMINISTIC, text)
        try:
            output = await self._steady(lambda: self._parts.values.store(self._run_id, value))
        except Unserialisable as error:
            return await self._raised(error, context)
        await self._end(Status.COMPLETED, output=output)
        return None

    async def _raised(self, error: Exception, context: RunContext) -> Verdict | None:
        kept = failure_document(error)
        if not context.undoable:
            await self._end(Status.FAILED, error=kept)
            return None
        lease, decide = self._held.lease, self._parts.transitions.decide
        if not await self._steady(lambda: decide(lease, Status.FAILED, kept)):
            raise LeaseLost
        self.run["ending"] = {"status": Status.FAILED.value, "error": kept}
        return None

    async def _continued(self, value: Any) -> Verdict | None:
        parts, run = self._parts, self.run
        try:
            form = await self._steady(lambda: parts.values.store(self._run_id, value))
        except Unserialisable as error:
            await self._end(Status.FAILED, error=failure_document(error))
            return None
        # What this epoch has consumed stays consumed; said before the epoch ends, since after it
        # nobody knows which events reached the code.
        await self._steady(lambda: parts.waits.consume(self.journal.satisfied()))
        spent = self.journal.spent
        renew = partial(parts.transitions.continue_as_new, self._held.lease, run, form, spent)
        if not await self._steady(renew):
            raise LeaseLost
        return None

    async def _end(self, status: Status, *, output: Any = None, error: Any = None) -> None:
        noted = self._noted() if hasattr(self, "journal") else {}
        end = self._parts.transitions.end
        done = await self._steady(
            lambda: end(self._held.lease, self.run, status, output=output, error=error, noted=noted)
        )
        if not done:
            raise LeaseLost

    async def _yield(self) -> Verdict | None:
        """Out of time: due at once, elsewhere."""
        parts, run = self._parts, self.run
        noted = self._noted() if hasattr(self, "journal") else {}
        fresh = self.journal.fresh if hasattr(self, "journal") else 1
        noted["idle"] = 0 if fresh else int(run["idle"]) + 1
        if noted["idle"] >= parts.config.idle_slices:
            text = f"{noted['idle']} slices in a row recorded nothing."
            return await self._block(Reason.NO_PROGRESS, text, noted=noted)
        now = parts.clock.now()
        suspend, lease = parts.transitions.suspend, self._held.lease
        verdict = await self._settled(
            lambda: suspend(lease, now, seen_signals=self._held.signals, noted=noted),
            Verdict(Did.STOPPED, now),
        )
        await parts.nudger.nudge([self._run_id])
        return verdict

    async def _stuck(self, reason: Reason, detail: str) -> Verdict | None:
        return await self._block(reason, detail, noted=self._noted())

    async def _block(
        self,
        reason: Reason,
        detail: str,
        *,
        noted: Document,
        due_at: datetime = FAR_FUTURE,
        tries: int = 0,
    ) -> Verdict | None:
        await self._pass_on()
        block = self._parts.transitions.block
        return await self._settled(
            lambda: block(
                self._held.lease,
                reason,
                detail,
                seen_signals=self._held.signals,
                noted=noted,
                due_at=due_at,
                tries=tries,
            ),
            Verdict(Did.PARKED, due_at),
        )

    async def _pass_on(self) -> None:
        # Woken for a slot and about to park: the next waiter must not sleep on because of it.
        if group := self.run.get("slot_wait"):
            await self._steady(lambda: self._parts.gates.pass_on(group, but=self._run_id))

    async def _settled(
        self, settle: Callable[[], Awaitable[Settled]], verdict: Verdict
    ) -> Verdict | None:
        match await self._steady(settle):
            case Settled.DONE:
                return verdict
            case Settled.LOST:
                raise LeaseLost
            case Settled.SIGNALLED:
                await self._reread()
                return None

    async def _suspend(self, due_at: datetime) -> Settled:
        settled = await self._parts.transitions.suspend(
            self._held.lease,
            due_at,
            seen_signals=self._held.signals,
            noted={**self._noted(), "idle": 0},
        )
        if settled is Settled.DONE:
            self.run["due_at"] = due_at
        return settled

    def _noted(self) -> Document:
        return {"spent": self.journal.spent, "records": self.journal.count}

    async def _reread(self) -> Control | None:
        """Read the run again; what its signals are now has then been acted upon."""
        mine = {"_id": self._run_id, "lease": self._held.lease.token}
        found = await self._parts.due.collection.find_one(mine)
        if found is None:
            raise LeaseLost
        self._held.signals = found["signals"]
        self.run.update(found)
        if found["control"] is None or found["ending"] is not None:
            return None
        return Control(found["control"])

    async def _report(self, progress: Document) -> None:
        await self._steady(lambda: self._parts.transitions.report(self._held.lease, progress))

    async def _steady(self, write: Callable[[], Awaitable[T]]) -> T:
        """Repeat while the store does not answer, as long as the lease lasts."""
        clock = self._parts.clock
        while True:
            try:
                return await write()
            except StoreUnavailable:
                if clock.monotonic_s() >= self._held.lease.ends_s or self._stopped:
                    raise
            await clock.sleep(_STORE_RETRY_S)

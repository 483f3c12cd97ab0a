"""Advances one run by one slice: claim, replay, go on, settle."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from lambent.due import Claimed, Settled
from lambent.engine import slice_history, under_way
from lambent.engine.context import RunContext
from lambent.engine.execution import Ended, Execution, Outcome, Settling
from lambent.engine.journal import Journal
from lambent.engine.model import ENDED, Control, Reason, Status
from lambent.engine.registry import Workflow
from lambent.engine.step import Step
from lambent.engine.tenure import Did, Parts, Tenure, Verdict
from lambent.engine.tidying import (
    cancel_earlier_children,
    expire_epoch,
    failure_document,
    tidy,
)
from lambent.engine.undo import undo_all
from lambent.errors import LeaseLost, StoreUnavailable, Unserialisable
from lambent.first_aid import explain
from lambent.metrics import Metric, note
from lambent.mongo import Document
from lambent.telemetry import logger
from lambent.tracing import resumed, span

# Rests between tries, `EARLY_FOR_S` of dispatch together and a little more.
_EARLY_S: Final = (0.004, 0.008, 0.016, 0.032)


class Slice:
    """One run in the hands of this environment, from its claim to its settle."""

    def __init__(
        self, parts: Parts, run_id: str, *, ends_s: float, taken: Claimed | None = None
    ) -> None:
        """`taken`: the claim, where the run was inserted with it."""
        self._parts = parts
        self.run_id = run_id
        self._ends_s = ends_s
        self._taken = taken
        self._execution: Execution | None = None
        self._stopped = False
        self._begun = False
        self._beginning: asyncio.Task[bool] | None = None
        # Asked here: the run goes on under the request that it came from.
        self._invocation = slice_history.this_invocation()
        self._tenure: Tenure

    def stop(self) -> None:
        """This environment is about to go: settle at once, as due."""
        self._stopped = True
        if self._execution is not None:
            self._execution.stop()

    def poke(self) -> None:
        """Something was asked of the run, or has come for it."""
        if self._execution is not None:
            self._execution.poke()

    async def advance(self, *, alone: bool, early: bool = False) -> Verdict:
        """Do what can be done. `alone`: nobody else goes down with this run if it kills us."""
        try:
            claimed = self._taken or await self._claim(_EARLY_S if early else ())
            if claimed is None:
                return Verdict(Did.NOTHING)
            if claimed.document["claims"] > 1 and not alone:
                await self._parts.due.release(claimed.lease)
                return Verdict(Did.RELEASED, claimed.document["due_at"])
        except StoreUnavailable as error:
            # A lease that this may have taken lapses.
            logger().warning("A run cannot be taken: %s", explain(error))
            return Verdict(Did.LOST)
        if claimed.document["claims"] > 2:  # two in a row died with it
            note(Metric.SLICES_WITHOUT_PROGRESS)
        self._tenure = Tenure(self._parts, claimed)
        trace = claimed.document.get("trace")
        with (
            resumed(trace, run_id=self.run_id),
            span(f"run {claimed.document['workflow']}", run_id=self.run_id),
            self._parts.keeper.keep(self._tenure.held, self._told),
        ):
            try:
                return await self._work()
            except LeaseLost:
                with suppress(StoreUnavailable):
                    await self._parts.debts.pay_after(self.run_id)
                return Verdict(Did.LOST)
            except StoreUnavailable:
                return Verdict(Did.LOST)

    async def _claim(self, rests_s: Sequence[float]) -> Claimed | None:
        """The claim, tried again after each rest: a nudge may overtake the wake that it is for."""
        due = self._parts.due
        for rest_s in rests_s:
            if (claimed := await due.claim(self.run_id)) is not None or self._stopped:
                return claimed
            await self._parts.clock.sleep(rest_s)
        return await due.claim(self.run_id)

    def _told(self, lost: bool) -> None:
        if self._execution is None:
            return
        if lost:
            self._execution.unwind(LeaseLost())
        else:
            self._execution.poke()

    async def _work(self) -> Verdict:
        tenure, debts = self._tenure, self._parts.debts
        while True:
            if tenure.run["status"] in ENDED or tenure.run["owes"]:
                if await tenure.steady(lambda: debts.pay(tenure.held.lease, tenure.run)):
                    return Verdict(Did.ENDED)
                # A command was quicker than the debts: this slice goes on with what it asked for.
                tenure.journal = None
                await tenure.steady(tenure.reread)
                continue
            if (verdict := await self._once()) is not None:
                return verdict

    async def _once(self) -> Verdict | None:
        """One pass; None: the run has changed, look at it again."""
        parts, tenure, run = self._parts, self._tenure, self._tenure.run
        tenure.leaving = self._stopped
        workflow = parts.registry.get(run["workflow"], run["version"])
        if self._stopped:
            return await tenure.give_way()
        if run.get("untaken"):
            await tenure.steady(self._take_input)
        if run["ending"] is None and run["control"] is not None:
            return await self._obey(Control(run["control"]), workflow)
        if workflow is None:
            return await self._no_code()
        if run.get("gathers") and run["due_at"] > parts.clock.now():
            # Another start joined it, and put it off, between the claim and the begin.
            return await tenure.hold(run["due_at"])
        if run["ending"] is None:
            gate = partial(parts.gates.wait_until, tenure.held.lease, run, workflow)
            held_until = await tenure.steady(gate)
            if held_until is not None:
                return await tenure.hold(held_until)
        if (verdict := await self._poison()) is not None:
            return verdict
        return await self._pass(workflow) if await self._begin() else None

    async def _take_input(self) -> None:
        """Nobody has said yet that the input's chunks are the run's: its starter died before."""
        parts, tenure = self._parts, self._tenure
        await parts.values.take(tenure.run["input"])
        # Unless another start joined it since it was read, with chunks of its own.
        seen = {"signals": tenure.run["signals"]}
        await parts.due.write(tenure.held.lease, {"$unset": {"untaken": ""}}, where=seen)
        tenure.run.pop("untaken", None)

    async def _obey(self, control: Control, workflow: Workflow | None) -> Verdict | None:
        tenure, run = self._tenure, self._tenure.run
        if control is Control.PAUSE:
            return await tenure.pause()
        if run["base_epoch"] > 0:
            await tenure.steady(
                lambda: cancel_earlier_children(self._parts.mongo, self._parts.children, run)
            )
        if run["started_at"] is None:
            await tenure.end(Status.CANCELLED)
            return None
        if workflow is None:
            # No code will come by the children; so all that the run started are cancelled here.
            await tenure.steady(partial(self._parts.children.cancel_children, self.run_id))
            if not (await self._load()).to_undo():
                await tenure.end(Status.CANCELLED)
                return None
        await self._decide(Status.CANCELLED, None)
        return None

    async def _decide(self, status: Status, error: Any) -> None:
        tenure, decide = self._tenure, self._parts.transitions.decide
        if not await tenure.steady(lambda: decide(tenure.held.lease, tenure.run, status, error)):
            raise LeaseLost

    async def _no_code(self) -> Verdict | None:
        run, transitions = self._tenure.run, self._parts.transitions
        tries = int((run["blocked"] or {}).get("tries", 0))
        detail = f"Version {run['version']} of {run['workflow']!r} is not deployed."
        if run["ending"] is not None:
            detail += " What the run did is undone once it is; cancel again to end it without."
        return await self._tenure.block(
            Reason.NO_CODE,
            detail,
            due_at=transitions.no_code_until(tries),
            tries=tries + 1,
        )

    async def _load(self) -> Journal:
        parts, tenure = self._parts, self._tenure
        journal = tenure.new_journal()
        await tenure.steady(lambda: journal.load(parts.waits))
        return journal

    async def _poison(self) -> Verdict | None:
        """Block a run that kills slice after slice without getting on."""
        tenure, run, deaths = self._tenure, self._tenure.run, self._parts.config.deaths
        if run["claims"] <= deaths:
            return None
        journal = await self._load()
        if journal.count > run["records"]:
            return None
        detail = f"{deaths} slices in a row died with it; last on record: {journal.last_key()}"
        if heard := under_way.heard(run):
            detail += f"; under way when it was last heard of: {', '.join(heard)}"
        return await tenure.block(Reason.POISON, f"{detail}.")

    async def _begin(self) -> bool:
        """Read the journal, after the run itself, and mark the run as running; False: look again.

        Side by side, unless the one depends on the other.
        """
        parts, tenure, run = self._parts, self._tenure, self._tenure.run
        self._begun = False
        if self._taken is not None:
            # Inserted as begun; nothing is on record. Not so at a second look.
            self._taken = None
            tenure.new_journal()
            return True
        begin = partial(
            parts.transitions.begin, tenure.held.lease, run, invocation=self._invocation
        )
        if run.get("untidy"):
            await tenure.steady(lambda: tidy(parts.mongo, parts.waits, parts.children, run))
        if run["started_at"] is None and run["epoch"] == 0:
            # Nothing can be on record before a run has begun.
            tenure.new_journal()
            begun = await tenure.steady(begin)
        elif run["claims"] > 1:
            journal = await self._load()
            begun = await tenure.steady(lambda: begin(records=journal.count))
        elif self._in_hand(run):
            await self._load()
            self._beginning = asyncio.create_task(_after_a_turn(lambda: tenure.steady(begin)))
            return True
        else:
            begun, _ = await asyncio.gather(tenure.steady(begin), self._load())
        if begun:
            return True
        await tenure.reread()
        return False

    def _in_hand(self, run: Document) -> bool:
        """Whether its begin says nothing that the code has to wait for: only the lease could
        keep it from being written, and that is asked for at every write anyway."""
        plain = not (run.get("untidy") or run.get("gathers"))
        return plain and run["status"] == Status.WAITING and run["started_at"] is not None

    async def _begun_for_good(self) -> None:
        """Before a settle, or it would be the begin that comes last. Raises LeaseLost."""
        beginning, self._beginning = self._beginning, None
        if beginning is not None and not await beginning:
            raise LeaseLost

    async def _suspend(self, due_at: datetime) -> Settled:
        await self._begun_for_good()
        return await self._tenure.suspend(due_at)

    async def _pass(self, workflow: Workflow) -> Verdict | None:
        """Run the code once; then, if the run is ending with something to undo, the undoing."""
        tenure = self._tenure
        unwinding = tenure.run["ending"] is not None
        context = self._context(workflow, unwinding=unwinding)
        value = await tenure.steady(lambda: self._parts.values.fetch(tenure.run["input"]))
        step = Step(context)
        outcome = await self._run(context, lambda: workflow.fn(step, value))
        if not unwinding or outcome.ended in {Ended.LOST, Ended.STOPPED}:
            return await self._after(outcome, context)
        undoing = self._context(workflow, unwinding=False)
        undone = await self._run(undoing, partial(undo_all, undoing, context.undos), path="undo")
        if undone.ended is not Ended.RETURNED:
            return await self._after(undone, undoing)
        ending = tenure.run["ending"]
        await tenure.end(Status(ending["status"]), error=undone.value or ending["error"])
        return None

    async def _run(
        self, context: RunContext, code: Callable[[], Awaitable[Any]], path: str = ""
    ) -> Outcome:
        self._execution = context.execution
        if self._stopped:
            context.execution.stop()
        try:
            outcome = await context.execution.run(code, path)
            await self._begun_for_good()
            return outcome
        finally:
            if self._beginning is not None:
                self._beginning.cancel()
                await asyncio.gather(self._beginning, return_exceptions=True)
            self._begun = context.execution.begun
            self._execution = None

    def _context(self, workflow: Workflow, *, unwinding: bool) -> RunContext:
        parts, tenure = self._parts, self._tenure
        assert tenure.journal is not None
        execution = Execution(
            journal=tenure.journal,
            held=tenure.held,
            clock=parts.clock,
            config=parts.config,
            settling=Settling(suspend=self._suspend, reread=tenure.reread),
            ends_s=self._ends_s,
            unwinding=unwinding,
            begun=self._begun,
        )
        return RunContext(
            run=tenure.run,
            workflow=workflow,
            execution=execution,
            journal=tenure.journal,
            values=parts.values,
            waits=parts.waits,
            children=parts.children,
            clock=parts.clock,
            config=parts.config,
            model=parts.model,
            events=parts.events,
            report=tenure.report,
            said=tenure.said(),
        )

    async def _after(self, outcome: Outcome, context: RunContext) -> Verdict | None:
        tenure = self._tenure
        match outcome.ended:
            case Ended.RETURNED:
                return await self._returned(outcome.value, context)
            case Ended.RAISED:
                assert outcome.error is not None
                return await self._raised(outcome.error, context)
            case Ended.SUSPENDED:
                return Verdict(Did.WAITING, tenure.run["due_at"])
            case Ended.STOPPED:
                tenure.leaving = self._stopped
                return await tenure.give_way()
            case Ended.CONTROLLED:
                await tenure.reread()
                return None
            case Ended.NONDETERMINISTIC:
                return await tenure.block(Reason.NONDETERMINISTIC, outcome.detail)
            case Ended.OVER_BUDGET:
                return await tenure.block(Reason.BUDGET, outcome.detail)
            case Ended.CONTINUED:
                return await self._continued(outcome.value)
            case Ended.LOST:
                raise LeaseLost

    async def _returned(self, value: Any, context: RunContext) -> Verdict | None:
        tenure = self._tenure
        unasked = context.journal.unasked()
        if unasked is not None:
            text = f"The code came to its end without the recorded step {unasked!r}."
            return await tenure.block(Reason.NONDETERMINISTIC, text)
        try:
            output = await tenure.steady(lambda: self._kept(value, "What the run returned"))
        except Unserialisable as error:
            return await self._raised(error, context)
        await tenure.end(Status.COMPLETED, output=output)
        return None

    async def _kept(self, value: Any, what: str) -> Any:
        return await self._parts.values.store(self.run_id, value, what=what)

    async def _raised(self, error: Exception, context: RunContext) -> Verdict | None:
        kept = failure_document(error)
        if context.undoable:
            await self._decide(Status.FAILED, kept)
        else:
            await self._tenure.end(Status.FAILED, error=kept)
        return None

    async def _continued(self, value: Any) -> Verdict | None:
        parts, tenure, journal = self._parts, self._tenure, self._tenure.journal
        assert journal is not None
        try:
            form = await tenure.steady(lambda: self._kept(value, "The input of continue_as_new"))
        except Unserialisable as error:
            await tenure.end(Status.FAILED, error=failure_document(error))
            return None
        # What this epoch has consumed stays consumed; said before the epoch ends, since after it
        # nobody knows which events reached the code.
        await tenure.steady(lambda: parts.waits.consume(journal.satisfied()))
        renew = partial(parts.transitions.continue_as_new, tenure.held.lease, tenure.run, form)
        if not await tenure.steady(lambda: renew(journal.spent)):
            raise LeaseLost
        gone_at = parts.clock.now() + timedelta(seconds=parts.config.leftovers_s)
        ended = tenure.run["epoch"] - 1
        await tenure.steady(lambda: expire_epoch(parts.mongo, tenure.run, ended, gone_at))
        return None


async def _after_a_turn(call: Callable[[], Awaitable[bool]]) -> bool:
    """The call, once what comes next has had its first turn."""
    await asyncio.sleep(0)
    return await call()

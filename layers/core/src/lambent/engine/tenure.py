"""Holds a claimed run: every settle that its slice may make, and what comes before each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any, Final, TypeVar

from lambent.clock import FAR_FUTURE, Clock
from lambent.due import Claimed, Database, DueDocuments, Settled
from lambent.engine import under_way
from lambent.engine.config import EngineConfig, EventPort, ModelPort, Nudger
from lambent.engine.context import Children
from lambent.engine.debts import Debts
from lambent.engine.flow import Gates
from lambent.engine.journal import Journal
from lambent.engine.model import CHUNKS, OPEN_WAITS, STEPS, Control, Reason, SliceEnd, Status
from lambent.engine.registry import Registry
from lambent.engine.run_log import Said
from lambent.engine.slice_history import ended
from lambent.engine.transitions import Noted, Transitions
from lambent.engine.values import Values
from lambent.errors import LeaseLost, StoreUnavailable
from lambent.leases import Held, Keeper
from lambent.metrics import Metric, note
from lambent.mongo import Document
from lambent.waits import WAITS, Waits

T = TypeVar("T")

_STORE_RETRY_S: Final = 0.25
_ENDS: Final = {
    Status.COMPLETED: Metric.RUNS_COMPLETED,
    Status.FAILED: Metric.RUNS_FAILED,
    Status.CANCELLED: Metric.RUNS_CANCELLED,
}


class Did(StrEnum):
    """What became of a run in a slice."""

    NOTHING = "nothing"  # it was not due, or someone else had it
    ENDED = "ended"
    WAITING = "waiting"
    STOPPED = "stopped"  # out of time: due at once, and nudged
    PARKED = "parked"
    RELEASED = "released"  # its last owner died: it must go alone
    LOST = "lost"
    BROKEN = "broken"  # its slice raised an error of ours: its lease lapses


@dataclass(frozen=True, slots=True)
class Verdict:
    """`due_at`: when the run wants its next slice, as far as this one knows; `error`: what broke
    this one."""

    did: Did
    due_at: datetime = FAR_FUTURE
    error: Exception | None = None


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


class Tenure:
    """One run under the lease of this environment. `run` is as it was read last."""

    def __init__(self, parts: Parts, claimed: Claimed) -> None:
        self.parts = parts
        self.run: Document = claimed.document
        self.run_id: str = claimed.lease.id
        self.held = Held(claimed.lease, claimed.document["signals"], news=self._news)
        self.journal: Journal | None = None
        self._said: Said | None = None
        self._lines: list[Document] = []
        # Whoever had the run before lost it without a settle, and may still be writing.
        self._taken_over = claimed.document["claims"] > 1
        self.leaving = False  # SIGTERM: no store call is repeated any more

    def _news(self) -> Document:
        return under_way.news(self.journal, self.held.lease.token)

    async def hold(self, until: datetime) -> Verdict | None:
        """Give it back unbegun until then."""
        hold = self.parts.transitions.hold
        return await self.settled(
            lambda: hold(self.held.lease, until, seen_signals=self.held.signals, set={}),
            Verdict(Did.WAITING, until),
        )

    async def end(self, status: Status, *, output: Any = None, error: Any = None) -> None:
        """End the run; its debts are paid next. Raises LeaseLost."""
        left = self.journal.left() if self.journal is not None else []
        if self.parts.values.given_to(self.run_id):
            left.append(CHUNKS)
        if self._taken_over:
            left = [STEPS, WAITS, CHUNKS, OPEN_WAITS]
        end = partial(self.parts.transitions.end, self.held.lease, self.run, status)
        noted = self.noted(SliceEnd.ENDED, over=True)
        done = await self.steady(lambda: end(output=output, error=error, noted=noted, left=left))
        if not done:
            raise LeaseLost
        note(_ENDS[status])

    async def give_way(self) -> Verdict | None:
        """Out of time: due at once, elsewhere."""
        parts, run = self.parts, self.run
        got_on = self.journal is None or self.journal.fresh > 0
        idle = 0 if got_on else int(run["idle"]) + 1
        if idle > 1:  # one alone is a deploy, or a short rest of time
            note(Metric.SLICES_WITHOUT_PROGRESS)
        if idle >= parts.config.idle_slices:
            text = f"{idle} slices in a row recorded nothing."
            return await self.block(Reason.NO_PROGRESS, text)
        noted = self.noted(SliceEnd.TERMINATED if self.leaving else SliceEnd.OUT_OF_TIME, idle=idle)
        now = parts.clock.now()
        suspend, lease = parts.transitions.suspend, self.held.lease
        verdict = await self.settled(
            lambda: suspend(lease, now, seen_signals=self.held.signals, noted=noted),
            Verdict(Did.STOPPED, now),
        )
        await parts.nudger.nudge([self.run_id])
        return verdict

    async def block(
        self,
        reason: Reason,
        detail: str,
        *,
        due_at: datetime = FAR_FUTURE,
        tries: int = 0,
    ) -> Verdict | None:
        """Park the run until someone does something about it."""
        await self.pass_on()
        block, noted = self.parts.transitions.block, self.noted(SliceEnd.BLOCKED)
        verdict = await self.settled(
            lambda: block(
                self.held.lease,
                reason,
                detail,
                seen_signals=self.held.signals,
                noted=noted,
                due_at=due_at,
                tries=tries,
            ),
            Verdict(Did.PARKED, due_at),
        )
        if verdict is not None and tries <= 1:  # later tries find it blocked already
            note(Metric.RUNS_BLOCKED)
        return verdict

    async def pause(self) -> Verdict | None:
        """Obey a pause."""
        await self.pass_on()
        pause, noted = self.parts.transitions.pause, self.noted(SliceEnd.PAUSED)
        return await self.settled(
            lambda: pause(self.held.lease, seen_signals=self.held.signals, noted=noted),
            Verdict(Did.PARKED),
        )

    async def pass_on(self) -> None:
        # Woken for a slot and about to park: the next waiter must not sleep on because of it.
        if self.run.get("slot_wait"):
            await self.steady(lambda: self.parts.gates.pass_on(self.run))

    async def settled(
        self, settle: Callable[[], Awaitable[Settled]], verdict: Verdict
    ) -> Verdict | None:
        """The verdict, or None where the run was signalled meanwhile. Raises LeaseLost."""
        match await self.steady(settle):
            case Settled.DONE:
                return verdict
            case Settled.LOST:
                raise LeaseLost
            case Settled.SIGNALLED:
                self._give_back()
                await self.reread()
                return None

    async def suspend(self, due_at: datetime) -> Settled:
        """Let the run wait; for the pass that finds that nothing in it can go on."""
        settled = Settled.SIGNALLED
        try:
            settled = await self.parts.transitions.suspend(
                self.held.lease,
                due_at,
                seen_signals=self.held.signals,
                noted=self.noted(SliceEnd.SUSPENDED, idle=0),
            )
        finally:
            if settled is Settled.SIGNALLED:
                self._give_back()
        if settled is Settled.DONE:
            self.run["due_at"] = due_at
        return settled

    def noted(self, end: SliceEnd, *, over: bool = False, **fields: Any) -> Noted:
        """What a settle writes down of the journal, and of this slice. `over`: nothing is run
        after it."""
        run, token = self.run, self.held.lease.token
        slices = ended(run, token=token, now=self.parts.clock.now(), end=end)
        lines: Sequence[Document] = ()
        if slices:
            fields["slice"] = None
        # A renewal may have said something that this slice has not read.
        fields["under_way"] = None
        if (journal := self.journal) is not None:
            fields |= {"spent": journal.spent, "records": journal.count}
            # No record follows these lines yet; with the marks that say so, they are kept here.
            lines = self._lines = journal.lines.take()
            if journal.lines.said:
                fields["lines"] = journal.lines.said
            said = [] if over else self.said().document()
            if said or run.get("said"):
                fields["said"] = said
            rests = journal.rests() if end is SliceEnd.SUSPENDED else None
            if rests or run.get("rests"):
                fields["rests"] = rests
        return Noted(fields, slices, lines)

    def _give_back(self) -> None:
        """The settle was not made: its lines go with what comes next."""
        if self.journal is not None:
            self.journal.lines.give_back(self._lines)
        self._lines = []

    def new_journal(self) -> Journal:
        """An empty journal; what was said in an earlier pass of this slice waits in it."""
        before, self.journal = self.journal, Journal(self.parts.mongo, self.run)
        if before is not None:
            self.journal.lines = before.lines
        return self.journal

    def said(self) -> Said:
        """The lines that were logged in this epoch, so far as that has to be known."""
        if self._said is None or self._said.epoch != self.run["epoch"]:
            self._said = Said(self.run.get("said"), epoch=self.run["epoch"])
        return self._said

    async def reread(self) -> Control | None:
        """Read the run again; what its signals are now has then been acted upon."""
        found = await self.parts.due.own(self.held.lease)
        if found is None:
            raise LeaseLost
        self.held.signals = found["signals"]
        self.run.clear()  # also of what is gone from it, such as a slot
        self.run.update(found)
        if found["control"] is None or found["ending"] is not None:
            return None
        return Control(found["control"])

    async def report(self, progress: Document) -> bool:
        """Show how far the run is; False: the lease is lost."""
        done = await self.parts.transitions.report(self.held.lease, progress)
        if done:
            self.run["progress"] = progress
        return done

    async def steady(self, write: Callable[[], Awaitable[T]]) -> T:
        """Repeat while the store does not answer, as long as the lease lasts."""
        clock = self.parts.clock
        while True:
            try:
                return await write()
            except StoreUnavailable:
                if clock.monotonic_s() >= self.held.lease.ends_s or self.leaving:
                    raise
            await clock.sleep(_STORE_RETRY_S)

"""Bundles what the steps of one pass stand on, and how a step is entered and left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Protocol

from lambent.clock import Clock
from lambent.codec import decode
from lambent.engine.branch import CURRENT, Branch
from lambent.engine.config import EngineConfig, EventPort, ModelPort
from lambent.engine.execution import Execution
from lambent.engine.journal import Journal
from lambent.engine.model import FINAL, ErrorRecord, Kind, StepStatus
from lambent.engine.registry import Workflow
from lambent.engine.run_log import Said
from lambent.engine.values import Values, at_hand
from lambent.errors import (
    CallbackFailed,
    Cancelled,
    ChildFailed,
    Interrupted,
    LeaseLost,
    NonDeterministic,
    StepFailed,
    StepTimedOut,
    WaitTimedOut,
)
from lambent.mongo import Document
from lambent.waits import Waits


class Children(Protocol):
    """How a run starts, finds and stops other runs."""

    async def start_child(self, spec: ChildSpec) -> Document: ...

    async def bury_child(self, spec: ChildSpec) -> Document: ...

    async def read(self, run_id: str) -> Document | None: ...

    async def retry_child(self, run_id: str, *, parent: str, epoch: int) -> None: ...

    async def cancel_children(self, parent: str) -> None: ...

    async def cancel_child(self, run_id: str, *, parent: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """A child run that a step asks for."""

    parent: Document
    key: str
    workflow: str
    input: Any
    version: int | None
    priority: int | None
    budget: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Undo:
    """A step that happened and knows how to be undone."""

    order: int
    key: str
    fn: Callable[..., Any]
    output: Any
    redact: bool = False


class Entered:
    """A step that goes on in its branch, from `RunContext.step` to the end of the `with`.

    A class of its own: a context manager made of a generator costs a replayed step a third more.
    """

    __slots__ = ("_branch", "_key", "_record")

    def __init__(self, branch: Branch, key: str, record: Document | None) -> None:
        self._branch = branch
        self._key = key
        self._record = record

    def __enter__(self) -> tuple[str, Document | None]:
        return self._key, self._record

    def __exit__(self, *_: object) -> None:
        self._branch.leave()


@dataclass(slots=True, kw_only=True)
class RunContext:
    """Everything a step needs; one for each pass."""

    run: Document
    workflow: Workflow
    execution: Execution
    journal: Journal
    values: Values
    waits: Waits
    children: Children
    clock: Clock
    config: EngineConfig
    model: ModelPort | None
    events: EventPort | None
    report: Callable[[Any], Awaitable[bool]]
    said: Said
    undos: list[Undo] = field(default_factory=list)
    # One report after the other, also from branches: told in the order of their records.
    telling: asyncio.Lock = field(default_factory=asyncio.Lock)
    undoable: bool = False  # whether a step with an undo was reached

    @property
    def replaying(self) -> bool:
        """Whether the code that asks does what an earlier slice has done already."""
        return self.execution.unwinding or self.journal.replaying(CURRENT.get().path)

    def step(self, name: str, kind: Kind, *, recorded: bool = True) -> Entered:
        """Enter a step: its key, and what is on record under it; `recorded`: whether it ever is."""
        branch = CURRENT.get()
        key = branch.enter(name)
        try:
            self.execution.check()
            return Entered(branch, key, self.ask(key, kind) if recorded else None)
        except BaseException:
            branch.leave()
            raise

    def ask(self, key: str, kind: Kind) -> Document | None:
        """What is on record under the key; another kind of step unwinds the whole run."""
        try:
            record = self.journal.ask(key, kind)
        except NonDeterministic as reason:
            raise self.execution.unwind(reason) from None
        if record is None:
            self._expect_new(key, kind)
        elif record["status"] == StepStatus.TOMBSTONE:
            raise self.buried()
        return record

    def _expect_new(self, key: str, kind: Kind) -> None:
        """Before the step's body runs: unwinds where the code has left what is on record."""
        if self.execution.unwinding or kind in {Kind.UNDO, Kind.GATHER}:
            # An undoing may find one step fewer or more; a gather is recorded after its branches.
            return
        passed = self.journal.passed_over(CURRENT.get().path)
        if passed is not None:
            raise self.execution.unwind(
                NonDeterministic(
                    f"The code asks for step {key!r}, which is not on record, "
                    f"before it has asked for {passed!r}, which is."
                )
            )

    def buried(self) -> BaseException:
        """What a tombstone means: to the pass that undoes, that nothing happened here; to any
        other, that its run has gone on without it."""
        return Cancelled() if self.execution.unwinding else self.execution.unwind(LeaseLost())

    async def record(
        self,
        key: str,
        kind: Kind,
        status: StepStatus,
        order: int,
        *,
        tried: Document | None = None,
        **fields: Any,
    ) -> Document:
        """Insert the step's record, or take the winner's."""
        self.check_lease()
        write = partial(self.journal.insert, key, kind, status, order, fields, tried=tried)
        record = await self.execution.persist(write)
        self.said.recorded(CURRENT.get().path)
        return self._accept(record, kind)

    async def advance(
        self, record: Document, *, tried: Document | None = None, **changes: Any
    ) -> Document:
        """Move a record on, or take the winner's."""
        self.check_lease()
        write = partial(self.journal.advance, record, changes, tried=tried)
        found = await self.execution.persist(write)
        return self._accept(found, Kind(record["kind"]))

    def check_lease(self) -> None:
        """Raises LeaseLost past the end of the lease: a late record is not wrong, but useless."""
        if self.clock.monotonic_s() >= self.execution.lease_ends_s:
            raise self.execution.unwind(LeaseLost())

    def _accept(self, record: Document, kind: Kind) -> Document:
        if record["kind"] != kind:
            raise self.execution.unwind(
                NonDeterministic(
                    f"Step {record['key']!r} was recorded as {record['kind']!r} meanwhile; "
                    f"this code asks for {kind.value!r}."
                )
            )
        if record["status"] == StepStatus.TOMBSTONE:
            raise self.buried()
        return record

    async def tell(self, record: Document) -> None:
        """Show a recorded progress on the run, unless that or a later one is shown already."""
        place, shown = (record["epoch"], record["order"]), self.run["progress"]
        if shown is not None and place <= (shown.get("epoch", -1), shown["order"]):
            return
        at = await self.recorded_at(record)
        told = {"value": record["output"], "order": record["order"], "at": at}
        told["epoch"] = record["epoch"]
        if not await self.execution.persist(lambda: self.report(told)):
            raise self.execution.unwind(LeaseLost())

    async def recorded_at(self, record: Document) -> datetime:
        """When the step was done: asked of the store where its journal did not bring it along."""
        for name in ("at", "finished_at"):
            if name in record:
                at: datetime = record[name]
                return at
        return await self.execution.persist(lambda: self.journal.finished_at(record))

    async def bury(self, key: str, kind: Kind, record: Document | None) -> Document:
        """While unwinding: make sure that nothing is recorded under the key any more.

        Returns what was recorded before the tombstone came; raises Cancelled if nothing was.
        A late owner loses against the tombstone, so what is not undone did not count as done.
        """
        if record is not None and record["status"] in FINAL:
            return record
        if record is None:
            order = self.journal.next_order()
            found = await self.record(key, kind, StepStatus.TOMBSTONE, order)
        else:
            found = await self.advance(record, status=StepStatus.TOMBSTONE.value)
        if found["status"] not in FINAL:
            # It moved on between the two, say to another attempt: try again on what it is now.
            return await self.bury(key, kind, found)
        return found

    async def outcome(self, record: Document) -> Any:
        """The value of a final record, or its error raised."""
        if record["status"] == StepStatus.FAILED:
            raise failure_of(record)
        form = record.get("output")
        if at_hand(form):
            return decode(form)
        return await self.execution.persist(lambda: self.values.fetch(form))


_CLASSES: dict[str, type[StepFailed]] = {
    one.code: one
    for one in (StepTimedOut, Interrupted, WaitTimedOut, CallbackFailed, ChildFailed, StepFailed)
}


def error_document(error: StepFailed) -> Document:
    """How the failure of a step is kept."""
    fields = {"code": error.code, "attempts": error.attempts}
    return ErrorRecord(error.type, error.detail, error.step, fields).document()


def failure_of(record: Document) -> StepFailed:
    """The error that a failed record stands for: the same at the first run and at each replay."""
    kept = record["error"]
    fields = kept.get("fields") or {}
    error_class = _CLASSES.get(fields.get("code", ""), StepFailed)
    return error_class(
        kept["message"],
        step=kept.get("step") or record["key"],
        type=kept["type"],
        attempts=int(fields.get("attempts", 1)),
    )

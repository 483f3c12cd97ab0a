"""Starts child runs and takes their outcome into the journal of the run that asked."""

from __future__ import annotations

from collections.abc import Generator
from datetime import timedelta
from typing import Any, Final

from lambent.engine.context import ChildSpec, RunContext, error_document, failure_of
from lambent.engine.documents import is_child
from lambent.engine.model import ENDED, Kind, Status, StepStatus
from lambent.errors import Cancelled, ChildFailed, StepFailed, Unprocessable
from lambent.mongo import Document

# A run that was there before (a singleton, a debounced one) does not owe us a wake.
_FOREIGN_LOOK_S: Final = 15.0


class Child:
    """A run that this run started. Await it, or `result()`, for its output.

    Raises `ChildFailed`, whose `type` says how it ended.
    """

    def __init__(self, context: RunContext, run_id: str, key: str) -> None:
        self._context = context
        self._key = key
        self.run_id = run_id

    def __await__(self) -> Generator[Any, None, Any]:
        return self.result().__await__()

    async def result(self) -> Any:
        context = self._context
        with context.step(f"result of {self._key}", Kind.RESULT) as (key, known):
            record = known
            if record is None and context.execution.unwinding:
                raise Cancelled
            while record is None:
                record = await self._ended(key)
            return await context.outcome(record)

    async def _ended(self, key: str) -> Document | None:
        """The record of its end, if it has ended; else waits for a sign of it."""
        context = self._context
        run = await context.execution.persist(lambda: context.children.read(self.run_id))
        if run is not None and self._to_be_retried(run):
            run = await self._retried(run["epoch"])
        if run is None or run["status"] in ENDED:
            return await self._record(key, run)

        async def ended() -> bool:
            found = await context.children.read(self.run_id)
            return found is None or found["status"] in ENDED

        ours = is_child(run, context.run["_id"])
        look_at = None if ours else context.clock.now() + timedelta(seconds=_FOREIGN_LOOK_S)
        await context.execution.park(look_at, ended)
        return None

    async def _retried(self, epoch: int) -> Document | None:
        """The child, taken on after its end in this epoch, unless it is being deleted."""
        context, retry = self._context, self._context.children.retry_child
        context.check_lease()
        parent = context.run["_id"]
        await context.execution.persist(lambda: retry(self.run_id, parent=parent, epoch=epoch))
        return await context.execution.persist(lambda: context.children.read(self.run_id))

    def _to_be_retried(self, run: Document) -> bool:
        """Whether this end of the child is the one for whose sake our run was retried."""
        again = self._context.run.get("again")
        if again is None or again["run"] != self.run_id or run["epoch"] > again["epoch"]:
            return False
        return run["status"] in ENDED and run["status"] != Status.COMPLETED

    async def _record(self, key: str, run: Document | None) -> Document:
        context, order = self._context, self._context.journal.next_order()
        ended: Document = {"finished_at": context.clock.now(), "child": self.run_id}
        if run is not None and is_child(run, context.run["_id"]):
            # A child that was retried has spent more since; the rest was counted then.
            ended["spent"] = run["spent"] - context.journal.spent_by[self.run_id]
        if run is not None and run["status"] == Status.COMPLETED:
            # Copied, chunks and all: the child may be forgotten before this run is.
            value = await context.execution.persist(lambda: context.values.fetch(run["output"]))
            output = await context.execution.persist(
                lambda: context.values.store(
                    context.run["_id"], value, what=f"The output of the child {key!r}"
                )
            )
            done = StepStatus.COMPLETED
            return await context.record(key, Kind.RESULT, done, order, output=output, **ended)
        status = run["status"] if run is not None else "deleted"
        message = ((run or {}).get("error") or {}).get("message", "")
        text = f"The child run {self.run_id} was {status}. {message}".strip()
        error = ChildFailed(text, step=key, type=status)
        kept = error_document(error)
        return await context.record(key, Kind.RESULT, StepStatus.FAILED, order, error=kept, **ended)


async def start_child(
    context: RunContext,
    name: str,
    workflow: str,
    input: Any,
    *,
    version: int | None,
    priority: int | None,
    budget: int | None,
) -> Child:
    """The child under this step; its key names this place in this run, so that it starts once."""
    with context.step(name, Kind.CHILD) as (key, known):
        record = known
        if record is None:
            spec = ChildSpec(
                parent=context.run,
                key=key,
                workflow=workflow,
                input=input,
                version=version,
                priority=priority,
                budget=_allowed(context, budget),
            )
            if context.execution.unwinding:
                await _bury(context, spec)
            context.check_lease()
            told: Document
            try:
                run = await context.execution.persist(lambda: context.children.start_child(spec))
            except Unprocessable as error:
                # On record, too: the code may go on without the child, and a later deploy may
                # take what this one refuses.
                text = f"The child {key!r}: {_told(error)}"
                refused = StepFailed(text, step=key, type=type(error).__name__)
                status, told = StepStatus.FAILED, {"error": error_document(refused)}
            else:
                status, told = StepStatus.COMPLETED, {"child": run["_id"]}
            told["finished_at"] = context.clock.now()
            order = context.journal.next_order()
            record = await context.record(key, Kind.CHILD, status, order, **told)
        if record["status"] == StepStatus.FAILED:
            failure = failure_of(record)
            raise Unprocessable(failure.detail) from failure
        if context.execution.unwinding:
            await _cancel(context, record["child"])
        return Child(context, record["child"], key)


def _allowed(context: RunContext, budget: int | None) -> int | None:
    """A child may spend what it is given, and no more than its parent has left."""
    own: int | None = context.run["budget"]
    if own is None:
        return budget
    left = max(own - context.journal.spent, 0)
    return left if budget is None else min(budget, left)


def _told(error: Unprocessable) -> str:
    named = (f"{one['field']}: {one['message']}." for one in error.fields.get("errors", ()))
    return " ".join([error.detail, *named])


async def _bury(context: RunContext, spec: ChildSpec) -> None:
    """Make sure that no late owner of this run starts the child after all."""
    run = await context.execution.persist(lambda: context.children.bury_child(spec))
    await _cancel(context, run["_id"])
    raise Cancelled


async def _cancel(context: RunContext, run_id: str) -> None:
    if (context.run["ending"] or {}).get("status") == Status.CANCELLED:
        cancel, parent = context.children.cancel_child, context.run["_id"]
        await context.execution.persist(lambda: cancel(run_id, parent=parent))

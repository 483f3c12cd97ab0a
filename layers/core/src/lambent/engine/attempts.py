"""Runs one step to its checkpoint: attempts, rests between them, and the mark of at most once."""

from __future__ import annotations

import asyncio
import inspect
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from lambent.codec import encode
from lambent.engine.context import RunContext, error_document, failure_of
from lambent.engine.model import FINAL, Kind, StepStatus
from lambent.engine.options import Retry
from lambent.engine.tracebacks import traceback_of
from lambent.errors import (
    BreakerOpen,
    BudgetExceeded,
    ConcurrentSteps,
    Interrupted,
    ModelBusy,
    NonRetryable,
    NoSlot,
    RequestError,
    RetryAfter,
    StepFailed,
    StepTimedOut,
    Unserialisable,
)
from lambent.metrics import Metric, note
from lambent.mongo import Document
from lambent.telemetry import correlated
from lambent.tracing import span

# Not the step's fault, and known to pass: no attempt is spent on these.
_NOT_NOW: Final = (BreakerOpen, NoSlot, ModelBusy, BudgetExceeded)
_HIDDEN: Final = "What went wrong is redacted, as the step's output would be."
_FOR_GOOD: Final = (NonRetryable, RequestError, Unserialisable, ConcurrentSteps)


@dataclass(frozen=True, slots=True)
class Product:
    """What a step's code gave: its value, and what it spent.

    `beside` is under way already, and never fails: the step is not done before it is.
    """

    value: Any
    spent: int = 0
    beside: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One step as its author wants it run."""

    kind: Kind
    produce: Callable[[], Awaitable[Product]]
    retry: Retry
    timeout_s: float
    at_most_once: bool = False
    redact: bool = False
    undoable: bool = False


class _Try:
    """The step between its beginning and its checkpoint."""

    def __init__(self, context: RunContext, key: str, plan: Plan, record: Document | None):
        self.context = context
        self.key = key
        self.plan = plan
        self.record = record
        self.order = record["order"] if record else context.journal.next_order()
        self.attempts = int(record["attempts"]) if record else 0
        self._own_mark = secrets.token_hex(8)
        self._begun: tuple[datetime, float] | None = None  # the attempt that goes on

    async def to_the_end(self) -> Document:
        record = self.record
        if record is not None and record["status"] == StepStatus.MARKED:
            # Someone before us began it and was not heard of again.
            text = "It was begun and never heard of again."
            error = Interrupted(text, step=self.key, type="Interrupted")
            return await self._fail(error, attempts=self.attempts)
        while True:
            if self.record is not None:
                await self._rest_out(self.record)
            await self.context.execution.permit(self.plan.timeout_s)
            if self.plan.at_most_once and (winner := await self._mark()) is not None:
                return winner
            if (final := await self._attempt()) is not None:
                return final

    async def _attempt(self) -> Document | None:
        """One attempt; its final record, or None if there is to be another."""
        now, going = self.context.execution.clock.now(), self.context.journal.under_way
        # A record of an earlier epoch, which goes on in this one, stays where it is.
        epoch = self.record["epoch"] if self.record else self.context.journal.epoch
        told = {"kind": self.plan.kind.value, "epoch": epoch, "order": self.order}
        with going.attempt(self.key, **told, attempt=self.attempts + 1, at=now):
            return await self._run(now)

    async def _mark(self) -> Document | None:
        """Say that the step begins, before it does; a record that is not our mark comes back."""
        fields: Document = {"attempts": self.attempts + 1, "mark": self._own_mark}
        wanted = await self._write(StepStatus.MARKED, **fields)
        if wanted.get("mark") == self._own_mark:
            return None
        if wanted["status"] in FINAL:
            return wanted
        self.record, self.attempts = wanted, int(wanted["attempts"])
        return await self.to_the_end()

    async def _run(self, began_at: datetime) -> Document | None:
        execution, plan = self.context.execution, self.plan
        began_s = execution.clock.monotonic_s()
        self._begun = began_at, began_s
        try:
            with correlated(step=self.key), span(f"step {self.key}", attempt=self.attempts + 1):
                product = await execution.body(plan.produce(), plan.timeout_s)
        except Exception as error:
            return await self._failed(error)
        note(Metric.STEP_TIME, (execution.clock.monotonic_s() - began_s) * 1000)
        try:
            return await self._keep(product)
        finally:
            if product.beside is not None:
                await asyncio.wait({product.beside})

    async def _keep(self, product: Product) -> Document | None:
        """Record what the attempt gave; a value that cannot be kept fails it."""
        try:
            encoded = encode(product.value)
            values, run_id = self.context.values, self.context.run["_id"]
            output = await self.context.execution.persist(lambda: values.place(run_id, encoded))
        except Exception as error:
            return await self._failed(error)
        extra: Document = {"undo": True} if self.plan.undoable else {}
        if product.spent:
            extra["spent"] = product.spent
        tried = self._tried() if self.attempts else None  # alone, it is the step
        return await self._write(
            StepStatus.COMPLETED, tried, output=output, attempts=self.attempts + 1, **extra
        )

    async def _failed(self, error: Exception) -> Document | None:
        self.context.execution.check()
        if isinstance(error, _NOT_NOW):
            return await self._rest(error, error.retry_after_s, self.attempts)
        attempts = self.attempts + 1
        if isinstance(error, _FOR_GOOD) or attempts >= self.plan.retry.attempts:
            final = _final(error, self.key)
            if self._hides(error):
                final = StepFailed(_HIDDEN, type=type(error).__name__)
            return await self._fail(final, attempts=attempts, raised=error)
        rest_s = self.plan.retry.delay_s(attempts)
        if isinstance(error, RetryAfter):
            rest_s = max(0.0, error.seconds)
        return await self._rest(error, rest_s, attempts)

    async def _rest(self, error: Exception, rest_s: float, attempts: int) -> Document | None:
        note(Metric.STEP_RETRIES)
        kept = self._kept(error)
        # On record before the rest: a crash must not give the step its attempts back.
        record = await self._write(
            StepStatus.RETRYING,
            self._tried(error) if attempts > self.attempts else None,
            attempts=attempts,
            retry_at=self.context.clock.now() + timedelta(seconds=rest_s),
            error=kept,
        )
        if record["status"] in FINAL:
            return record
        self.record, self.attempts = record, int(record["attempts"])
        if record["status"] == StepStatus.MARKED and record.get("mark") != self._own_mark:
            return await self.to_the_end()
        return None

    async def _rest_out(self, record: Document) -> None:
        resting = self.context.journal.resting
        resting[self.key] = record
        try:
            await self.context.execution.park(record["retry_at"])
        finally:
            resting.pop(self.key, None)

    def _hides(self, error: Exception) -> bool:
        """Whether the words of the error may hold what its redacted step would have given."""
        return self.plan.redact and not isinstance(error, (*_NOT_NOW, StepTimedOut))

    def _kept(self, error: Exception) -> Document:
        words = _HIDDEN if self._hides(error) else str(error)[:2000]
        return {"type": type(error).__name__, "message": words}

    def _tried(self, error: Exception | None = None) -> Document:
        """The attempt that ended just now, for people who look."""
        assert self._begun is not None
        began_at, began_s = self._begun
        took_s = self.context.execution.clock.monotonic_s() - began_s
        tried: Document = {"at": began_at, "took_s": round(took_s, 6)}
        if error is not None:
            trace = traceback_of(error, words=not self._hides(error))
            tried["error"] = {**self._kept(error), "traceback": trace}
        return tried

    async def _fail(
        self, error: StepFailed, *, attempts: int, raised: Exception | None = None
    ) -> Document:
        error.step, error.attempts = self.key, attempts
        fields: Document = {"error": error_document(error)}
        tried = None
        if raised is not None:
            # Beside the error, not in it: a replay reads the one without the other.
            fields["traceback"] = traceback_of(raised, words=not self._hides(raised))
            tried = self._tried(raised) if attempts > 1 else None
        return await self._write(StepStatus.FAILED, tried, attempts=attempts, **fields)

    async def _write(
        self, status: StepStatus, tried: Document | None = None, **fields: Any
    ) -> Document:
        """The record, moved on to `status`; or what another owner made of it."""
        context, now = self.context, self.context.clock.now()
        if self.record is None:
            fields["started_at"] = self._begun[0] if self._begun else now
        fields["finished_at"] = now if status in FINAL else None
        if self.plan.redact:
            fields["redact"] = True
        while True:
            if self.record is None:
                found = await context.record(
                    self.key, self.plan.kind, status, self.order, tried=tried, **fields
                )
            else:
                found = await context.advance(
                    self.record, tried=tried, status=status.value, **fields
                )
            if found["status"] in FINAL:
                return found
            self.record = found
            if status not in FINAL:
                return found
            # Another owner moved it on, but came to no end: what ended here still counts.


async def attempted(context: RunContext, key: str, plan: Plan, record: Document | None) -> Document:
    """The final record of the step: at once if it is there, else after running it."""
    if record is not None and record["status"] in FINAL:
        return record
    if context.execution.unwinding:
        return await context.bury(key, plan.kind, record)
    return await _Try(context, key, plan, record).to_the_end()


async def call(fn: Callable[..., Any], *args: Any) -> Any:
    """Call an author's function: one that is no coroutine function in a thread, so that it holds
    up nobody else and can be timed out; what it gives may then be awaited here."""
    if is_coroutine_function(fn):
        return await fn(*args)
    result = await asyncio.to_thread(fn, *args)
    return await result if inspect.isawaitable(result) else result


def is_coroutine_function(fn: Callable[..., Any]) -> bool:
    """Whether calling it runs nothing yet: a method, a partial or an object may be one too."""
    if inspect.iscoroutinefunction(fn):
        return True
    return inspect.iscoroutinefunction(getattr(type(fn), "__call__", None))  # noqa: B004


def _final(error: Exception, key: str) -> StepFailed:
    if isinstance(error, StepFailed):
        return failure_of({"error": error_document(error), "key": error.step})
    message = str(error) or type(error).__name__
    if isinstance(error, Unserialisable):
        message = f"The result of step {key!r} cannot be kept: {message}"
    return StepFailed(message, type=type(error).__name__)

"""Runs branches side by side, each with step keys of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from lambent.engine.branch import CURRENT, Branch
from lambent.engine.context import RunContext, error_document
from lambent.engine.model import Kind, StepStatus
from lambent.errors import Abandoned, NonDeterministic, StepFailed, Unwind

Start = Callable[[], Awaitable[Any]]


async def side_by_side(
    context: RunContext,
    name: str,
    starts: Sequence[Start],
    *,
    limit: int | None = None,
    return_exceptions: bool = False,
) -> list[Any]:
    """What the branches return, in order; the first failure gives the others up and is raised.

    Which branch failed first is put on record before anybody is told: a replay must not let
    chance decide it again, nor begin work in branches that were given up.
    """
    with context.step(name, Kind.GATHER) as (key, record):
        if not starts:
            return []
        group = _Group(context, key, len(starts), return_exceptions)
        if record is not None:
            group.failed = int(record["branch"])
            group.give_up_others()
        return await group.run(starts, limit or len(starts))


class _Group:
    def __init__(self, context: RunContext, key: str, count: int, keep_errors: bool) -> None:
        self._context = context
        self._key = key
        self._keep_errors = keep_errors
        self._parent = CURRENT.get()
        self._branches = [Branch(f"{key}[{i}]", self._parent) for i in range(count)]
        self._results: list[Any] = [None] * count
        self._open = count
        self._reason: Unwind | None = None
        self.failed: int | None = None
        self._error: Exception | None = None

    async def run(self, starts: Sequence[Start], limit: int) -> list[Any]:
        execution = self._context.execution
        queue = iter(enumerate(starts))
        workers = min(limit, len(starts))

        async def work() -> None:
            for index, start in queue:
                CURRENT.set(self._branches[index])
                await self._one(index, start)
            self._open_workers -= 1
            execution.close_branch(last=self._open_workers == 0)

        self._open_workers = workers
        execution.open_branches(workers)
        tasks = [asyncio.create_task(work()) for _ in range(workers)]
        try:
            await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        return self._outcome()

    async def _one(self, index: int, start: Start) -> None:
        try:
            self._results[index] = await start()
        except Abandoned:
            pass
        except Unwind as reason:
            self._reason = reason
        except Exception as error:
            if self._keep_errors:
                self._results[index] = error
            else:
                await self._fail(index, error)

    async def _fail(self, index: int, error: Exception) -> None:
        if self.failed is None:
            try:
                self.failed = await self._record(index, error)
            except Unwind as reason:
                self._reason = reason
                return
            self.give_up_others()
        if self.failed == index:
            self._error = error

    async def _record(self, index: int, error: Exception) -> int:
        context = self._context
        if context.execution.unwinding:
            return index
        kept = error if isinstance(error, StepFailed) else StepFailed(str(error))
        record = await context.record(
            self._key,
            Kind.GATHER,
            StepStatus.COMPLETED,
            context.journal.next_order(),
            branch=index,
            error=error_document(kept),
            finished_at=context.clock.now(),
        )
        return int(record["branch"])

    def give_up_others(self) -> None:
        others = [branch for i, branch in enumerate(self._branches) if i != self.failed]
        self._context.execution.abandon(others)

    def _outcome(self) -> list[Any]:
        if self._reason is not None:
            raise self._reason
        if self._parent.given_up():
            raise Abandoned
        if self._error is not None:
            raise self._error
        if self.failed is not None:
            raise self._context.execution.unwind(
                NonDeterministic(
                    f"Branch {self.failed} of {self._key!r} failed when it was recorded, "
                    "and does not fail now."
                )
            )
        return self._results

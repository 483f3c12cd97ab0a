"""The author's API: what a workflow function gets as `step`.

Every call stands for one durable step. Names need not be unique: the second `fetch` of a branch is
`fetch#2`. Steps side by side only inside `gather` and `map`. See `lambent.engine` for what may
run twice and what never does.
"""

from __future__ import annotations

import hashlib
import inspect
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from lambent import structured
from lambent.clock import whole_milliseconds
from lambent.engine import branches, waiting
from lambent.engine.attempts import Plan, Product, attempted, call
from lambent.engine.branch import CURRENT
from lambent.engine.children import Child, start_child
from lambent.engine.config import Listener
from lambent.engine.context import RunContext, Undo
from lambent.engine.model import FINAL, Kind, Level, StepStatus
from lambent.engine.options import NO_RETRY, Retry
from lambent.engine.run_log import ReplayAwareLog
from lambent.engine.waiting import Callback, Duration, Event, seconds
from lambent.errors import (
    Cancelled,
    ConfigError,
    ContinuedAsNew,
    NonRetryable,
    OverBudget,
    WorkflowError,
)
from lambent.waits import RESERVED, is_reserved

if TYPE_CHECKING:
    from pydantic import BaseModel

T = TypeVar("T")


class Step:
    """The durable steps of one run."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self.log = ReplayAwareLog(context)

    @property
    def run_id(self) -> str:
        return str(self._context.run["_id"])

    @property
    def client(self) -> str:
        """Whose run this is."""
        return str(self._context.run["client"])

    @property
    def attempt_of_run(self) -> int:
        """How often the run was retried, restarted or continued as new."""
        return int(self._context.run["epoch"])

    async def do(
        self,
        name: str,
        fn: Callable[..., Any],
        *args: Any,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        undo: Callable[[Any], Any] | None = None,
        at_most_once: bool = False,
        redact: bool = False,
    ) -> Any:
        """What `fn(*args)` returns; run once for each recorded checkpoint.

        A crash between its effect and the checkpoint runs it again, unless `at_most_once`: then
        the step fails with `Interrupted`. `undo(result)` runs, last step first, if the run fails
        or is cancelled later. `redact`: the output is kept, but shown to nobody.
        Raises `StepFailed` once the retries are used up.
        """
        if not callable(fn):
            raise WorkflowError(
                f"step.do({name!r}) needs a function and its arguments, not what a call of it gave."
            )
        if undo is not None:
            self._context.undoable = True

        limit_s = None if timeout is None else self._timeout_s(timeout)
        context = self._context
        with context.step(name, Kind.DO) as (key, known):
            record = known
            # A replay needs no plan, and is most of what is asked here.
            if record is None or record["status"] not in FINAL:
                plan = Plan(
                    kind=Kind.DO,
                    produce=_calling(fn, args),
                    retry=retry or (NO_RETRY if at_most_once else context.workflow.retry),
                    timeout_s=self._timeout_s(None) if limit_s is None else limit_s,
                    at_most_once=at_most_once,
                    redact=redact,
                    undoable=undo is not None,
                )
                record = await attempted(context, key, plan, record)
            output = await context.outcome(record)
        if undo is not None:
            undone = Undo(order=record["order"], key=key, fn=undo, output=output, redact=redact)
            context.undos.append(undone)
        return output

    async def _attempted(self, name: str, plan: Plan) -> Any:
        context = self._context
        with context.step(name, plan.kind) as (key, known):
            return await context.outcome(await attempted(context, key, plan, known))

    def _timeout_s(self, timeout: Duration | None) -> float:
        config, workflow = self._context.config, self._context.workflow
        if timeout is None:
            own_s = workflow.step_timeout_s or config.step_timeout_s
            return min(own_s, config.longest_step_s)
        wanted_s = seconds(timeout)
        if not 0 < wanted_s <= config.longest_step_s:
            raise ConfigError(
                f"A step's timeout of {wanted_s:g} s is not within the function's "
                f"{config.longest_step_s:g} s."
            )
        return wanted_s

    async def sleep(self, duration: Duration, *, name: str = "sleep") -> None:
        """Let so many seconds pass (up to years); below 2 s without leaving the slice."""
        rest = timedelta(seconds=seconds(duration))
        await waiting.sleep_until(self._context, name, lambda: self._context.clock.now() + rest)

    async def sleep_until(self, at: datetime, *, name: str = "sleep") -> None:
        """Go on at that instant (aware), at once if it is past."""
        if at.tzinfo is None:
            raise WorkflowError("sleep_until needs an instant with a time zone.")
        await waiting.sleep_until(self._context, name, lambda: at)

    async def wait_for_event(
        self,
        name: str,
        *,
        type: str,
        subject: str | None = None,
        where: Mapping[str, Any] | None = None,
        timeout: Duration | None = None,
        since: datetime | None = None,
    ) -> Event:
        """The first event of that type (and subject, and `where`) that this run has not had.

        Also one that came before the wait, back to `since`: by default the instant at which the
        run was asked for. Raises `WaitTimedOut` after `timeout`. `where`: see `lambent.where`.
        """
        if since is not None and since.tzinfo is None:
            raise WorkflowError("wait_for_event needs a `since` with a time zone.")
        wanted = waiting.Wanted(
            type=type,
            subject=subject,
            where=where,
            since=None if since is None else whole_milliseconds(since),
            timeout_s=None if timeout is None else seconds(timeout),
        )
        return await waiting.wait_for_event(self._context, name, wanted)

    async def wait_until(
        self,
        name: str,
        check: Callable[[], Any],
        *,
        every: Duration = 60.0,
        timeout: Duration = 86400.0,
    ) -> Any:
        """What `check()` returns once that is true, asked every so often; raises `WaitTimedOut`.

        An error in `check` fails the step: catch in it what may pass.
        """
        return await waiting.wait_until(
            self._context, name, check, every_s=seconds(every), timeout_s=seconds(timeout)
        )

    async def callback(
        self,
        name: str,
        *,
        timeout: Duration | None = None,
        heartbeat: Duration | None = None,
    ) -> Callback:
        """A one-time URL for someone else; await the callback for the answer.

        `heartbeat`: the longest silence of its holder before the wait times out.
        """
        return await waiting.callback(
            self._context,
            name,
            timeout_s=None if timeout is None else seconds(timeout),
            heartbeat_s=None if heartbeat is None else seconds(heartbeat),
        )

    async def gather(self, *branch: Awaitable[Any], return_exceptions: bool = False) -> list[Any]:
        """Run calls such as `step.do(...)` or coroutines made of them side by side.

        The first failure gives the other branches up and is raised, unless `return_exceptions`.
        """
        starts: list[branches.Start] = [_as_is(one) for one in branch]
        try:
            return await branches.side_by_side(
                self._context, "gather", starts, return_exceptions=return_exceptions
            )
        finally:
            # Unwinding may come before a branch was begun; Python would warn of it.
            for one in branch:
                if inspect.iscoroutine(one):
                    one.close()

    async def map(
        self,
        name: str,
        items: Iterable[Any],
        fn: Callable[[Any], Awaitable[T]],
        *,
        limit: int | None = None,
        return_exceptions: bool = False,
    ) -> list[T]:
        """`fn(item)` for each item, each a branch with steps of its own, `limit` at a time."""
        if limit is not None and limit < 1:
            raise WorkflowError("map needs a limit of at least 1.")
        starts: list[branches.Start] = [_with_item(fn, item) for item in items]
        return await branches.side_by_side(
            self._context, name, starts, limit=limit, return_exceptions=return_exceptions
        )

    async def start(
        self,
        workflow: str,
        input: Any = None,
        *,
        name: str | None = None,
        version: int | None = None,
        priority: Level | None = None,
        budget: int | None = None,
    ) -> Child:
        """Start a child run, once. Await the child for its output, or leave it to itself; a
        cancel of this run reaches it either way."""
        return await start_child(
            self._context,
            name or workflow,
            workflow,
            input,
            version=version,
            priority=priority,
            budget=budget,
        )

    async def publish(self, type: str, data: Any = None, *, subject: str | None = None) -> None:
        """Publish an event, once: durable when this returns.

        Raises `NonRetryable` for a type that is the platform's own.
        """
        if is_reserved(type):
            raise NonRetryable(f"step.publish({type!r}): {RESERVED}* is the platform's own.")
        context = self._context
        events = context.events
        if events is None:
            raise ConfigError("This engine was built without an event bus.")
        run = context.run
        key_seen = f"publish {type}"

        async def produce() -> Product:
            # The id names the place in the run, so that a repetition is dropped as a duplicate.
            await events.publish(
                client=run["client"],
                id=f"{run['_id']}/{run['epoch']}/{CURRENT.get().busy}",
                source=f"lambent/workflows/{run['workflow']}",
                type=type,
                subject=subject,
                data=data,
            )
            return Product(None)

        plan = Plan(
            kind=Kind.PUBLISH,
            produce=produce,
            retry=context.workflow.retry,
            timeout_s=self._timeout_s(None),
        )
        await self._attempted(key_seen, plan)

    async def generate(
        self,
        name: str = "generate",
        *,
        prompt: str | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
        model: str | None = None,
        options: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        format: Any = None,
        think: bool | str | None = None,
        agent: str | None = None,
        key: str | None = None,
        listener: Listener | None = None,
        wanted: type[BaseModel] | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
    ) -> Any:
        """A model's answer, through breaker and slot; its tokens count against the budget.

        With `wanted`, a pydantic model: an object of it, after one repair if need be; else raises
        `BadStructure`.

        While the breaker is open or no slot is free the run sleeps, without spending an attempt.
        A run over its budget is blocked until the budget is raised.
        """
        context = self._context
        port = context.model
        if port is None:
            raise ConfigError("This engine was built without a model.")
        said = list(messages or ())
        if prompt is not None:
            said.append({"role": "user", "content": prompt})
        if wanted is not None:
            more = {"model": model, "options": options, "retry": retry, "timeout": timeout}
            return await self._structured(name, said, wanted, {**more, "agent": agent})
        request = {
            "agent": agent or f"workflow:{context.workflow.name}",
            "key": key,
            "messages": said,
            "model": model,
            "options": dict(options or {}),
            "tools": list(tools or ()),
            "format": format,
            "think": think,
        }

        async def produce() -> Product:
            budget = context.run["budget"]
            if budget is not None and context.journal.spent >= budget:
                text = f"{context.journal.spent} of {budget} tokens are spent."
                raise context.execution.unwind(OverBudget(text))
            answer = await port.generate(request, client=context.run["client"], listener=listener)
            return Product(answer.value, answer.tokens, answer.beside)

        plan = Plan(
            kind=Kind.GENERATE,
            produce=produce,
            retry=retry or context.workflow.retry,
            timeout_s=self._timeout_s(timeout),
        )
        return await self._attempted(name, plan)

    async def _structured(
        self,
        name: str,
        said: Sequence[Mapping[str, Any]],
        wanted: type[BaseModel],
        more: Mapping[str, Any],
    ) -> BaseModel:
        schema = structured.schema_of(wanted)
        answer = await self.generate(name, messages=said, format=schema, **more)
        found = structured.parsed(wanted, answer["text"])
        if isinstance(found, str):
            first = {"role": "assistant", "content": answer["text"]}
            repair = {"role": "user", "content": structured.repair_of(found)}
            again = [*said, first, repair]
            answer = await self.generate(name, messages=again, format=schema, **more)
            found = structured.parsed(wanted, answer["text"])
        if isinstance(found, str):
            raise structured.BadStructure(f"The model's answer does not fit: {found}.")
        return found

    async def progress(self, value: Any) -> None:
        """Say how far the run is: readable on the run, sent to its watchers; told at least once,
        in order."""
        context = self._context
        with context.step("progress", Kind.PROGRESS) as (key, known):
            if context.execution.unwinding:
                return
            if known is not None:
                # Whoever recorded it may have died before it was told.
                await context.tell(known)
                return
            async with context.telling:
                order = context.journal.next_order()
                form = await context.execution.persist(
                    lambda: context.values.store(self.run_id, value, what=f"The value of {key!r}")
                )
                now, done = context.clock.now(), StepStatus.COMPLETED
                record = await context.record(
                    key, Kind.PROGRESS, done, order, output=form, finished_at=now
                )
                await context.tell(record)

    async def continue_as_new(self, input: Any = None) -> None:
        """Begin again with this input and an empty journal; never returns. What was done so far
        counts as done: its `undo` is forgotten with the journal."""
        raise self._context.execution.unwind(ContinuedAsNew(input))

    async def now(self) -> datetime:
        """The present instant; the same at each replay."""
        context = self._context
        with context.step("now", Kind.NOW) as (key, known):
            record = known
            if record is None:
                if context.execution.unwinding:
                    raise Cancelled
                order, now = context.journal.next_order(), context.clock.now()
                record = await context.record(
                    key, Kind.NOW, StepStatus.COMPLETED, order, at=now, finished_at=now
                )
            return await context.recorded_at(record)

    async def uuid(self) -> UUID:
        """A UUID of this place in this run; the same at each replay, so good as an idempotency
        key; whoever knows the run's id can work it out, so no secret."""
        return UUID(bytes=self._seed("uuid")[:16], version=4)

    async def random(self) -> random.Random:
        """A generator seeded with this place in this run; the same at each replay."""
        return random.Random(self._seed("random"))

    def _seed(self, name: str) -> bytes:
        run = self._context.run
        place = f"{run['_id']}/{run['base_epoch']}/{CURRENT.get().key(name)}"
        return hashlib.sha256(place.encode()).digest()


def _calling(fn: Callable[..., Any], args: tuple[Any, ...]) -> Callable[[], Awaitable[Product]]:
    async def produce() -> Product:
        return Product(await call(fn, *args))

    return produce


def _as_is(branch: Awaitable[Any]) -> branches.Start:
    return lambda: branch


def _with_item(fn: Callable[[Any], Awaitable[Any]], item: Any) -> branches.Start:
    return lambda: fn(item)

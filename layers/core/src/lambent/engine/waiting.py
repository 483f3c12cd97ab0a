"""Waits durably: for a time, an event, an answer to a callback, or a condition."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from lambent.clock import FAR_FUTURE
from lambent.codec import decode
from lambent.engine.attempts import call
from lambent.engine.branch import CURRENT
from lambent.engine.context import RunContext, error_document
from lambent.engine.documents import SINCE_BEFORE_S
from lambent.engine.model import FINAL, Kind, StepStatus, step_id
from lambent.engine.tracebacks import traceback_of
from lambent.errors import CallbackFailed, Cancelled, StepFailed, Unserialisable, WaitTimedOut
from lambent.mongo import Document
from lambent.tracing import span
from lambent.waits import WaitStatus
from lambent.where import clauses_of

CALLBACK_TYPE: Final = "lambent.callback"
Duration = float | timedelta


@dataclass(frozen=True, slots=True)
class Event:
    """An event as a workflow gets it; `time` is the publisher's, `received_at` the platform's."""

    id: str
    source: str
    type: str
    subject: str | None
    time: Any
    received_at: datetime
    data: Any


def seconds(duration: Duration) -> float:
    return duration.total_seconds() if isinstance(duration, timedelta) else float(duration)


async def sleep_until(context: RunContext, name: str, at: Callable[[], datetime]) -> None:
    """Pass the instant; what `at` says is asked once and kept."""
    with context.step(name, Kind.SLEEP) as (key, known):
        record = known
        if record is None:
            if context.execution.unwinding:
                raise Cancelled
            order, now = context.journal.next_order(), context.clock.now()
            record = await context.record(
                key, Kind.SLEEP, StepStatus.COMPLETED, order, until=at(), started_at=now
            )
        while record["until"] > context.clock.now():
            await context.execution.park(record["until"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The event that a wait is for."""

    type: str
    subject: str | None
    where: Mapping[str, Any] | None
    since: datetime | None
    timeout_s: float | None


async def wait_for_event(context: RunContext, name: str, wanted: Wanted) -> Event:
    """The event; raises `WaitTimedOut`."""
    with context.step(name, Kind.WAIT) as (key, record):
        wait = record or await _open(context, key, Kind.WAIT, wanted, {})
        wait = await _satisfied(context, wait)
    if not context.replaying:
        # The run goes on as a part of its own trace; who sent the event has another.
        with span(f"event {wait['type']}", linked=wait.get("trace"), run_id=context.run["_id"]):
            pass
    return Event(**wait["record"])


async def _open(
    context: RunContext, key: str, kind: Kind, wanted: Wanted, extra: Mapping[str, Any]
) -> Document:
    if context.execution.unwinding:
        raise Cancelled
    context.check_lease()
    run, now = context.run, context.clock.now()
    deadline_at = FAR_FUTURE
    if wanted.timeout_s is not None:
        deadline_at = now + timedelta(seconds=wanted.timeout_s)
    wait: Document = {
        "_id": step_id(run["_id"], run["epoch"], key),
        "run": run["_id"],
        "epoch": run["epoch"],
        "key": key,
        "kind": kind.value,
        "order": context.journal.next_order(),
        "client": run["client"],
        "type": wanted.type,
        "subject": wanted.subject,
        "where": clauses_of(wanted.where),
        "since": wanted.since or run["created_at"] - timedelta(seconds=SINCE_BEFORE_S),
        "opened_at": now,
        "deadline_at": deadline_at,
        **extra,
    }
    if lines := context.journal.lines.take():
        wait["log"] = lines
    found = await context.execution.persist(lambda: context.waits.open(wait))
    context.said.recorded(CURRENT.get().path)
    return context.journal.keep_wait(found)


async def _satisfied(context: RunContext, wait: Document) -> Document:
    """The wait, once it holds an event."""
    waits, execution, stale = context.waits, context.execution, context.journal.stale

    async def changed() -> bool:
        nonlocal wait
        wait = await waits.read(wait["_id"])
        if wait["status"] == WaitStatus.OPEN and context.run["epoch"] > 0:
            # The deliverer may have found its event held by a wait that a restart cut off.
            wait = await waits.look_back(wait, stale=stale)
        return bool(wait["status"] != WaitStatus.OPEN)

    if wait["status"] == WaitStatus.OPEN:
        # At each slice, for the one before may have died between the insert and this look.
        wait = await execution.persist(lambda: waits.look_back(wait, stale=stale))
    while wait["status"] == WaitStatus.OPEN:
        if wait["deadline_at"] <= context.clock.now():
            wait = await execution.persist(partial(waits.time_out, wait, stale=stale))
            continue
        await execution.park(wait["deadline_at"], changed)
        wait = await execution.persist(partial(waits.read, wait["_id"]))
    context.journal.keep_wait(wait)
    if wait["status"] == WaitStatus.SATISFIED:
        return wait
    raise WaitTimedOut(
        f"Nothing came for {wait['key']!r} in time.", step=wait["key"], type="WaitTimedOut"
    )


class Callback:
    """A one-time address that someone else completes, fails or keeps alive.

    `token` is the secret in it, `url` the whole. Await it, or `result()`, for what was answered;
    raises `CallbackFailed` with the holder's words, `WaitTimedOut` without an answer in time.
    """

    def __init__(self, context: RunContext, wait: Document) -> None:
        self._context = context
        self._wait = wait
        self.token: str = wait["token"]
        self.url = f"{context.config.callback_base_url}/callbacks/{self.token}"

    def __await__(self) -> Any:
        return self.result().__await__()

    async def result(self) -> Any:
        wait = self._wait
        # What was answered stands in the wait: there is no record of its own to be missed.
        with self._context.step(f"{wait['key']} answer", Kind.RESULT, recorded=False):
            self._wait = wait = await _satisfied(self._context, wait)
        answer = wait["record"]["data"]
        if answer["outcome"] == "failed":
            raise CallbackFailed(answer["message"], step=wait["key"], type="CallbackFailed")
        return decode(answer["value"])


async def callback(
    context: RunContext, name: str, *, timeout_s: float | None, heartbeat_s: float | None
) -> Callback:
    """Open a callback. An answer travels as an event, so none is lost and the first one counts."""
    with context.step(name, Kind.CALLBACK) as (key, known):
        record = known
        if record is None:
            run = context.run
            wait_id = step_id(run["_id"], run["epoch"], key)
            token = _token(wait_id)
            first_s = min((s for s in (timeout_s, heartbeat_s) if s is not None), default=None)
            wanted = Wanted(
                type=CALLBACK_TYPE,
                subject=digest(token),
                where=None,
                since=None,
                timeout_s=first_s,
            )
            extra = {"token": token, "heartbeat_s": heartbeat_s, "timeout_s": timeout_s}
            record = await _open(context, key, Kind.CALLBACK, wanted, extra)
    return Callback(context, record)


def _token(wait_id: str) -> str:
    place = base64.urlsafe_b64encode(wait_id.encode()).decode().rstrip("=")
    return f"{place}.{secrets.token_urlsafe(24)}"


def wait_of_token(token: str) -> str | None:
    """The `_id` of the wait that a token names; None for what is no token."""
    place, dot, _ = token.partition(".")
    try:
        return base64.urlsafe_b64decode(place + "=" * (-len(place) % 4)).decode() if dot else None
    except ValueError:
        return None


def digest(token: str) -> str:
    """What stands for the token where others may look."""
    return hashlib.sha256(token.encode()).hexdigest()


async def wait_until(
    context: RunContext, name: str, check: Callable[[], Any], *, every_s: float, timeout_s: float
) -> Any:
    """What `check` gives once that is true; asked every `every_s`, over any number of slices."""
    with context.step(name, Kind.UNTIL) as (key, known):
        record = known
        if record is None:
            if context.execution.unwinding:
                raise Cancelled
            now = context.clock.now()
            record = await context.record(
                key,
                Kind.UNTIL,
                StepStatus.OPEN,
                context.journal.next_order(),
                started_at=now,
                deadline_at=now + timedelta(seconds=timeout_s),
                attempts=0,
            )
        if record["status"] not in FINAL and context.execution.unwinding:
            record = await context.bury(key, Kind.UNTIL, record)
        while record["status"] not in FINAL:
            record = await _check_once(context, record, check, every_s)
        return await context.outcome(record)


async def _check_once(
    context: RunContext, record: Document, check: Callable[[], Any], every_s: float
) -> Document:
    execution = context.execution
    limit_s = min(context.config.step_timeout_s, context.config.longest_step_s)
    await execution.permit(limit_s)
    key, last = record["key"], record["deadline_at"] <= context.clock.now()
    try:
        found = await execution.body(call(check), limit_s)
    except Exception as error:
        execution.check()
        failed = StepFailed(str(error), step=key, type=type(error).__name__)
        kept: Document = {"error": error_document(failed), "traceback": traceback_of(error)}
        return await _close(context, record, StepStatus.FAILED, **kept)
    if found:
        store = partial(context.values.store, context.run["_id"], found, what=f"What {key!r} found")
        try:
            output = await execution.persist(store)
        except Unserialisable as error:
            bad = StepFailed(error.detail, step=key, type=type(error).__name__)
            return await _close(context, record, StepStatus.FAILED, error=error_document(bad))
        return await _close(context, record, StepStatus.COMPLETED, output=output)
    if last:
        late = WaitTimedOut(f"{key!r} did not come true in time.", step=key, type="WaitTimedOut")
        return await _close(context, record, StepStatus.FAILED, error=error_document(late))
    next_at = context.clock.now() + timedelta(seconds=every_s)
    await execution.park(min(next_at, record["deadline_at"]))
    return record


async def _close(
    context: RunContext, record: Document, status: StepStatus, **fields: Any
) -> Document:
    return await context.advance(
        record, status=status.value, finished_at=context.clock.now(), **fields
    )

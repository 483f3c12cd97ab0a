"""Shows runs and steps to people and other programs: plain JSON values, secrets left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lambent.clock import FAR_FUTURE
from lambent.codec import plain
from lambent.engine import under_way
from lambent.engine.model import Kind, SliceEnd, Status
from lambent.engine.values import Values
from lambent.mongo import Document
from lambent.waits import WaitStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitView:
    """What a run waits for. `type` and `subject` are those of the event."""

    step: str
    kind: str
    type: str | None = None
    subject: str | None = None
    opened_at: datetime | None = None
    deadline_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RestView:
    """The step that a waiting run tries again at `until`, and the error that it rests for."""

    step: str
    until: datetime
    type: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderWayView:
    """A step of which an attempt goes on, begun at `started_at`; `epoch` and `order` are those
    that its record has, or will have."""

    step: str
    kind: str
    epoch: int
    order: int
    attempt: int
    started_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A run as it is shown. `input` and `output` are plain JSON; `blocked` says why it is.

    `under_way`: the steps that go on, up to 16, as the slice that has the run said within the last
    two seconds; shorter ones are not seen. `recorded`: how many steps were on record then, or at
    the last settle. A list of runs has no `under_way`, as it has no `waits`.
    """

    id: str
    key: str
    workflow: str
    version: int
    client: str
    status: str
    control: str | None
    epoch: int
    priority: int
    input: Any
    output: Any
    error: Mapping[str, Any] | None
    blocked: Mapping[str, Any] | None
    progress: Mapping[str, Any] | None
    budget: int | None
    spent: int
    parent: str | None
    waits: tuple[WaitView, ...]
    under_way: tuple[UnderWayView, ...]
    recorded: int
    rests: RestView | None
    due_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptView:
    """One try of a step that took more than one; `error` is None for the one that went well."""

    started_at: datetime
    took_s: float
    error: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventView:
    """The event that a wait is for; `key` is of the one that came, and asks `/events` for it."""

    type: str
    subject: str | None
    key: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LineView:
    """What an author's `step.log` said; `step`: where, if inside a step or a branch."""

    at: datetime
    level: str
    text: str
    step: str | None
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceView:
    """What one invocation had of the run. `ended_at` None: it goes on; that of a crashed one is
    when it was found, after its lease had lapsed; `heard` are then the steps that were under way
    when it was last heard of."""

    started_at: datetime
    ended_at: datetime | None
    end: str | None
    invocation: str
    epoch: int
    heard: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepView:
    """A recorded step. `output` is `None` and `redacted` true where nobody may see it.

    `tries` are the last ten attempts of one that took several; `event` is what a wait is for.
    `log`, and the `traceback` of errors, are only for those who may see everybody's runs.
    """

    key: str
    kind: str
    status: str
    epoch: int
    order: int
    attempts: int
    output: Any
    redacted: bool
    error: Mapping[str, Any] | None
    child: str | None
    started_at: datetime | None
    finished_at: datetime | None
    wake_at: datetime | None
    tries: tuple[AttemptView, ...] = ()
    event: EventView | None = None
    log: tuple[LineView, ...] = ()


async def run_view(
    run: Document,
    values: Values,
    waits: Sequence[Document] = (),
    *,
    now: datetime,
    going: Sequence[Document] = (),
    inside: bool = False,
) -> RunView:
    """The run with its input and output put together; `waits`: its open wait documents; `going`:
    what is under way in it.

    `inside`: for operators, who also see where the code failed.
    """
    told = under_way.told(run, now=now)
    progress = run["progress"]
    if progress is not None:
        value = plain(await values.form(progress["value"]))
        progress = {"value": value, "order": progress["order"], "at": progress["at"]}
    return RunView(
        id=run["_id"],
        key=run["key"],
        workflow=run["workflow"],
        version=run["version"],
        client=run["client"],
        status=run["status"],
        control=run["control"],
        epoch=run["epoch"],
        priority=run["priority"],
        input=plain(await values.form(run["input"])),
        output=plain(await values.form(run["output"])),
        error=_error(run["error"] or (run["ending"] or {}).get("error"), inside),
        blocked=run["blocked"],
        progress=progress,
        budget=run["budget"],
        spent=run["spent"],
        parent=(run["parent"] or {}).get("run"),
        waits=tuple(_wait_view(one) for one in waits if one["status"] == WaitStatus.OPEN),
        under_way=tuple(_under_way_view(one) for one in going),
        recorded=told["recorded"] if told else run["records"],
        rests=_rest_view(run),
        due_at=_instant(run["due_at"]),
        created_at=run["created_at"],
        started_at=run["started_at"],
        finished_at=run["finished_at"],
    )


def _under_way_view(step: Document) -> UnderWayView:
    return UnderWayView(
        step=step["key"],
        kind=step["kind"],
        epoch=step["epoch"],
        order=step["order"],
        attempt=step["attempt"],
        started_at=step["at"],
    )


def _rest_view(run: Document) -> RestView | None:
    rests = run.get("rests")  # of the settle before, until the next one
    return RestView(**rests) if rests and run["status"] == Status.WAITING else None


def _wait_view(wait: Document) -> WaitView:
    # A callback's event is an affair of the platform; its subject would let others answer it.
    shown = wait["kind"] == Kind.WAIT
    return WaitView(
        step=wait["key"],
        kind=wait["kind"],
        type=wait["type"] if shown else None,
        subject=wait["subject"] if shown else None,
        opened_at=wait["opened_at"],
        deadline_at=_instant(wait["deadline_at"]),
    )


async def step_view(step: Document, values: Values, *, inside: bool = False) -> StepView:
    """The step; `inside`: for operators, who also see where the code failed, and what it said."""
    redacted = bool(step.get("redact", False))
    output = None if redacted else plain(await values.form(step.get("output")))
    error = step.get("error")
    if error is not None and "traceback" in step:
        error = {**error, "traceback": step["traceback"]}
    return StepView(
        key=step["key"],
        kind=step["kind"],
        status=step["status"],
        epoch=step["epoch"],
        order=step["order"],
        attempts=int(step.get("attempts", 1)),
        output=output,
        redacted=redacted,
        error=_error(error, inside),
        child=step.get("child"),
        started_at=step.get("started_at"),
        finished_at=step.get("finished_at"),
        wake_at=step.get("until") or step.get("retry_at"),
        tries=tuple(_attempt(one, inside) for one in step.get("tries", ())),
        log=lines_of(step) if inside else (),
    )


def wait_as_step(wait: Document, *, inside: bool = False) -> StepView:
    """A wait among the steps; the data of its event is its output."""
    record = wait.get("record") or {}
    came = wait["event"] if wait["status"] == WaitStatus.SATISFIED else None
    event = EventView(type=wait["type"], subject=wait["subject"], key=came)
    return StepView(
        key=wait["key"],
        kind=wait["kind"],
        status=wait["status"],
        epoch=wait["epoch"],
        order=wait["order"],
        attempts=1,
        output=plain(record.get("data")),
        redacted=False,
        error=None,
        child=None,
        started_at=wait["opened_at"],
        finished_at=wait.get("closed_at"),
        wake_at=_instant(wait["deadline_at"]),
        event=event if wait["kind"] == Kind.WAIT else None,
        log=lines_of(wait) if inside else (),
    )


def slice_views(run: Document, *, now: datetime) -> tuple[SliceView, ...]:
    """The last slices of the run, the one that goes on, or that died unfound, at the end."""
    shown = [_slice(one) for one in run.get("slices", ())]
    if (there := run.get("slice")) is not None:
        shown += [_slice(one) for one in there["dead"]]
        lives = run["lease"] == there["token"] and run["lease_until"] > now
        end = None if lives else SliceEnd.CRASHED.value
        heard = [] if lives else under_way.heard(run)
        shown.append(_slice({**there, "until": None, "end": end, "heard": heard}))
    return tuple(shown)


def _slice(kept: Document) -> SliceView:
    return SliceView(
        started_at=kept["at"],
        ended_at=kept["until"],
        end=kept["end"],
        invocation=kept["by"],
        epoch=kept["epoch"],
        heard=tuple(kept.get("heard", ())),
    )


def lines_of(document: Document) -> tuple[LineView, ...]:
    """What was said before a record was written, or before a run ended."""
    return tuple(
        LineView(
            at=one["at"],
            level=one["level"],
            text=one["text"],
            step=one["step"],
            fields=one.get("fields", {}),
        )
        for one in document.get("log", ())
    )


def _attempt(tried: Document, inside: bool) -> AttemptView:
    error = _error(tried.get("error"), inside)
    return AttemptView(started_at=tried["at"], took_s=tried["took_s"], error=error)


def _error(error: Mapping[str, Any] | None, inside: bool) -> Mapping[str, Any] | None:
    # Where the code is, and what is written there, is nothing for who only uses it.
    if error is None or inside:
        return error
    return {name: value for name, value in error.items() if name not in ("traceback", "trace")}


def _instant(at: datetime) -> datetime | None:
    return None if at >= FAR_FUTURE else at

"""Shows runs and steps to people and other programs: plain JSON values, secrets left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lambent.clock import FAR_FUTURE
from lambent.codec import plain
from lambent.engine.model import Kind
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
class RunView:
    """A run as it is shown. `input` and `output` are plain JSON; `blocked` says why it is."""

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
    due_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepView:
    """A recorded step. `output` is `None` and `redacted` true where nobody may see it."""

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


async def run_view(run: Document, values: Values, waits: list[Document]) -> RunView:
    """The run with its input and output put together; `waits`: its open wait documents."""
    progress = run["progress"]
    if progress is not None:
        progress = {**progress, "value": plain(await values.form(progress["value"]))}
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
        error=run["error"] or (run["ending"] or {}).get("error"),
        blocked=run["blocked"],
        progress=progress,
        budget=run["budget"],
        spent=run["spent"],
        parent=(run["parent"] or {}).get("run"),
        waits=tuple(_wait_view(one) for one in waits if one["status"] == WaitStatus.OPEN),
        due_at=_instant(run["due_at"]),
        created_at=run["created_at"],
        started_at=run["started_at"],
        finished_at=run["finished_at"],
    )


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


async def step_view(step: Document, values: Values) -> StepView:
    redacted = bool(step.get("redact", False))
    output = None if redacted else plain(await values.form(step.get("output")))
    return StepView(
        key=step["key"],
        kind=step["kind"],
        status=step["status"],
        epoch=step["epoch"],
        order=step["order"],
        attempts=int(step.get("attempts", 1)),
        output=output,
        redacted=redacted,
        error=step.get("error"),
        child=step.get("child"),
        started_at=step.get("started_at"),
        finished_at=step.get("finished_at"),
        wake_at=step.get("until") or step.get("retry_at"),
    )


def wait_as_step(wait: Document) -> StepView:
    """A wait among the steps; the data of its event is its output."""
    record = wait.get("record") or {}
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
    )


def _instant(at: datetime) -> datetime | None:
    return None if at >= FAR_FUTURE else at

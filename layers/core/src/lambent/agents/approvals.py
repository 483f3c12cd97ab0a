"""Tells which tool calls of a run wait for a person's decision, and takes that decision."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from lambent.agents.durable import approval_step, workflow_name
from lambent.agents.tool_agent import call_id
from lambent.engine.model import Kind
from lambent.errors import NotFound

if TYPE_CHECKING:
    from lambent.engine.engine import WorkflowEngine
    from lambent.engine.views import WaitView

_STEP: Final = re.compile("(?:.*/)?" + approval_step(r"(\d+)\.(\d+)"))


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitedCall:
    """A call that an agent may make once a person says so; nobody else is asked after `until`."""

    call: str
    step: str
    tool: str
    arguments: Mapping[str, Any]
    asked_at: datetime | None
    until: datetime | None


async def awaited_calls(
    engine: WorkflowEngine, run_id: str, *, client: str | None
) -> list[AwaitedCall]:
    """The calls that the run waits with; none of one that is no agent's turn.

    Raises `NotFound`, also for a run of another client.
    """
    run = await engine.control.get(run_id, client=client)
    if not run.workflow.startswith(workflow_name("")):
        return []
    open_waits = [one for one in run.waits if one.kind == Kind.CALLBACK]
    found = [await _awaited(engine, run_id, one) for one in open_waits]
    return [one for one in found if one is not None]


async def _awaited(engine: WorkflowEngine, run_id: str, wait: WaitView) -> AwaitedCall | None:
    """What the model asked for is in the record of its answer, and only there."""
    place = _STEP.fullmatch(wait.step)
    if place is None:
        return None
    number, index = int(place[1]), int(place[2])
    answered = "model" if number == 0 else f"model#{number + 1}"
    page = await engine.records.page(run_id, client=None, around=answered, limit=1)
    asked = page.steps[0].output["tool_calls"][index]
    return AwaitedCall(
        call=call_id(number, index),
        step=wait.step,
        tool=asked["name"],
        arguments=asked["arguments"],
        asked_at=wait.opened_at,
        until=wait.deadline_at,
    )


async def decide(
    engine: WorkflowEngine,
    run_id: str,
    call: str,
    *,
    client: str | None,
    approve: bool,
    note: str = "",
) -> None:
    """Let the call be made, or not; `note` is told to the model. The first decision counts.

    Raises `NotFound` where the run, which `client` must own (None: an admin's), does not wait for
    that; `Gone` where it has been decided, or the time is over.
    """
    await engine.control.get(run_id, client=client)
    step = approval_step(call)
    waits = [
        one
        for one in await engine.store.waits.of_run(run_id)
        if one["kind"] == Kind.CALLBACK and one["key"].rpartition("/")[2] == step
    ]
    if not waits:
        raise NotFound(f"The run {run_id[:64]!r} waits for no decision on {call[:64]!r}.")
    newest = max(waits, key=lambda one: int(one["epoch"]))
    await engine.callbacks.complete(newest["token"], {"approve": approve, "note": note})

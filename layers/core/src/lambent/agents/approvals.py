"""Takes a person's decision on a tool call that waits for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambent.agents.durable import approval_step
from lambent.engine.model import Kind
from lambent.errors import NotFound

if TYPE_CHECKING:
    from lambent.engine.engine import WorkflowEngine


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

"""Undoes what a run did, last step first; each undo is a durable step of its own."""

from __future__ import annotations

from collections.abc import Sequence

from lambent.engine.attempts import Plan, Product, attempted, call
from lambent.engine.branch import CURRENT
from lambent.engine.context import RunContext, Undo
from lambent.engine.model import Kind, StepStatus
from lambent.mongo import Document


async def undo_all(context: RunContext, undos: Sequence[Undo]) -> Document | None:
    """Run every undo; None if all went well, else the run's error with those that failed.

    One that fails for good does not keep the others from running: each undoes what it can.
    """
    failed: list[Document] = []
    for undo in sorted(undos, key=lambda one: one.order, reverse=True):
        record = await _undo(context, undo)
        if record["status"] == StepStatus.FAILED:
            failed.append({"step": undo.key, "message": record["error"]["message"]})
    if not failed:
        return None
    error = dict(context.run["ending"]["error"] or {"type": "Cancelled", "message": ""})
    return {**error, "undo_failed": failed}


async def _undo(context: RunContext, undo: Undo) -> Document:
    async def produce() -> Product:
        await call(undo.fn, undo.output)
        return Product(None)

    config = context.config
    plan = Plan(
        kind=Kind.UNDO,
        produce=produce,
        retry=context.workflow.retry,
        timeout_s=min(config.step_timeout_s, config.longest_step_s),
        redact=undo.redact,
    )
    branch = CURRENT.get()
    # Named by the key it undoes, not counted: a replay may find one undo fewer or more.
    branch.busy = key = f"{branch.path}/{undo.key}"
    try:
        return await attempted(context, key, plan, context.ask(key, Kind.UNDO))
    finally:
        branch.leave()

"""Puts in order what an earlier epoch left behind, and words the errors that end a run."""

from __future__ import annotations

from datetime import datetime

from lambent.due import Database
from lambent.engine.context import Children, error_document
from lambent.engine.documents import visible
from lambent.engine.model import CHUNKS, ENDED_IN, STEPS, ErrorRecord, Kind
from lambent.engine.tracebacks import traceback_of
from lambent.errors import LambentError, StepFailed
from lambent.mongo import Document, guarded
from lambent.waits import WAITS, Waits, WaitStatus


async def tidy(mongo: Database, waits: Waits, children: Children, run: Document) -> None:
    """After a retry or restart: nothing of the run expires, waits that its end closed are open
    again where they still count, and children that were cut off stop."""
    # Not what the end of this very epoch set: then this owner is a late one.
    earlier_end = {"run": run["_id"], ENDED_IN: {"$not": {"$gte": run["epoch"]}}}
    for name in (STEPS, WAITS, CHUNKS):
        expiry = {"expire_at": "", ENDED_IN: ""}
        await guarded(mongo.db[name].update_many(earlier_end, {"$unset": expiry}))
    closed = {"run": run["_id"], "status": WaitStatus.CLOSED.value}
    for wait in await guarded(mongo.db[WAITS].find(closed).to_list()):
        if visible(run, wait):
            await waits.reopen(wait["_id"])
    if not run["cuts"] and run["base_epoch"] != run["epoch"]:
        return
    cut_off = {"run": run["_id"], "kind": Kind.CHILD.value}
    for step in await guarded(mongo.db[STEPS].find(cut_off).to_list()):
        # Never a child of this epoch or, for a late owner, of a later one: no cut reaches it.
        if "child" in step and not visible(run, step):
            await children.cancel_child(step["child"], parent=run["_id"])


async def cancel_earlier_children(mongo: Database, children: Children, run: Document) -> None:
    """Before a cancel is obeyed: the children of epochs that `continue_as_new` ended, which the
    code will not come by any more."""
    earlier = {"run": run["_id"], "kind": Kind.CHILD.value}
    for step in await guarded(mongo.db[STEPS].find(earlier).to_list()):
        if step["epoch"] < run["base_epoch"] and "child" in step:
            await children.cancel_child(step["child"], parent=run["_id"])


async def expire_epoch(mongo: Database, run: Document, epoch: int, expire_at: datetime) -> None:
    """After `continue_as_new`: the steps of the epoch that ended go, though the run lives on.

    Its waits stay: they say which events the run has had; and its children: they may go on.
    """
    of_epoch = {"run": run["_id"], "epoch": epoch, "kind": {"$ne": Kind.CHILD.value}}
    await guarded(mongo.db[STEPS].update_many(of_epoch, {"$set": {"expire_at": expire_at}}))


def failure_document(error: Exception) -> Document:
    """The run's error: what was raised, the step it came from, and where the code was."""
    if isinstance(error, StepFailed):
        return {**error_document(error), "traceback": traceback_of(error)}
    message = error.detail if isinstance(error, LambentError) else str(error)
    document = ErrorRecord(type(error).__name__, message or type(error).__name__).document()
    document["traceback"] = traceback_of(error)
    cause = error.__cause__ or error.__context__
    while cause is not None and not isinstance(cause, StepFailed):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, StepFailed):
        document["step"] = cause.step
    return document

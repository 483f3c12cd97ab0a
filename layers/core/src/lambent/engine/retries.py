"""Takes runs on after their end: what a retry and a restart keep, and whose failure they undo."""

from __future__ import annotations

from typing import Any

from pymongo.errors import DuplicateKeyError

from lambent.due import Database, DueDocuments
from lambent.engine.documents import Cut, is_child, visible
from lambent.engine.model import ENDED, STEPS, Kind, Status, StepStatus
from lambent.engine.transitions import Transitions
from lambent.errors import Conflict, NotFound
from lambent.mongo import Document, guarded
from lambent.waits import WAITS


class Retries:
    """Retry and restart of one run; each is one compare-and-set on it, by its epoch."""

    def __init__(self, mongo: Database, due: DueDocuments, *, transitions: Transitions) -> None:
        self._mongo = mongo
        self._due = due
        self._transitions = transitions

    async def retry(self, run: Document, *, by: str | None = None) -> bool:
        """Failed or cancelled → waiting in the next epoch; False: it has changed since.

        Raises `Conflict` if it is a singleton and another run has its place.
        """
        if run["ending"] is not None or run["status"] == Status.CANCELLED:
            return await self._take_on(run, cut=None, afresh=True, by=by)
        step = (run["error"] or {}).get("step")
        cut = None if step is None else await self._cut(run, step)
        return await self._take_on(run, cut=cut, afresh=False, by=by)

    async def restart(self, run: Document, step: str | None, *, by: str | None = None) -> bool:
        """Ended or parked → waiting in the next epoch; False: it has changed since.

        Raises `NotFound` for a step that is not on record, `Conflict` if all was undone, or if
        it is a singleton and another run has its place.
        """
        if step is None:
            return await self._take_on(run, cut=None, afresh=True, by=by)
        cut = await self._cut(run, step)
        if cut is None:
            raise NotFound(f"The run has no step {step!r} on record.")
        if run["ending"] is not None:
            raise Conflict(
                "The run was undone: it can only be restarted from its start.",
                fields={"status": run["status"]},
            )
        return await self._take_on(run, cut=cut, afresh=False, by=by)

    async def retry_child(self, run_id: str, *, parent: str, epoch: int) -> bool:
        """Retry a child that ended in this epoch, or an earlier one; False: it has gone on since
        by itself, is another run's, or a singleton whose place is taken."""
        run = await guarded(self._due.collection.find_one({"_id": run_id}))
        if run is None or not is_child(run, parent) or not _went_wrong(run) or run["epoch"] > epoch:
            return False
        try:
            return await self.retry(run)
        except Conflict:
            return False  # its end stands, for another run is what it was meant to be

    async def _take_on(self, run: Document, **kept: Any) -> bool:
        try:
            return await self._transitions.raise_epoch(run, **kept)
        except DuplicateKeyError:
            raise await self._taken(run) from None

    async def _taken(self, run: Document) -> Conflict:
        holder = await guarded(self._due.collection.find_one({"marks": run["place"]}))
        if holder is None:
            return Conflict(
                "Another run of this singleton has just ended; try again.",
                fields={"status": run["status"]},
            )
        return Conflict(
            f"Run {holder['_id']} has the place of this singleton: it is {holder['status']}.",
            fields={"status": run["status"], "run": holder["_id"]},
        )

    async def _cut(self, run: Document, step: str) -> Cut | None:
        """The cut at a step that counts in the present epoch; None if it is not on record."""
        record = await self._record(run, step)
        if record is None:
            return None
        failed = (record["kind"], record["status"]) == (Kind.RESULT, StepStatus.FAILED)
        if not failed or "child" not in record:
            return Cut(int(record["order"]), step)
        child = await guarded(self._due.collection.find_one({"_id": record["child"]}))
        if child is not None and is_child(child, run["_id"]):
            again = (child["_id"], child["epoch"]) if _went_wrong(child) else None
            return Cut(int(record["order"]), step, again)
        # It is gone, or belongs to somebody else (a singleton): another is started in its place.
        started = await self._start_of(run, record["child"])
        return Cut(int((started or record)["order"]), (started or record)["key"])

    async def _record(self, run: Document, step: str) -> Document | None:
        for name in (STEPS, WAITS):
            found = self._mongo.db[name].find({"run": run["_id"], "key": step})
            for record in await guarded(found.to_list()):
                if visible(run, record):
                    return record
        return None

    async def _start_of(self, run: Document, child: str) -> Document | None:
        """The record of the step that started the child."""
        found = self._mongo.db[STEPS].find({"run": run["_id"], "child": child})
        for record in await guarded(found.to_list()):
            if record["kind"] == Kind.CHILD and visible(run, record):
                return record
        return None


def _went_wrong(run: Document) -> bool:
    return run["status"] in ENDED and run["status"] != Status.COMPLETED

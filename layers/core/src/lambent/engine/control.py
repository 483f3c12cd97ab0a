"""What others may ask of runs: read, list, cancel, pause, resume, retry, restart, delete."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from lambent.clock import Clock
from lambent.due import Database, DueDocuments
from lambent.engine import under_way
from lambent.engine.config import Nudger
from lambent.engine.debts import Debts
from lambent.engine.listing import (
    RunFilter,
    RunState,
    count_newest,
    lanes,
    newest,
    query_of,
    state_of,
)
from lambent.engine.model import (
    ACTIVE,
    CHUNKS,
    ENDED,
    GOING_ON,
    PARKED,
    RUNS,
    STEPS,
    Control,
    Reason,
    Status,
    record_id,
)
from lambent.engine.obeyed import has_obeyed
from lambent.engine.retries import Retries
from lambent.engine.transitions import Transitions
from lambent.engine.values import Values
from lambent.engine.views import RunView, StepView, run_view, step_view, wait_as_step
from lambent.errors import Conflict, NotFound, RequestError
from lambent.mongo import Document, drop_former_indexes, guarded, one_by_one
from lambent.waits import WAITS, Waits

_BULK: Final = 1000
_FORMER_INDEXES: Final = ("workflow_1__id_1", "parent.run_1__id_1", "created_at_1")


@dataclass(frozen=True, slots=True)
class RunPage:
    """Runs, newest first; `cursor` asks for the next page, None at the end."""

    runs: list[RunView]
    cursor: str | None


class RunControl:
    """Every method is scoped: `client` is whose runs may be touched, None (an admin) all.

    `by`: the token of a request that may come again: a run does what it asks once.
    """

    def __init__(
        self,
        mongo: Database,
        due: DueDocuments,
        *,
        transitions: Transitions,
        debts: Debts,
        retries: Retries,
        values: Values,
        waits: Waits,
        nudger: Nudger,
        clock: Clock,
    ) -> None:
        self._clock = clock
        self._mongo = mongo
        self._due = due
        self._transitions = transitions
        self._debts = debts
        self._retries = retries
        self._values = values
        self._waits = waits
        self._nudger = nudger

    async def ensure_indexes(self) -> None:
        runs, steps = self._due.collection, self._mongo.db[STEPS]
        await guarded(runs.create_index([("client", 1), ("_id", 1)]))
        # A client's few runs of one workflow among its very many. None of the three ever changes.
        await guarded(runs.create_index([("client", 1), ("workflow", 1), ("_id", 1)]))
        # For people who look; see `listing`.
        await guarded(runs.create_index([("status", 1), ("_id", 1)]))
        await guarded(runs.create_index([("workflow", 1), ("status", 1), ("_id", 1)]))
        # The few runs of an old version among very many of a new one.
        version = [("workflow", 1), ("version", 1), ("status", 1), ("_id", 1)]
        await guarded(runs.create_index(version))
        # Sparse: only children have it.
        await guarded(runs.create_index("child_of", sparse=True))
        await guarded(runs.create_index("expire_at", expireAfterSeconds=0))
        await guarded(steps.create_index("expire_at", expireAfterSeconds=0))
        await drop_former_indexes(runs, *_FORMER_INDEXES)

    async def get(self, run_id: str, *, client: str | None) -> RunView:
        """Raises `NotFound`, also for a run of another client."""
        run = await self._read(run_id, client)
        waits = await self._waits.of_run(run_id)
        now = self._clock.now()
        going = await self._going(run, now)
        inside = client is None
        return await run_view(run, self._values, waits, now=now, going=going, inside=inside)

    async def _going(self, run: Document, now: datetime) -> list[Document]:
        """What is under way; its records are read after the run, so that what has ended is not."""
        told = under_way.told(run, now=now)
        if not told or not (steps := told["steps"]):
            return []
        ids = [record_id(run, one) for one in steps]
        read = {"status": 1, "retry_at": 1}
        found = await one_by_one(self._mongo.db[STEPS], ids, read)
        return under_way.still(run, steps, {one["_id"]: one for one in found})

    async def steps(self, run_id: str, *, client: str | None) -> list[StepView]:
        """Everything on record of the run, in the order in which it was begun."""
        run = await self._read(run_id, client)
        found = self._mongo.db[STEPS].find({"run": run_id}, batch_size=10_000)
        shown = [await step_view(one, self._values) for one in await guarded(found.to_list())]
        shown += [wait_as_step(one) for one in await self._waits.of_run(run["_id"])]
        return sorted(shown, key=lambda one: (one.epoch, one.order))

    async def list_runs(
        self, wanted: RunFilter, *, limit: int = 50, cursor: str | None = None
    ) -> RunPage:
        """A page of runs, newest first."""
        limit = max(1, min(limit, 200))
        found = await self._find(wanted, limit + 1, cursor)
        page = found[:limit]
        more = _cursor(page[-1]) if len(found) > limit else None
        now = self._clock.now()
        return RunPage([await run_view(run, self._values, now=now) for run in page], more)

    async def named(self, ids: Sequence[str], *, client: str | None) -> list[RunView]:
        """The runs of these ids that are there and may be seen, in this order."""
        found = await one_by_one(self._due.collection, ids, RUNS.read)
        seen = [run for run in found if client in (None, run["client"])]
        return [await run_view(run, self._values, [], now=self._clock.now()) for run in seen]

    async def list_states(
        self, wanted: RunFilter, *, limit: int = 50, cursor: str | None = None
    ) -> list[RunState]:
        """The same page, by no more of each run than tells one state of it from another."""
        found = await self._find(
            wanted, limit, cursor, read={"status": 1, "epoch": 1, "blocked": 1}
        )
        return [state_of(run["_id"], run) for run in found]

    async def count(self, wanted: RunFilter, *, most: int = 1000) -> int:
        """How many runs fit; counting stops at `most`, which stands for "and more"."""
        now = self._clock.now()
        return await count_newest(self._due.collection, query_of(wanted), most=most, now=now)

    async def cancel(self, run_id: str, *, client: str | None, by: str | None = None) -> RunView:
        """Ask for the run to be undone and ended; one that is stuck in its undoing just ends, with
        `undo_skipped` in its error. One whose code is not deployed waits for it, `blocked`, if it
        has something to undo.

        Raises `Conflict`, with the status, for a run that has ended.
        """

        async def ask(run: Document) -> bool:
            if run["status"] == Status.BLOCKED and run["ending"] is not None:
                if run["ending"]["status"] == Status.CANCELLED:
                    asked = await self._transitions.ask_cancel_children(run_id)
                    await self._nudger.nudge(asked)
                return await self._transitions.end_stuck(run, by=by)
            return await self._transitions.ask_cancel(run_id, by=by)

        return await self._command(run_id, client, "cancelled", GOING_ON, ask, by)

    async def pause(self, run_id: str, *, client: str | None, by: str | None = None) -> RunView:
        """Let what is under way finish and begin nothing new. Raises `Conflict`."""

        async def ask(_: Document) -> bool:
            return await self._transitions.ask_pause(run_id, by=by)

        return await self._command(run_id, client, "paused", ACTIVE, ask, by)

    async def resume(
        self,
        run_id: str,
        *,
        client: str | None,
        budget: int | None = None,
        by: str | None = None,
    ) -> RunView:
        """Go on with a paused or blocked run (its version may be fixed by now), or take back a
        pause; `budget`: the new one of a run that has spent its own. Raises `Conflict`."""

        async def ask(run: Document) -> bool:
            over = (run["blocked"] or {}).get("reason") == Reason.BUDGET
            limit = budget if budget is not None else run["budget"]
            if over and limit is not None and limit <= run["spent"]:
                raise Conflict(
                    f"The run has spent {run['spent']} of {limit} tokens: give it a larger budget.",
                    fields={"status": run["status"], "spent": run["spent"]},
                )
            return await self._transitions.resume(run_id, budget=budget, by=by)

        return await self._command(run_id, client, "resumed", GOING_ON, ask, by)

    async def retry(self, run_id: str, *, client: str | None, by: str | None = None) -> RunView:
        """Go on with a failed run from the step that failed; what completed is kept, unless it
        was undone: then nothing is. Where that step was a child run that failed, the child is
        retried first, in the same way. Raises `Conflict` for a run in any other state."""
        statuses = (Status.FAILED, Status.CANCELLED)

        async def ask(run: Document) -> bool:
            return await self._retries.retry(run, by=by)

        return await self._command(run_id, client, "retried", statuses, ask, by)

    async def restart(
        self,
        run_id: str,
        *,
        client: str | None,
        step: str | None = None,
        by: str | None = None,
    ) -> RunView:
        """Run again from `step` on (its key), or from the start; steps begun before it are kept.

        Raises `Conflict` for an active run, `NotFound` for a step that is not on record.
        """
        statuses = (*ENDED, *PARKED)

        async def ask(run: Document) -> bool:
            return await self._retries.restart(run, step, by=by)

        return await self._command(run_id, client, "restarted", statuses, ask, by)

    async def delete(self, run_id: str, *, client: str | None) -> None:
        """Forget an ended run and all it left. Raises `Conflict` while it goes on."""
        run = await self._read(run_id, client)
        ended = {"_id": run_id, "status": {"$in": [one.value for one in ENDED]}}
        ended |= {"epoch": run["epoch"], "owes": []}
        if run["status"] in ENDED and run["owes"] and await self._transitions.doom(run):
            await self._debts.pay_for_deletion(run)
            del ended["owes"]
        # The run first: what a crash leaves of the rest expires by itself.
        gone = await guarded(self._due.collection.delete_one(ended))
        if gone.deleted_count == 0:
            raise _refused(await self._read(run_id, client), "deleted")
        for name in (STEPS, WAITS, CHUNKS):
            await guarded(self._mongo.db[name].delete_many({"run": run_id}))

    async def cancel_all(self, wanted: RunFilter, *, by: str | None = None) -> int:
        """Cancel every run that fits (at most 1,000 a call); how many were."""
        return await self._bulk(wanted, GOING_ON, self.cancel, by)

    async def retry_all(self, wanted: RunFilter, *, by: str | None = None) -> int:
        """Retry every failed run that fits (at most 1,000 a call); how many were."""
        return await self._bulk(wanted, (Status.FAILED,), self.retry, by)

    async def _bulk(
        self,
        wanted: RunFilter,
        statuses: Sequence[Status],
        command: Callable[..., Awaitable[RunView]],
        by: str | None,
    ) -> int:
        fitting = [one for one in statuses if one in wanted.statuses]
        if not fitting:
            said = str(wanted.status).replace("_", " ")
            raise RequestError(f"Runs that are {said} cannot be asked for that.")
        done = 0
        for status in fitting:
            (query,) = lanes({**query_of(wanted), "status": status.value})
            found = self._due.collection.find(query, {"client": 1}).limit(_BULK - done)
            for run in await guarded(found.to_list()):
                try:
                    await command(run["_id"], client=run["client"], by=by)
                except (Conflict, NotFound):
                    continue  # it changed since it was found
                done += 1
            if done >= _BULK:
                break
        return done

    async def _command(
        self,
        run_id: str,
        client: str | None,
        verb: str,
        allowed: Sequence[Status],
        ask: Callable[[Document], Awaitable[bool]],
        by: str | None,
    ) -> RunView:
        run = await self._read(run_id, client)
        done = has_obeyed(run, by) or (run["status"] in allowed and await ask(run))
        if not done:
            found = await self._read(run_id, client)
            if not has_obeyed(found, by):
                raise _refused(found, verb)
        await self._nudger.nudge([run_id])
        return await self.get(run_id, client=client)

    async def _read(self, run_id: str, client: str | None) -> Document:
        run = await guarded(self._due.collection.find_one({"_id": run_id}))
        if run is None or (client is not None and run["client"] != client):
            raise NotFound(f"There is no run {run_id!r}.")
        return run

    async def _find(
        self,
        wanted: RunFilter,
        limit: int,
        cursor: str | None,
        *,
        read: Mapping[str, int] | None = RUNS.read,
    ) -> list[Document]:
        query = query_of(wanted)
        if cursor is not None:
            query["_id"]["$lt"] = _place_of(cursor)
        now = self._clock.now()
        return await newest(self._due.collection, query, limit=limit, now=now, read=read)


def _cursor(run: Document) -> str:
    return base64.urlsafe_b64encode(str(run["_id"]).encode()).decode()


def _place_of(cursor: str) -> str:
    try:
        return base64.urlsafe_b64decode(cursor).decode()
    except ValueError:
        raise RequestError("This cursor is none of ours.") from None


def _refused(run: Document, verb: str) -> Conflict:
    fields: dict[str, Any] = {"status": run["status"]}
    state = run["status"]
    if run["control"] == Control.CANCEL or run["ending"] is not None:
        state = f"{state}, being ended"
        fields["ending"] = True
    if run.get("deleting"):
        state = f"{state}, being deleted"
    return Conflict(f"A run that is {state} cannot be {verb}.", fields=fields)

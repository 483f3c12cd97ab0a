"""Lets runs begin as their workflow's flow control allows; all of it stands on run documents.

A concurrency slot and a start under a rate limit are unique marks (`marks.py`) of the run itself:
no second document that a crash could leave behind.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from pymongo.errors import DuplicateKeyError

from lambent.clock import FAR_FUTURE, Clock
from lambent.due import DueDocuments, Lease
from lambent.engine import marks
from lambent.engine.model import ACTIVE
from lambent.engine.options import Concurrency, RateLimit
from lambent.engine.registry import Registry, Workflow
from lambent.errors import LeaseLost
from lambent.mongo import Document, guarded

_LAST_START: Final = 2**53


class Gates:
    """What a run passes before its code runs. Each answers None: go on; or when to look again."""

    def __init__(self, due: DueDocuments, *, registry: Registry, clock: Clock) -> None:
        self._due = due
        self._registry = registry
        self._clock = clock

    async def ensure_indexes(self) -> None:
        names = [("groups", 1), ("rate_no", 1)]
        await guarded(self._due.collection.create_index(names, sparse=True))

    async def wait_until(self, lease: Lease, run: Document, workflow: Workflow) -> datetime | None:
        """None: the run may begin or go on; else the instant until which it has to be held."""
        flow = workflow.flow
        if flow.rate_limit is not None and run["started_at"] is None and run.get("rate_group"):
            starts_at = await self._start(lease, run, flow.rate_limit)
            if starts_at > self._clock.now():
                return starts_at
        if flow.concurrency is None or run.get("slot_key") or not run.get("slot_group"):
            return None
        return None if await self._slot(lease, run, flow.concurrency) else FAR_FUTURE

    async def _start(self, lease: Lease, run: Document, limit: RateLimit) -> datetime:
        """The start of the window in which this run's number lies.

        A number means something to its own limit and period alone, so each pair of them counts by
        itself. A run that was numbered before they were changed is numbered anew.
        """
        pace = f"{limit.limit}/{float(limit.period_s)}"
        first = int(self._clock.now().timestamp() // limit.period_s) * limit.limit
        while run.get("rate_of") != pace:
            # Its slot's groups stay; that of an earlier pace goes, as the number does.
            groups = [one for one in run.get("groups", ()) if not one.startswith("start")]
            counted = marks.start_group(run["rate_group"], pace)
            number = await self._next_number(counted, first)
            changes = {"rate_no": number, "rate_of": pace, "groups": [*groups, counted]}
            mark = marks.start(run["rate_group"], pace, number)
            update = {"$set": changes, "$push": {"marks": mark}}
            try:
                given = await self._due.write(lease, update, where={"rate_of": run.get("rate_of")})
            except DuplicateKeyError:
                first = number + 1
                continue
            run.update(changes if given else await self._own_number(lease, pace))
        window = int(run["rate_no"]) // limit.limit
        return datetime.fromtimestamp(window * limit.period_s, UTC)

    async def _own_number(self, lease: Lease, pace: str) -> Document:
        """The number that was given to the run, but never acknowledged."""
        mine = {"_id": lease.id, "lease": lease.token}
        shown = {"rate_no": 1, "rate_of": 1, "groups": 1}
        found = await guarded(self._due.collection.find_one(mine, shown))
        if found is None or found.get("rate_of") != pace:
            raise LeaseLost
        return found

    async def _next_number(self, counted: str, at_least: int) -> int:
        query = {
            "groups": counted,
            "rate_no": {"$gte": at_least, "$lte": _LAST_START},
        }
        found = self._due.collection.find(query, {"rate_no": 1}).sort("rate_no", -1).limit(1)
        for last in await guarded(found.to_list()):
            return int(last["rate_no"]) + 1
        return at_least

    async def _slot(self, lease: Lease, run: Document, limit: Concurrency) -> bool:
        group = run["slot_group"]
        if not run.get("slot_wait"):
            # Registered first, tried then: a slot freed between the two is seen by one or the
            # other, never by neither.
            await self._due.write(lease, {"$set": {"slot_wait": group}})
            run["slot_wait"] = group
        held = await self._held(group)
        for number, holder in held.items():
            if holder == lease.id:
                # Taken before, but never acknowledged: a second one would never be given back.
                run["slot_key"] = marks.slot(group, number)
                run.pop("slot_wait", None)
                return True
        for number in _free(held, limit.limit):
            if await self._take(lease, run, marks.slot(group, number)):
                return True
        return False

    async def _held(self, group: str) -> dict[int, str]:
        """The slots of the group that runs hold, and who; also such as a lowered limit lacks."""
        query = {"groups": marks.slot_holders(group)}
        found = await guarded(self._due.collection.find(query, {"slot_key": 1}).to_list())
        return {_number(one["slot_key"]): str(one["_id"]) for one in found if "slot_key" in one}

    async def _take(self, lease: Lease, run: Document, name: str) -> bool:
        update: dict[str, Any] = {
            "$set": {"slot_key": name},
            "$push": {"marks": name},
            "$addToSet": {"groups": marks.slot_holders(run["slot_group"])},
            "$unset": {"slot_wait": ""},
        }
        try:
            taken = await self._due.write(lease, update)
        except DuplicateKeyError:
            return False
        if taken:
            run["slot_key"] = name
            run.pop("slot_wait", None)
        return taken

    async def pass_on(self, run: Document) -> list[str]:
        """Wake the registered waiters of the run's slot group whose turn it is, one for each slot
        that is free: more than one where the limit was raised, or where one that was woken before
        has not come by yet. Answers their ids."""
        return await self._wake(run["workflow"], run["slot_group"], besides=run["_id"])

    async def let_in(self, workflow: str) -> list[str]:
        """The same for every slot group of the workflow in which somebody waits."""
        query = {
            "workflow": workflow,
            "status": {"$in": [one.value for one in ACTIVE]},
            "slot_wait": {"$exists": True},
        }
        found = await guarded(self._due.collection.find(query, {"slot_wait": 1}).to_list())
        woken = list[str]()
        for group in sorted({str(one["slot_wait"]) for one in found}):
            woken.extend(await self._wake(workflow, group))
        return woken

    async def _wake(self, workflow: str, group: str, *, besides: str | None = None) -> list[str]:
        woken = list[str]()
        query = {
            "groups": marks.slot_group(group),
            "slot_wait": group,
            "status": {"$in": [one.value for one in ACTIVE]},
        }
        shown = {"priority": 1, "created_at": 1, "version": 1}
        waiters = await guarded(self._due.collection.find(query, shown).to_list())
        if not waiters:
            return woken
        # Whoever lets a slot go after this look passes it on himself.
        held = await self._held(group)
        waiters.sort(key=lambda one: (one["priority"], one["created_at"], one["_id"]))
        rooms = {one["version"]: self._room(workflow, one["version"], held) for one in waiters}
        for waiter in waiters:
            run_id = str(waiter["_id"])
            if run_id != besides and len(woken) < rooms[waiter["version"]]:
                woken.extend([run_id] if await self._due.wake(run_id) else [])
            if len(woken) >= max(rooms.values()):
                break
        return woken

    def _room(self, name: str, version: int, held: Mapping[int, str]) -> int:
        """How many more slots a run of this version may take; one where its code is not here."""
        workflow = self._registry.get(name, version)
        limit = workflow.flow.concurrency if workflow is not None else None
        return 1 if limit is None else len(_free(held, limit.limit))


def _free(held: Collection[int], limit: int) -> list[int]:
    """The slots that may be taken now.

    Where the limit was lowered, others may be held than the lowest, or more: then only so many of
    the lowest are there as leave the whole within the limit. Two who ask at once are given the
    same ones, and of one slot only one can have it.
    """
    there, beyond = limit, sum(number >= limit for number in held)
    while there > 0 and there + beyond > limit:
        there -= 1
        beyond += there in held
    return [number for number in range(there) if number not in held]


def _number(slot: str) -> int:
    return int(slot.rpartition(":")[2])


def slot_group(workflow: Workflow, client: str, group: str) -> str:
    """The name under which runs share concurrency slots or starts: never across clients."""
    return f"{marks.whose(client)}:{workflow.name}:{group}"

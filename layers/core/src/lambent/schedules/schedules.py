"""What a client does with its schedules: create, list, change, pause, resume, delete."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Protocol

from pymongo.errors import DuplicateKeyError

from lambent.clock import Clock
from lambent.due import Database, DueDocuments, new_due_fields
from lambent.errors import Conflict, NotFound, Unprocessable
from lambent.ids import new_ulid
from lambent.mongo import Document, guarded, oldest_first
from lambent.schedules import transitions
from lambent.schedules.cron import Cron
from lambent.schedules.ticker import CatchUp
from lambent.schedules.transitions import SCHEDULES, ScheduleStatus
from lambent.tracing import carried

MAX_CATCH_UP: Final = 1000
MAX_PREVIEW: Final = 20


class Bell(Protocol):
    """`lambent.poller.generation.PollerBell` is one: it wakes a poller for what is due soon."""

    async def ring(self, due_at: datetime) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a schedule does and when. `input` is a JSON value; `catch_up_limit` is for ALL."""

    name: str
    cron: str
    workflow: str
    timezone: str = "UTC"
    version: int | None = None
    input: Any = None
    catch_up: CatchUp = CatchUp.LAST
    catch_up_limit: int = 100


class Schedules:
    """The schedules. `client=None` is an admin, who reaches all."""

    def __init__(self, mongo: Database, *, clock: Clock, bell: Bell | None = None) -> None:
        self._clock = clock
        self._bell = bell
        self._schedules = DueDocuments(mongo, SCHEDULES, clock=clock)

    async def ensure_indexes(self) -> None:
        """For setup."""
        await self._schedules.ensure_indexes()
        name = [("client", 1), ("name", 1)]
        await guarded(self._schedules.collection.create_index(name, unique=True))
        await guarded(self._schedules.collection.create_index([("client", 1), ("_id", 1)]))

    async def create(self, client: str, plan: Plan) -> Document:
        """Raises `Unprocessable`; `Conflict` where the client has one of that name."""
        now = self._clock.now()
        tick_at = _checked(plan).next_after(now)
        document: Document = {
            "_id": new_ulid(self._clock),
            "client": client,
            **_stored(plan),
            "status": ScheduleStatus.ACTIVE,
            "tick_at": tick_at,
            "last_tick_at": None,
            "last_run": None,
            "problem": None,
            "trace": carried(),
            "created_at": now,
            "updated_at": now,
            **new_due_fields(tick_at),
        }
        try:
            await guarded(self._schedules.collection.insert_one(document))
        except DuplicateKeyError:
            raise Conflict(f"There is a schedule {plan.name!r} already.") from None
        await self._ring(tick_at)
        return document

    async def get(self, schedule_id: str, *, client: str | None) -> Document:
        """Raises `NotFound`."""
        query = {"_id": schedule_id, **_scope(client)}
        found = await guarded(self._schedules.collection.find_one(query))
        if found is None:
            raise NotFound(f"There is no schedule {schedule_id}.")
        return found

    async def all_of(
        self, client: str | None, *, limit: int = 50, after: str | None = None
    ) -> list[Document]:
        """The oldest first; `after` is the `_id` of the last one of the page before."""
        query = _scope(client)
        return await oldest_first(self._schedules.collection, query, limit=limit, after=after)

    async def change(self, schedule_id: str, plan: Plan, *, client: str | None) -> Document:
        """Put another plan in its place, under its old name; its next tick is counted from now."""
        seen = await self.get(schedule_id, client=client)
        plan = replace(plan, name=seen["name"])
        tick_at = _checked(plan).next_after(self._clock.now())
        paused = seen["status"] == ScheduleStatus.PAUSED
        return await self._change(seen, _stored(plan), None if paused else tick_at)

    async def pause(
        self, schedule_id: str, *, client: str | None, by: Mapping[str, str] | None = None
    ) -> Document:
        """Raises `Conflict` where it is paused already. `by`: who asks, for the record."""
        seen = await self._in_status(schedule_id, ScheduleStatus.ACTIVE, client)
        paused = {"status": ScheduleStatus.PAUSED, "paused_at": self._clock.now(), "paused_by": by}
        return await self._change(seen, paused, None)

    async def resume(self, schedule_id: str, *, client: str | None) -> Document:
        """Go on with the next tick from now; what passed in between is not caught up."""
        seen = await self._in_status(schedule_id, ScheduleStatus.PAUSED, client)
        tick_at = Cron(seen["cron"], seen["timezone"]).next_after(self._clock.now())
        active = {"status": ScheduleStatus.ACTIVE, "paused_at": None, "paused_by": None}
        return await self._change(seen, active, tick_at)

    async def delete(self, schedule_id: str, *, client: str | None) -> None:
        """Raises `NotFound`. Runs that it started go on."""
        query = {"_id": schedule_id, **_scope(client)}
        answer = await guarded(self._schedules.collection.delete_one(query))
        if answer.deleted_count == 0:
            raise NotFound(f"There is no schedule {schedule_id}.")

    async def _in_status(
        self, schedule_id: str, status: ScheduleStatus, client: str | None
    ) -> Document:
        seen = await self.get(schedule_id, client=client)
        if seen["status"] != status:
            fields = {"status": seen["status"]}
            raise Conflict(f"The schedule is {seen['status']}.", fields=fields)
        return seen

    async def _change(
        self, seen: Document, changes: dict[str, Any], tick_at: datetime | None
    ) -> Document:
        changed = await transitions.change(
            self._schedules,
            seen["_id"],
            seen_signals=seen["signals"],
            changes={
                **changes,
                "updated_at": self._clock.now(),
                "problem": None,
                "trace": carried(),
            },
            tick_at=tick_at,
        )
        if not changed:
            raise Conflict("The schedule was changed by someone else just now.")
        if tick_at is not None:
            await self._ring(tick_at)
        return await self.get(seen["_id"], client=None)

    async def _ring(self, tick_at: datetime) -> None:
        """A first tick within the minute must find a poller awake."""
        if self._bell is not None:
            await self._bell.ring(tick_at)


def preview(cron: str, timezone: str, *, after: datetime, count: int = 5) -> list[datetime]:
    """The next ticks of an expression. Raises `Unprocessable`."""
    checked = Cron(cron, timezone)
    ticks: list[datetime] = []
    for _ in range(min(count, MAX_PREVIEW)):
        after = checked.next_after(after)
        ticks.append(after)
    return ticks


def _checked(plan: Plan) -> Cron:
    if not 1 <= plan.catch_up_limit <= MAX_CATCH_UP:
        problem = {"field": "catch_up_limit", "message": f"must be from 1 to {MAX_CATCH_UP}"}
        raise Unprocessable("The schedule's catch_up_limit is wrong.", fields={"errors": [problem]})
    return Cron(plan.cron, plan.timezone)


def _stored(plan: Plan) -> dict[str, Any]:
    return {
        "name": plan.name,
        "cron": plan.cron,
        "timezone": plan.timezone,
        "workflow": plan.workflow,
        "version": plan.version,
        # As text: field names that MongoDB would take for its own are none of our business.
        "input": json.dumps(plan.input),
        "catch_up": plan.catch_up,
        "catch_up_limit": plan.catch_up_limit,
    }


def _scope(client: str | None) -> dict[str, Any]:
    return {} if client is None else {"client": client}

"""Schedules over HTTP: create, list, change, pause, resume, delete, preview."""

# No postponed annotations here: FastAPI has to see the dependencies made inside the function.

import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from lambent.admission.decisions import Scope
from lambent.clock import Clock
from lambent.engine.views import RunView
from lambent.http.audited import note_audit
from lambent.http.bodies import finite
from lambent.http.reach import Authorize, Reach, changing, reading
from lambent.mongo import Document
from lambent.schedules.schedules import MAX_CATCH_UP, MAX_PREVIEW, Plan, Schedules, preview
from lambent.schedules.ticker import CatchUp
from lambent.schedules.transitions import ScheduleStatus

Runs = Callable[[Sequence[str], str | None], Awaitable[list[RunView]]]
_CRON = Field(
    max_length=200,
    description="Five fields, or six with seconds first; `@daily` and its kin.",
    examples=["0 7 * * mon-fri"],
)
_ZONE = Field(default="UTC", max_length=64, examples=["Europe/Berlin"])


_PLAN: JsonDict = {
    "cron": "0 7 * * mon-fri",
    "timezone": "Europe/Berlin",
    "workflow": "news.digest",
    "input": {"articles": 3},
}


class PlanRequest(BaseModel):
    """Which workflow to start, and when."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_PLAN]})

    cron: str = _CRON
    timezone: str = _ZONE
    workflow: str = Field(min_length=1, max_length=100, examples=["news.digest"])
    version: int | None = Field(default=None, ge=1, description="None: the newest at each tick.")
    input: Annotated[Any, AfterValidator(finite)] = Field(default=None, examples=[{"articles": 3}])
    catch_up: CatchUp = Field(
        default=CatchUp.LAST, description="What becomes of ticks missed while nothing could run."
    )
    catch_up_limit: int = Field(default=100, ge=1, le=MAX_CATCH_UP)


class ScheduleRequest(PlanRequest):
    """A schedule to make."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "morning-news", **_PLAN}]})

    name: str = Field(min_length=1, max_length=100, examples=["morning-news"])


class ScheduleView(BaseModel):
    """A schedule and where it stands."""

    id: str
    client: str
    name: str
    cron: str
    timezone: str
    workflow: str
    version: int | None
    input: Any
    catch_up: CatchUp
    catch_up_limit: int
    status: ScheduleStatus
    next_at: datetime | None = Field(description="The next tick; null while paused.")
    last_tick_at: datetime | None
    last_run: str | None
    problem: str | None = Field(description="Why the last tick could not start its run.")
    paused_at: datetime | None
    paused_by: str | None = Field(
        description="The name of the key; null where it is not on record.",
        examples=["ada's laptop"],
    )
    created_at: datetime
    updated_at: datetime


class ScheduleList(BaseModel):
    """A page, oldest first."""

    schedules: list[ScheduleView]
    cursor: str | None = Field(description="Ask with it for the next page; null on the last.")


class ScheduleRuns(BaseModel):
    """The newest first, ten at most."""

    runs: list[RunView]


class Preview(BaseModel):
    ticks: list[datetime]


def schedules_router(
    schedules: Schedules,
    clock: Clock,
    authorize: Authorize,
    *,
    check_input: Callable[[str, int | None, Any], None],
    runs: Runs,
) -> APIRouter:
    """`/schedules`; needs the scope `runs`. `check_input` raises where a workflow, of a version or
    the newest, declares another input; `runs` reads those of these ids that a client may see."""
    router = APIRouter(prefix="/schedules", tags=["schedules"])
    reader = Annotated[Reach, Depends(reading(authorize, Scope.RUNS))]
    writer = Annotated[Reach, Depends(changing(authorize, Scope.RUNS))]

    @router.post("", status_code=201)
    async def create_schedule(
        request: Request, body: ScheduleRequest, reach: writer
    ) -> ScheduleView:
        """Make a schedule. Its name is unique among the client's. An input that does not fit the
        schema of a deployed workflow is 422."""
        check_input(body.workflow, body.version, body.input)
        made = _view(await schedules.create(reach.own, Plan(**body.model_dump())), reach)
        note_audit(request, target=made.id)
        return made

    @router.get("")
    async def list_schedules(
        reach: reader,
        cursor: Annotated[str | None, Query(max_length=64)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> ScheduleList:
        """List schedules, the oldest first."""
        found = await schedules.all_of(reach.client, limit=limit, after=cursor)
        last = found[-1]["_id"] if len(found) == limit else None
        return ScheduleList(schedules=[_view(one, reach) for one in found], cursor=last)

    @router.get("/preview")
    async def preview_schedule(
        _: reader,
        cron: Annotated[str, Query(max_length=200)],
        timezone: Annotated[str, Query(max_length=64)] = "UTC",
        count: Annotated[int, Query(ge=1, le=MAX_PREVIEW)] = 5,
    ) -> Preview:
        """When an expression would tick, from now on."""
        return Preview(ticks=preview(cron, timezone, after=clock.now(), count=count))

    @router.get("/{schedule_id}")
    async def get_schedule(schedule_id: str, reach: reader) -> ScheduleView:
        """One schedule."""
        return _view(await schedules.get(schedule_id, client=reach.client), reach)

    @router.get("/{schedule_id}/runs")
    async def list_schedule_runs(schedule_id: str, reach: reader) -> ScheduleRuns:
        """The latest runs that it started, as far as they are kept."""
        found = await schedules.get(schedule_id, client=reach.client)
        started = found.get("recent") or [one for one in [found["last_run"]] if one]
        return ScheduleRuns(runs=await runs(started[::-1], reach.client))

    @router.put("/{schedule_id}")
    async def change_schedule(schedule_id: str, body: PlanRequest, reach: writer) -> ScheduleView:
        """Put another plan in its place; its ticks are counted from now."""
        check_input(body.workflow, body.version, body.input)
        plan = Plan(name="", **body.model_dump())
        return _view(await schedules.change(schedule_id, plan, client=reach.client), reach)

    @router.post("/{schedule_id}/pause")
    async def pause_schedule(schedule_id: str, reach: writer) -> ScheduleView:
        """No ticks until it is resumed; 409 where it is paused already."""
        by = reach.signature
        return _view(await schedules.pause(schedule_id, client=reach.client, by=by), reach)

    @router.post("/{schedule_id}/resume")
    async def resume_schedule(schedule_id: str, reach: writer) -> ScheduleView:
        """Tick again, from now on."""
        return _view(await schedules.resume(schedule_id, client=reach.client), reach)

    @router.delete("/{schedule_id}", status_code=204)
    async def delete_schedule(schedule_id: str, reach: writer) -> None:
        """Delete it; runs that it started go on."""
        await schedules.delete(schedule_id, client=reach.client)

    return router


def _view(document: Document, reach: Reach) -> ScheduleView:
    named = {name: document.get(name) for name in ScheduleView.model_fields}
    named |= {"id": document["_id"], "next_at": document["tick_at"]}
    named["paused_by"] = reach.named(document.get("paused_by"))
    return ScheduleView(**{**named, "input": json.loads(document["input"])})

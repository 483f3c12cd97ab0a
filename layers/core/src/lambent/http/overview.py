"""The state of the whole platform over HTTP: runs by state, what is due, throughput."""

# No postponed annotations here: FastAPI has to see the dependencies made inside the function.

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from lambent.admission.activity import ActivityReports
from lambent.admission.decisions import Principal, Scope
from lambent.clock import Clock
from lambent.engine.census import Census
from lambent.engine.control import RunControl, RunFilter
from lambent.engine.model import ENDED, Status

MOST: Final = 1000


class CountView(BaseModel):
    """How many; `more`: counting stopped there."""

    count: int = Field(examples=[12])
    more: bool


class Overview(BaseModel):
    """Counts of what goes on are exact up to 1,000; of what has ended, of the last day."""

    runs: dict[Status, CountView]
    oldest_due_at: datetime | None = Field(
        description="Since when the longest waiting run is due; null where none is."
    )
    oldest_due_run: str | None = Field(description="Which run that is.")
    due_lag_s: float
    slots: int = Field(description="Generations at once on one host.")


class HourView(BaseModel):
    at: datetime
    completed: int
    failed: int


class ActiveHour(BaseModel):
    """What happened at the gate in one hour. Refusals are of callers, not of runs' steps."""

    at: datetime
    chats: int = Field(description="Turns that were answered, as far as they came.", examples=[40])
    tokens: int = Field(description="Of these turns.", examples=[9120])
    first_tokens: int = Field(description="Turns that had a first token.", examples=[39])
    first_mean_s: float | None = Field(description="Time to the first token.", examples=[0.31])
    first_half_s: float | None = Field(
        description="Half of them came within it (to the width of a histogram's bar).",
        examples=[0.28],
    )
    first_most_s: float | None = Field(
        description="95 of 100 came within it, likewise.", examples=[0.92]
    )
    slowest_s: float | None = Field(examples=[1.4])
    over_limit: int = Field(description="429: the client's limit.", examples=[3])
    over_budget: int = Field(description="429: a hard budget.", examples=[0])
    no_slot: int = Field(description="503: no slot in time.", examples=[1])
    breaker_open: int = Field(description="503: the breaker was open.", examples=[0])


class RefusedView(BaseModel):
    """A client that met limits."""

    client: str = Field(examples=["acme"])
    over_limit: int = Field(examples=[3])
    over_budget: int = Field(examples=[0])
    no_slot: int = Field(examples=[1])
    breaker_open: int = Field(examples=[0])


class Activity(BaseModel):
    """By hour, oldest first; and the five clients that met limits most often in that time.

    What an environment has counted is told within seconds of an answer of it.
    """

    hours: list[ActiveHour]
    total: ActiveHour = Field(description="All of these hours; `at` is the first.")
    refused: list[RefusedView]


class Throughput(BaseModel):
    """Ended runs by the hour in which they were made, oldest first. Of each kind the newest are
    counted, 2,000 for each of these hours."""

    hours: list[HourView]


def overview_router(
    control: RunControl,
    census: Census,
    *,
    activity: ActivityReports,
    clock: Clock,
    slots: int,
    authorize: Callable[[Scope], Callable[..., Any]],
) -> APIRouter:
    """`/overview`; needs `admin:read`."""
    router = APIRouter(tags=["overview"])
    reader = Annotated[Principal, Depends(authorize(Scope.ADMIN_READ))]

    async def count(status: Status) -> CountView:
        # What has ended stays for a month: only the last day of it says something.
        since = clock.now() - timedelta(days=1) if status in ENDED else None
        wanted = RunFilter(client=None, status=status, created_from=since)
        found = await control.count(wanted, most=MOST)
        return CountView(count=found, more=found >= MOST)

    @router.get("/overview")
    async def get_overview(_: reader) -> Overview:
        """What runs and what waits, in a few counts by index."""
        counts = await asyncio.gather(*(count(status) for status in Status))
        oldest = await control.oldest_due()
        lag_s = (clock.now() - oldest[1]).total_seconds() if oldest is not None else 0.0
        return Overview(
            runs=dict(zip(Status, counts, strict=True)),
            oldest_due_at=oldest[1] if oldest is not None else None,
            oldest_due_run=oldest[0] if oldest is not None else None,
            due_lag_s=max(0.0, lag_s),
            slots=slots,
        )

    @router.get("/overview/throughput")
    async def get_throughput(
        _: reader, hours: Annotated[int, Query(ge=1, le=48)] = 24
    ) -> Throughput:
        """Completed and failed runs, hour by hour."""
        last = clock.now().replace(minute=0, second=0, microsecond=0)
        since = last - timedelta(hours=hours - 1)
        completed, failed = await asyncio.gather(
            *(census.by_hour(one, since, hours) for one in (Status.COMPLETED, Status.FAILED))
        )
        return Throughput(
            hours=[
                HourView(at=since + timedelta(hours=place), completed=one, failed=other)
                for place, (one, other) in enumerate(zip(completed, failed, strict=True))
            ]
        )

    @router.get("/overview/activity")
    async def get_activity(_: reader, hours: Annotated[int, Query(ge=1, le=720)] = 24) -> Activity:
        """Chats, their first tokens, and limits that were met, hour by hour."""
        found, total = await activity.hours(hours)
        refused = await activity.refused(hours)
        return Activity(
            hours=[ActiveHour(**asdict(one)) for one in found],
            total=ActiveHour(**asdict(total)),
            refused=[RefusedView(**asdict(one)) for one in refused],
        )

    return router

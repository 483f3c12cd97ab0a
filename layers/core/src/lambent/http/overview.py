"""The state of the whole platform over HTTP: runs by state, what is due, throughput."""

# No postponed annotations here: FastAPI has to see the dependencies made inside the function.

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from lambent.admission.activity import ActivityReports
from lambent.admission.decisions import Principal, Scope
from lambent.bus.transitions import DELIVERIES, EVENTS
from lambent.clock import Clock
from lambent.engine.census import Census, shown_since
from lambent.engine.control import RunControl
from lambent.engine.listing import RunFilter
from lambent.engine.model import RUNS, Status
from lambent.poller.backlog import Backlog, Late
from lambent.schedules.transitions import SCHEDULES

MOST: Final = 1000


class CountView(BaseModel):
    """How many; `more`: counting stopped there."""

    count: int = Field(examples=[12])
    more: bool


class LateKind(StrEnum):
    """What may be late, as it is called here."""

    RUN = "run"
    EVENT = "event"
    DELIVERY = "delivery"
    SCHEDULE = "schedule"


_KINDS: Final = {
    RUNS.collection: LateKind.RUN,
    EVENTS.collection: LateKind.EVENT,
    DELIVERIES.collection: LateKind.DELIVERY,
    SCHEDULES.collection: LateKind.SCHEDULE,
}


class LateView(BaseModel):
    """The one of its kind that has been due longest, with nobody at work on it."""

    kind: LateKind
    id: str = Field(examples=["01KB5T3RZ0W8K9M2N4P6Q8S0VX"])
    due_at: datetime
    lag_s: float = Field(description="For so long, in seconds.", examples=[0.2])


class DeadLettersView(BaseModel):
    """Deliveries to one webhook that were given up."""

    webhook: str = Field(examples=["01KB5T3RZ0W8K9M2N4P6Q8S0VX"])
    url: str = Field(examples=["https://example.com/hooks"])
    count: int = Field(examples=[3])


class Overview(BaseModel):
    """Counts of what goes on are exact up to 1,000; of what has ended, of the last day."""

    runs: dict[Status, CountView]
    late: list[LateView] = Field(
        description="What is due and in nobody's hands: the oldest of each kind, oldest first."
    )
    due_lag_s: float = Field(description="Of the first of these.", examples=[0.2])
    poller_awake: bool = Field(description="On an idle platform it is not.")
    dead_events: CountView = Field(description="Events whose delivery was given up.")
    dead_letters: list[DeadLettersView] = Field(
        description="By webhook, the most first; of all, a thousand are counted."
    )
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
    backlog: Backlog,
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
        since = shown_since(status, clock.now())
        wanted = RunFilter(client=None, status=status, created_from=since)
        found = await control.count(wanted, most=MOST)
        return CountView(count=found, more=found >= MOST)

    @router.get("/overview")
    async def get_overview(_: reader) -> Overview:
        """What runs and what waits, in a few counts by index."""
        counts, late, awake, dead, letters = await asyncio.gather(
            asyncio.gather(*(count(status) for status in Status)),
            backlog.late(),
            backlog.poller_awake(),
            backlog.dead_events(most=MOST),
            backlog.dead_letters(most=MOST),
        )
        now = clock.now()
        views = [_late_view(one, now) for one in late]
        return Overview(
            runs=dict(zip(Status, counts, strict=True)),
            late=views,
            due_lag_s=views[0].lag_s if views else 0.0,
            poller_awake=awake,
            dead_events=CountView(count=dead, more=dead >= MOST),
            dead_letters=[DeadLettersView(**asdict(one)) for one in letters],
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


def _late_view(late: Late, now: datetime) -> LateView:
    lag_s = max(0.0, (now - late.due_at).total_seconds())
    return LateView(kind=_KINDS[late.kind.collection], id=late.id, due_at=late.due_at, lag_s=lag_s)

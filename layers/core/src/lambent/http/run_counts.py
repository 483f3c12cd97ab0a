"""How many runs a filter finds in each state, over HTTP."""

# No postponed annotations here: FastAPI has to see the dependencies made inside the function.

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from lambent.admission.decisions import Scope
from lambent.engine.census import Census
from lambent.engine.model import Status
from lambent.http.reach import Authorize, Reach, reading
from lambent.http.run_query import FilterQuery


class RunCount(BaseModel):
    """How many; `more`: at least so many, for counting stopped there."""

    count: int = Field(examples=[12])
    more: bool


class RunCounts(BaseModel):
    """By state, up to 1,000 each. Of one client's runs, or one parent's, the newest thousand are
    looked at."""

    counts: dict[Status, RunCount]


def add_counts(router: APIRouter, census: Census, authorize: Authorize) -> None:
    """`GET /runs/counts`; before the routes of a run, whose id it might be taken for."""
    reader = Annotated[Reach, Depends(reading(authorize, Scope.RUNS))]

    @router.get("/runs/counts")
    async def count_runs_by_status(
        reach: reader, asked: Annotated[FilterQuery, Query()]
    ) -> RunCounts:
        """How many runs fit, by state. `/runs/counts/events`, on the chat function, streams it."""
        found = await census.by_status(asked.filter(reach.client))
        counts = {one: RunCount(count=n.count, more=n.more) for one, n in found.items()}
        return RunCounts(counts=counts)

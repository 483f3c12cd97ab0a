"""How many runs a filter finds in each state, over HTTP."""

# No postponed annotations here: FastAPI has to see the dependencies made inside the function.

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime, BaseModel, Field

from lambent.admission.decisions import Scope
from lambent.engine.census import Census
from lambent.engine.listing import RunFilter
from lambent.engine.model import Status
from lambent.http.reach import Authorize, Reach, reading


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
        reach: reader,
        workflow: Annotated[str | None, Query(max_length=100)] = None,
        version: Annotated[int | None, Query(ge=1, description="Of the workflow.")] = None,
        client: Annotated[str | None, Query(max_length=100)] = None,
        parent: Annotated[str | None, Query(max_length=64)] = None,
        created_from: AwareDatetime | None = None,
        created_to: AwareDatetime | None = None,
    ) -> RunCounts:
        """How many runs fit, by state. `/runs/counts/events`, on the chat function, streams it."""
        wanted = RunFilter(
            client=reach.client or client,
            workflow=workflow,
            version=version,
            parent=parent,
            created_from=created_from,
            created_to=created_to,
        )
        found = await census.by_status(wanted)
        counts = {one: RunCount(count=n.count, more=n.more) for one, n in found.items()}
        return RunCounts(counts=counts)

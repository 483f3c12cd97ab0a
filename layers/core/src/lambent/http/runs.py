"""Runs and workflows over HTTP: start, read, list, and every command that a run understands."""

# No postponed annotations here: FastAPI has to see the dependencies made inside the function.

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.config import JsonDict

from lambent.admission.decisions import Principal, Scope
from lambent.chat.idempotency import IdempotencyKeys
from lambent.engine.census import Census
from lambent.engine.engine import WorkflowEngine
from lambent.engine.model import Level
from lambent.engine.registry import Workflow
from lambent.engine.views import LineView, RunView, SliceView, StepView
from lambent.errors import Conflict, Unprocessable
from lambent.http.audited import note_audit
from lambent.http.bodies import finite
from lambent.http.key_header import checked_key
from lambent.http.reach import Authorize, Reach, changing, reading
from lambent.http.run_commands import add_commands
from lambent.http.run_counts import add_counts
from lambent.http.run_query import ListQuery

_EXAMPLE: JsonDict = {
    "workflow": "news.digest",
    "input": {"articles": 3},
    "key": "digest-2026-03-01",
}


_HISTORY: JsonDict = {
    "slices": [
        {
            "started_at": "2026-03-01T07:00:00Z",
            "ended_at": "2026-03-01T07:00:01Z",
            "end": "suspended",
            "invocation": "5d0f5ef8-2b4c-4f7e-9c5c-0f2b6c3f3a11",
            "epoch": 0,
        }
    ],
    "log": [
        {
            "at": "2026-03-01T07:00:01Z",
            "level": "info",
            "text": "The digest is sent.",
            "step": "announce",  # nulls of an example do not come through FastAPI
            "fields": {"articles": "5"},
        }
    ],
    "pace": ["2026-03-01T07:00:01Z"],
}


class RunRequest(BaseModel):
    """A run to start."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLE]})

    workflow: str = Field(min_length=1, max_length=100)
    input: Annotated[Any, AfterValidator(finite)] = None
    key: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="Makes the start idempotent: the same key and input answer the first run; "
        "another input under the key is 409.",
    )
    version: int | None = Field(default=None, ge=1, description="None: the newest deployed.")
    priority: Level | None = Field(default=None, description="0 high, 1 normal, 2 low.")
    budget: int | None = Field(default=None, ge=1, description="Model tokens it may spend.")


class RunList(BaseModel):
    """A page, newest first."""

    runs: list[RunView]
    cursor: str | None = Field(description="Ask with it for the next page; null on the last.")


class StepList(BaseModel):
    """What is on record, in the order in which it was begun, page by page."""

    steps: list[StepView]
    cursor: str | None = Field(description="Ask with it for the next page; null on the last.")
    before: str | None = Field(
        description="Ask with it, as `before`, for the page before; null on the first."
    )
    first: int = Field(description="The place of the first one of this page.", examples=[1])
    total: int = Field(
        description="How many are on record; of more than 1,000, as of the run's last settle.",
        examples=[12],
    )


class HistoryView(BaseModel):
    """How the platform dealt with a run."""

    model_config = ConfigDict(json_schema_extra={"examples": [_HISTORY]})

    slices: list[SliceView] = Field(description="The last 50, oldest first.")
    log: list[LineView] = Field(
        description="What the code said after its last step; the rest is with the steps."
    )
    pace: list[AwareDatetime] = Field(
        description="When each of some 60 of its records, spread evenly over all, was done."
    )


class WorkflowView(BaseModel):
    """One version of a workflow that this deployment can run."""

    name: str
    version: int
    on: list[str] = Field(description="The event types that start it.")
    priority: Level
    description: str
    internal: bool = Field(description="Only the platform itself starts it.")
    input_schema: dict[str, Any] | None = Field(
        description="What the input looks like (JSON Schema), where the workflow says so."
    )


class WorkflowList(BaseModel):
    workflows: list[WorkflowView]


def runs_router(
    engine: WorkflowEngine, authorize: Authorize, *, keys: IdempotencyKeys
) -> APIRouter:
    """`/runs` and `/workflows`; needs the scope `runs`."""
    router = APIRouter(tags=["runs"])
    add_counts(router, Census(engine.store.due, clock=engine.store.clock), authorize)
    _add_reading(router, engine, authorize)
    _add_starting(router, engine, authorize)
    add_commands(router, engine, authorize, keys=keys)
    return router


def _add_starting(router: APIRouter, engine: WorkflowEngine, authorize: Authorize) -> None:
    writer = Annotated[Reach, Depends(changing(authorize, Scope.RUNS))]

    @router.post("/runs", status_code=202)
    async def start_run(
        request: Request,
        body: RunRequest,
        reach: writer,
        response: Response,
        idempotency_key: Annotated[
            str | None,
            Header(
                description="The same as `key`, but another input under it is 422, as it is "
                "on every route that takes the header."
            ),
        ] = None,
    ) -> RunView:
        """Start a run, or find the one that the key started before. An input that does not fit
        the workflow's `input_schema` is 422, with each field in `errors`."""
        try:
            started = await engine.start(
                body.workflow,
                body.input,
                client=reach.own,
                key=_key_of(body, idempotency_key),
                version=body.version,
                priority=body.priority,
                budget=body.budget,
                checked=True,
            )
        except Conflict as error:
            if idempotency_key is None:
                raise
            raise Unprocessable(error.detail, fields=error.fields) from None
        run_id = started.run["_id"]
        note_audit(request, target=run_id)
        response.headers["location"] = f"/runs/{run_id}"
        return await engine.control.get(run_id, client=reach.own)


def _add_reading(router: APIRouter, engine: WorkflowEngine, authorize: Authorize) -> None:
    reader = Annotated[Reach, Depends(reading(authorize, Scope.RUNS))]
    operator = Annotated[Principal, Depends(authorize(Scope.ADMIN_READ))]

    @router.get("/workflows")
    async def list_workflows(_: reader) -> WorkflowList:
        """What this deployment can run, every version of it."""
        return WorkflowList(workflows=[_workflow(one) for one in engine.workflows.all()])

    @router.get("/runs")
    async def list_runs(reach: reader, asked: Annotated[ListQuery, Query()]) -> RunList:
        """List runs, the newest first; `client` is for admins."""
        wanted = asked.filter(reach.client)
        page = await engine.control.list_runs(wanted, limit=asked.limit, cursor=asked.cursor)
        return RunList(runs=page.runs, cursor=page.cursor)

    @router.get("/runs/{run_id}")
    async def get_run(run_id: str, reach: reader) -> RunView:
        """One run, with what it waits for."""
        return await engine.control.get(run_id, client=reach.client)

    @router.get("/runs/{run_id}/steps")
    async def list_steps(
        run_id: str,
        reach: reader,
        cursor: Annotated[str | None, Query(max_length=100)] = None,
        before: Annotated[str | None, Query(max_length=100)] = None,
        newest: Annotated[bool, Query(description="The last page.")] = False,
        around: Annotated[
            str | None, Query(max_length=1000, description="The page around this step's key.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=5000)] = 1000,
    ) -> StepList:
        """The steps of a run; the output of redacted ones is shown to nobody. Tracebacks and log
        lines are shown to admins."""
        page = await engine.records.page(
            run_id,
            client=reach.client,
            limit=limit,
            cursor=cursor,
            before=before,
            newest=newest,
            around=around,
        )
        return StepList(
            steps=page.steps,
            cursor=page.cursor,
            before=page.before,
            first=page.first,
            total=page.total,
        )

    @router.get("/runs/{run_id}/history")
    async def get_history(run_id: str, _: operator) -> HistoryView:
        """Which invocations had the run, how each ended (also by a crash), and what its code
        said last. Needs `admin:read`."""
        found = await engine.records.history(run_id)
        return HistoryView(slices=list(found.slices), log=list(found.log), pace=list(found.pace))


def _key_of(body: RunRequest, header: str | None) -> str | None:
    if header is None:
        return body.key
    if body.key not in (None, checked_key(header)):
        raise Unprocessable("The Idempotency-Key and the body's key are two different ones.")
    return header


def _workflow(one: Workflow) -> WorkflowView:
    return WorkflowView(
        name=one.name,
        version=one.version,
        on=list(one.on),
        priority=one.priority,
        internal=one.internal,
        description=(one.fn.__doc__ or "").strip().partition("\n")[0],
        input_schema=None if one.input is None else TypeAdapter(one.input).json_schema(),
    )

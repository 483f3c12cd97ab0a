"""Runs and workflows over HTTP: start, read, list, and every command that a run understands."""

# No postponed annotations here: FastAPI has to see the dependencies made inside the function.

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.config import JsonDict

from lambent.admission.decisions import Principal, Scope
from lambent.engine.engine import WorkflowEngine
from lambent.engine.listing import RunFilter, StatusAsked
from lambent.engine.model import Level
from lambent.engine.registry import Workflow
from lambent.engine.views import LineView, RunView, SliceView, StepView
from lambent.errors import Conflict, RequestError, Unprocessable
from lambent.http.audited import note_audit
from lambent.http.bodies import finite
from lambent.http.key_header import checked_key
from lambent.http.reach import Authorize, Reach, changing, reading

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

_GOING_ON = "`going_on`: pending, running, waiting, paused or blocked."


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


class ResumeRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"budget": 200000}]})

    budget: int | None = Field(default=None, ge=1, description="The new budget of the run.")


class RestartRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"step": "fetch"}]})

    step: str | None = Field(
        default=None, max_length=1000, description="The step's key; none: from the start."
    )


class BulkRequest(BaseModel):
    """Which runs, at most 1,000 a call. At least one condition is asked for."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "workflow": "news.digest",
                    "created_from": "2026-03-01T00:00:00Z",
                }
            ]
        },
    )

    status: StatusAsked | None = Field(default=None, description=_GOING_ON)
    workflow: str | None = Field(default=None, max_length=100)
    version: int | None = Field(default=None, ge=1, description="Of the workflow.")
    created_from: AwareDatetime | None = None
    created_to: AwareDatetime | None = None


class BulkAnswer(BaseModel):
    count: int = Field(description="How many runs obeyed. Ask again until it is 0.")


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


def runs_router(engine: WorkflowEngine, authorize: Authorize) -> APIRouter:
    """`/runs` and `/workflows`; needs the scope `runs`."""
    router = APIRouter(tags=["runs"])
    _add_reading(router, engine, authorize)
    _add_starting(router, engine, authorize)
    _add_commands(router, engine, authorize)
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

    @router.post("/runs/cancel")
    async def cancel_runs(request: Request, body: BulkRequest, reach: writer) -> BulkAnswer:
        """Cancel every run that fits."""
        return await _all(request, body, reach, engine.control.cancel_all)

    @router.post("/runs/retry")
    async def retry_runs(request: Request, body: BulkRequest, reach: writer) -> BulkAnswer:
        """Retry every failed run that fits."""
        return await _all(request, body, reach, engine.control.retry_all)


def _add_reading(router: APIRouter, engine: WorkflowEngine, authorize: Authorize) -> None:
    reader = Annotated[Reach, Depends(reading(authorize, Scope.RUNS))]
    operator = Annotated[Principal, Depends(authorize(Scope.ADMIN_READ))]

    @router.get("/workflows")
    async def list_workflows(_: reader) -> WorkflowList:
        """What this deployment can run, every version of it."""
        return WorkflowList(workflows=[_workflow(one) for one in engine.workflows.all()])

    @router.get("/runs")
    async def list_runs(
        reach: reader,
        status: Annotated[StatusAsked | None, Query(description=_GOING_ON)] = None,
        workflow: Annotated[str | None, Query(max_length=100)] = None,
        version: Annotated[int | None, Query(ge=1, description="Of the workflow.")] = None,
        client: Annotated[str | None, Query(max_length=100)] = None,
        parent: Annotated[str | None, Query(max_length=64)] = None,
        created_from: AwareDatetime | None = None,
        created_to: AwareDatetime | None = None,
        cursor: Annotated[str | None, Query(max_length=200)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> RunList:
        """List runs, the newest first; `client` is for admins."""
        wanted = RunFilter(
            client=reach.client or client,
            status=status,
            workflow=workflow,
            version=version,
            parent=parent,
            created_from=created_from,
            created_to=created_to,
        )
        page = await engine.control.list_runs(wanted, limit=limit, cursor=cursor)
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


def _add_commands(router: APIRouter, engine: WorkflowEngine, authorize: Authorize) -> None:
    writer = Annotated[Reach, Depends(changing(authorize, Scope.RUNS))]
    refusals: Mapping[int | str, dict[str, Any]] = {
        409: {"description": "Its state does not allow that; `status` says which it is."}
    }

    @router.post("/runs/{run_id}/cancel", status_code=202, responses={**refusals})
    async def cancel_run(run_id: str, reach: writer) -> RunView:
        """Undo what it did, then end it."""
        return await engine.control.cancel(run_id, client=reach.client)

    @router.post("/runs/{run_id}/pause", status_code=202, responses={**refusals})
    async def pause_run(run_id: str, reach: writer) -> RunView:
        """Let what is under way finish, and begin nothing new."""
        return await engine.control.pause(run_id, client=reach.client)

    @router.post("/runs/{run_id}/resume", status_code=202, responses={**refusals})
    async def resume_run(run_id: str, reach: writer, body: ResumeRequest | None = None) -> RunView:
        """Go on with a paused or blocked run."""
        budget = body.budget if body is not None else None
        return await engine.control.resume(run_id, client=reach.client, budget=budget)

    @router.post("/runs/{run_id}/retry", status_code=202, responses={**refusals})
    async def retry_run(run_id: str, reach: writer) -> RunView:
        """Go on with a failed run from the step that failed."""
        return await engine.control.retry(run_id, client=reach.client)

    @router.post("/runs/{run_id}/restart", status_code=202, responses={**refusals})
    async def restart_run(
        run_id: str, reach: writer, body: RestartRequest | None = None
    ) -> RunView:
        """Run again from a step on; what was begun before it is kept."""
        step = body.step if body is not None else None
        return await engine.control.restart(run_id, client=reach.client, step=step)

    @router.delete("/runs/{run_id}", status_code=204, responses={**refusals})
    async def delete_run(run_id: str, reach: writer) -> None:
        """Forget an ended run and all it left."""
        await engine.control.delete(run_id, client=reach.client)


def _key_of(body: RunRequest, header: str | None) -> str | None:
    if header is None:
        return body.key
    if body.key not in (None, checked_key(header)):
        raise Unprocessable("The Idempotency-Key and the body's key are two different ones.")
    return header


def _filter(body: BulkRequest, reach: Reach) -> RunFilter:
    asked = body.model_dump(exclude_none=True)
    if not asked:
        raise RequestError("Say which runs: by status, workflow or time.")
    return RunFilter(client=reach.client, **asked)


async def _all(
    request: Request,
    body: BulkRequest,
    reach: Reach,
    command: Callable[[RunFilter], Awaitable[int]],
) -> BulkAnswer:
    """Do it to every run that fits, on record before and, with their number, after."""
    note_audit(request, target=_told(body))
    count = await command(_filter(body, reach))
    note_audit(request, target=f"{_told(body)} runs={count}")
    return BulkAnswer(count=count)


def _told(body: BulkRequest) -> str:
    """The filter, for the record."""
    asked = body.model_dump(mode="json", exclude_none=True)
    return " ".join(f"{name}={value}" for name, value in asked.items()) or "/runs"


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

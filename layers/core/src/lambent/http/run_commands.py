"""What may be asked of runs over HTTP: cancel, pause, resume, retry, restart, delete."""

# No postponed annotations here: FastAPI has to see the dependencies made inside the function.

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from lambent.admission.decisions import Scope
from lambent.chat.idempotency import IdempotencyKeys
from lambent.engine.engine import WorkflowEngine
from lambent.engine.listing import RunFilter, StatusAsked
from lambent.engine.views import RunView
from lambent.errors import RequestError
from lambent.http.audited import note_audit
from lambent.http.keyed_making import ACCEPTED, DONE, KeyedMaking, keyed_making
from lambent.http.reach import Authorize, Reach, changing
from lambent.http.run_query import GOING_ON

_REFUSALS: Final[Mapping[int | str, dict[str, Any]]] = {
    409: {"description": "Its state does not allow that; `status` says which it is."}
}


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

    status: StatusAsked | None = Field(default=None, description=GOING_ON)
    workflow: str | None = Field(default=None, max_length=100)
    version: int | None = Field(default=None, ge=1, description="Of the workflow.")
    created_from: AwareDatetime | None = None
    created_to: AwareDatetime | None = None


class BulkAnswer(BaseModel):
    count: int = Field(description="How many runs obeyed. Ask again until it is 0.")


def add_commands(
    router: APIRouter, engine: WorkflowEngine, authorize: Authorize, *, keys: IdempotencyKeys
) -> None:
    """The commands of `/runs`; needs the scope `runs`."""
    writer = Annotated[Reach, Depends(changing(authorize, Scope.RUNS))]
    once = Annotated[KeyedMaking, Depends(keyed_making(keys))]
    _add_bulk(router, engine, writer, once)
    _add_single(router, engine, writer, once)


def _add_bulk(router: APIRouter, engine: WorkflowEngine, writer: Any, once: Any) -> None:
    control = engine.control

    @router.post("/runs/cancel", response_model=BulkAnswer)
    async def cancel_runs(
        request: Request, body: BulkRequest, reach: writer, done_once: once
    ) -> Response:
        """Cancel every run that fits."""
        return await _all(request, body, reach, done_once, control.cancel_all)

    @router.post("/runs/retry", response_model=BulkAnswer)
    async def retry_runs(
        request: Request, body: BulkRequest, reach: writer, done_once: once
    ) -> Response:
        """Retry every failed run that fits."""
        return await _all(request, body, reach, done_once, control.retry_all)


def _add_single(router: APIRouter, engine: WorkflowEngine, writer: Any, once: Any) -> None:
    control = engine.control
    post = partial(
        router.post, status_code=ACCEPTED, response_model=RunView, responses={**_REFUSALS}
    )

    @post("/runs/{run_id}/cancel")
    async def cancel_run(run_id: str, reach: writer, done_once: once) -> Response:
        """Undo what it did, then end it."""
        return await _one(reach, done_once, partial(control.cancel, run_id, client=reach.client))

    @post("/runs/{run_id}/pause")
    async def pause_run(run_id: str, reach: writer, done_once: once) -> Response:
        """Let what is under way finish, and begin nothing new."""
        return await _one(reach, done_once, partial(control.pause, run_id, client=reach.client))

    @post("/runs/{run_id}/resume")
    async def resume_run(
        run_id: str, reach: writer, done_once: once, body: ResumeRequest | None = None
    ) -> Response:
        """Go on with a paused or blocked run."""
        asked = body or ResumeRequest()
        command = partial(control.resume, run_id, client=reach.client, budget=asked.budget)
        return await _one(reach, done_once, command, asked)

    @post("/runs/{run_id}/retry")
    async def retry_run(run_id: str, reach: writer, done_once: once) -> Response:
        """Go on with a failed run from the step that failed."""
        return await _one(reach, done_once, partial(control.retry, run_id, client=reach.client))

    @post("/runs/{run_id}/restart")
    async def restart_run(
        run_id: str, reach: writer, done_once: once, body: RestartRequest | None = None
    ) -> Response:
        """Run again from a step on; what was begun before it is kept."""
        asked = body or RestartRequest()
        command = partial(control.restart, run_id, client=reach.client, step=asked.step)
        return await _one(reach, done_once, command, asked)

    @router.delete("/runs/{run_id}", status_code=204, responses={**_REFUSALS})
    async def delete_run(run_id: str, reach: writer) -> None:
        """Forget an ended run and all it left."""
        await control.delete(run_id, client=reach.client)


async def _one(
    reach: Reach,
    done_once: KeyedMaking,
    command: Callable[..., Awaitable[RunView]],
    asked: BaseModel | None = None,
) -> Response:
    async def make(token: str | None) -> tuple[RunView, dict[str, str]]:
        return await command(by=token), {}

    return await done_once.made(reach.own, asked, make, status=ACCEPTED)


async def _all(
    request: Request,
    body: BulkRequest,
    reach: Reach,
    done_once: KeyedMaking,
    command: Callable[..., Awaitable[int]],
) -> Response:
    """Do it to every run that fits, on record before and, with their number, after."""
    note_audit(request, target=_told(body))

    async def make(token: str | None) -> tuple[BulkAnswer, dict[str, str]]:
        count = await command(_filter(body, reach), by=token)
        note_audit(request, target=f"{_told(body)} runs={count}")
        return BulkAnswer(count=count), {}

    return await done_once.made(reach.own, body, make, status=DONE)


def _filter(body: BulkRequest, reach: Reach) -> RunFilter:
    asked = body.model_dump(exclude_none=True)
    if not asked:
        raise RequestError("Say which runs: by status, workflow or time.")
    return RunFilter(client=reach.client, **asked)


def _told(body: BulkRequest) -> str:
    """The filter, for the record."""
    asked = body.model_dump(mode="json", exclude_none=True)
    return " ".join(f"{name}={value}" for name, value in asked.items()) or "/runs"

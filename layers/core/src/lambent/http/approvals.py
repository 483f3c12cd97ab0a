"""Approvals over HTTP: which calls of an agent wait for a person, and what that one says."""

# No postponed annotations here: FastAPI has to see the dependencies made inside the function.

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, ConfigDict, Field

from lambent.admission.decisions import Scope
from lambent.agents.approvals import awaited_calls, decide
from lambent.chat.idempotency import IdempotencyKeys
from lambent.engine.engine import WorkflowEngine
from lambent.http.keyed_making import ACCEPTED, KeyedMaking, keyed_making
from lambent.http.reach import Authorize, Reach, changing, reading


class Decision(BaseModel):
    """Whether the call may be made."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"approve": True, "note": "Go on."}]}
    )

    approve: bool
    note: str = Field(default="", max_length=4000, description="Told to the agent.")


class ApprovalView(BaseModel):
    """A tool call that is made once a person approves it."""

    call: str = Field(description="Names it when it is decided on.", examples=["0.0"])
    step: str = Field(examples=["approval 0.0"])
    tool: str = Field(examples=["publish"])
    arguments: dict[str, Any] = Field(examples=[{"title": "Tides"}])
    asked_at: datetime | None
    until: datetime | None = Field(description="Declined by itself then.")


class ApprovalList(BaseModel):
    approvals: list[ApprovalView]


def add_approvals(
    router: APIRouter, engine: WorkflowEngine, authorize: Authorize, *, keys: IdempotencyKeys
) -> None:
    """`/runs/{run_id}/approvals`; needs the scope `runs`, or to look `admin:read`."""
    reader = Annotated[Reach, Depends(reading(authorize, Scope.RUNS))]
    writer = Annotated[Reach, Depends(changing(authorize, Scope.RUNS))]
    once = Annotated[KeyedMaking, Depends(keyed_making(keys))]

    @router.get("/runs/{run_id}/approvals")
    async def list_approvals(run_id: str, reach: reader) -> ApprovalList:
        """The tool calls that an agent's run waits with, none where it waits with none."""
        found = await awaited_calls(engine, run_id, client=reach.client)
        return ApprovalList(approvals=[ApprovalView(**asdict(one)) for one in found])

    @router.post(
        "/runs/{run_id}/approvals/{call_id}",
        status_code=ACCEPTED,
        response_model=None,
        responses={410: {"description": "It has been decided, or its time is over."}},
    )
    async def decide_call(
        run_id: str, call_id: str, body: Decision, reach: writer, done_once: once
    ) -> Response:
        """Decide on a tool call that an agent's run waits with; the first decision counts."""

        async def make(_: str | None) -> tuple[None, dict[str, str]]:
            await decide(
                engine,
                run_id,
                call_id,
                client=reach.client,
                approve=body.approve,
                note=body.note,
            )
            return None, {}

        return await done_once.made(reach.own, body, make, status=ACCEPTED)

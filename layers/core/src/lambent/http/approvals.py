"""Approvals over HTTP: a person says whether an agent may make a call that needs it."""

# No postponed annotations here: FastAPI has to see the dependencies made inside the function.

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from lambent.admission.decisions import Scope
from lambent.agents.approvals import decide
from lambent.engine.engine import WorkflowEngine
from lambent.http.reach import Authorize, Reach, changing


class Decision(BaseModel):
    """Whether the call may be made."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"approve": True, "note": "Go on."}]}
    )

    approve: bool
    note: str = Field(default="", max_length=4000, description="Told to the agent.")


def add_approvals(router: APIRouter, engine: WorkflowEngine, authorize: Authorize) -> None:
    """`/runs/{run_id}/approvals`; needs the scope `runs`."""
    writer = Annotated[Reach, Depends(changing(authorize, Scope.RUNS))]

    @router.post(
        "/runs/{run_id}/approvals/{call_id}",
        status_code=202,
        responses={410: {"description": "It has been decided, or its time is over."}},
    )
    async def decide_call(run_id: str, call_id: str, body: Decision, reach: writer) -> None:
        """Decide on a tool call that an agent's run waits with; the first decision counts."""
        await decide(
            engine,
            run_id,
            call_id,
            client=reach.client,
            approve=body.approve,
            note=body.note,
        )

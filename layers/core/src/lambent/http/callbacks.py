"""Callbacks over HTTP: the one-time address by which someone outside answers a run."""

# No postponed annotations here: FastAPI has to see the models of the bodies.

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from lambent.engine.callbacks import Callbacks


class CompleteRequest(BaseModel):
    """The answer."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"value": {"approved": True}}]}
    )

    value: Any = Field(default=None, examples=[{"approved": True}])


class FailRequest(BaseModel):
    """Why there is no answer."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"message": "The approver declined."}]}
    )

    message: str = Field(default="", max_length=4000, examples=["The approver declined."])


def callbacks_router(callbacks: Callbacks) -> APIRouter:
    """`/callbacks/{token}`: no key is asked for, the token is the right to answer.

    404 for a token that never was, 410 for one that is answered or out of time.
    """
    router = APIRouter(prefix="/callbacks", tags=["callbacks"])

    @router.post("/{token}", status_code=202)
    async def complete_callback(token: str, body: CompleteRequest | None = None) -> None:
        """Answer with a value; the run goes on with it."""
        await callbacks.complete(token, body.value if body is not None else None)

    @router.post("/{token}/complete", status_code=202, include_in_schema=False)
    async def complete_named(token: str, body: CompleteRequest | None = None) -> None:
        await callbacks.complete(token, body.value if body is not None else None)

    @router.post("/{token}/fail", status_code=202)
    async def fail_callback(token: str, body: FailRequest | None = None) -> None:
        """Answer with a failure; the run gets it as an error."""
        await callbacks.fail(token, body.message if body is not None else "")

    @router.post("/{token}/heartbeat", status_code=202)
    async def keep_callback_alive(token: str) -> None:
        """Say that somebody is still at it."""
        await callbacks.heartbeat(token)

    return router

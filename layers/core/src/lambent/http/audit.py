"""The record of admin actions over HTTP, and the end of a key's sessions."""

# No postponed annotations here: FastAPI has to see the dependencies made inside the function.

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime, BaseModel, Field

from lambent.admission.audit import Audit
from lambent.admission.decisions import Principal, Scope
from lambent.admission.sessions import Sessions


class AuditView(BaseModel):
    """One action of an admin."""

    id: str
    at: datetime
    key_id: str | None = Field(examples=["01JD8T0Q6V5Z7K1M2N3P4Q5R6S"])
    key_name: str | None = Field(examples=["ada's laptop"])
    client: str = Field(examples=["operations"])
    action: str = Field(
        description="The name of the route, as in this document.", examples=["cancel_run"]
    )
    target: str = Field(examples=["01KB0Z6T9M0W9Y4X3V2T1S0R9Q"])
    via: str = Field(description="`api` or `page`.", examples=["page"])
    address: str = Field(examples=["203.0.113.7"])
    request_id: str
    outcome: int | None = Field(
        description="The HTTP status; null where the request died before its end.", examples=[202]
    )


class AuditList(BaseModel):
    """A page, newest first."""

    entries: list[AuditView]
    cursor: str | None = Field(description="Ask with it for the next page; null on the last.")


def audit_router(
    audit: Audit, sessions: Sessions, authorize: Callable[[Scope], Callable[..., Any]]
) -> APIRouter:
    """`/audit`; reading needs `admin:read`."""
    router = APIRouter(tags=["audit"])
    reader = Annotated[Principal, Depends(authorize(Scope.ADMIN_READ))]
    admin = Annotated[Principal, Depends(authorize(Scope.ADMIN))]

    @router.get("/audit")
    async def list_audit(
        _: reader,
        key_id: Annotated[str | None, Query(max_length=64)] = None,
        action: Annotated[str | None, Query(max_length=100)] = None,
        target: Annotated[str | None, Query(max_length=300)] = None,
        from_at: Annotated[
            AwareDatetime | None, Query(alias="from", description="Begun then or later.")
        ] = None,
        until: Annotated[AwareDatetime | None, Query(description="Begun before then.")] = None,
        cursor: Annotated[str | None, Query(max_length=64)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> AuditList:
        """List what admin keys changed, by API and by page, refusals included."""
        page = await audit.find(
            key_id=key_id,
            action=action,
            target=target,
            from_at=from_at,
            until=until,
            cursor=cursor,
            limit=limit,
        )
        entries = [AuditView(**asdict(one)) for one in page.entries]
        return AuditList(entries=entries, cursor=page.cursor)

    @router.delete("/sessions/{key_id}", status_code=204)
    async def end_sessions(key_id: str, _: admin) -> None:
        """End every session of the admin pages that was opened with this key."""
        await sessions.end_all(key_id)

    return router

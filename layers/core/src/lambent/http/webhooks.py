"""Webhooks over HTTP: create, list, change, rotate the secret, see and replay deliveries."""

# No postponed annotations here: FastAPI has to see the dependencies made inside the function.

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from lambent.admission.decisions import Scope
from lambent.bus.ports import Nudges
from lambent.bus.transitions import DeliveryStatus, WebhookStatus
from lambent.bus.webhooks import WebhookChange, Webhooks
from lambent.dispatch import Work
from lambent.http.audited import note_audit
from lambent.http.reach import Authorize, Reach, changing, reading
from lambent.mongo import Document

_TYPES = Field(
    min_length=1,
    max_length=50,
    description="Event types to be told of: exact, `news.*` for all below, or `*`.",
    examples=[["news.digest.ready", "order.*"]],
)
_URL = Field(max_length=2048, examples=["https://example.com/hooks/lambent"])


class WebhookRequest(BaseModel):
    """Whom to tell of which events."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "url": "https://example.com/hooks/lambent",
                    "types": ["news.digest.ready", "order.*"],
                    "description": "The shop",
                }
            ]
        },
    )

    url: str = _URL
    types: list[str] = _TYPES
    description: str = Field(default="", max_length=500)
    secret: str | None = Field(
        default=None,
        max_length=128,
        description="A signing secret of your own (`whsec_…`); one is made if there is none.",
    )


class WebhookPatch(BaseModel):
    """What to change; parts left out stay."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"types": ["order.*"], "status": "disabled"}]},
    )

    url: str | None = Field(default=None, max_length=2048)
    types: list[str] | None = Field(default=None, min_length=1, max_length=50)
    description: str | None = Field(default=None, max_length=500)
    status: WebhookStatus | None = None


class WebhookView(BaseModel):
    """A webhook without its secret."""

    id: str
    client: str
    url: str
    types: list[str]
    description: str
    status: WebhookStatus
    reason: str | None = Field(description="`gone`: its receiver answered 410.")
    disabled_at: datetime | None
    disabled_by: str | None = Field(
        description="The name of the key; null where the platform did it, or it is not on record.",
        examples=["ada's laptop"],
    )
    created_at: datetime
    updated_at: datetime


class NewWebhookView(WebhookView):
    """A webhook with its secret."""

    secret: str = Field(description="Verifies `webhook-signature`, as in Standard Webhooks.")


class SecretView(BaseModel):
    secret: str = Field(description="The new one; the one before signs beside it for 24 hours.")


class WebhookList(BaseModel):
    """A page, oldest first."""

    webhooks: list[WebhookView]
    cursor: str | None = Field(description="Ask with it for the next page; null on the last.")


class AttemptView(BaseModel):
    """One call of the receiver; `status` 0: it gave no answer, for the reason in `problem`."""

    attempt: int
    at: datetime
    duration_ms: int
    status: int
    problem: str
    excerpt: str


class DeliveryView(BaseModel):
    """One event on its way to one webhook."""

    id: str = Field(description="The `webhook-id` header: the same at each attempt.")
    webhook: str
    event: str
    type: str
    status: DeliveryStatus
    attempts: int
    reason: str | None
    next_at: datetime | None
    created_at: datetime
    history: list[AttemptView]


class DeliveryList(BaseModel):
    """A page, newest first."""

    deliveries: list[DeliveryView]
    cursor: str | None = Field(description="Ask with it for the next page; null on the last.")


def webhooks_router(webhooks: Webhooks, nudges: Nudges, authorize: Authorize) -> APIRouter:
    """`/webhooks`; needs the scope `events`."""
    router = APIRouter(prefix="/webhooks", tags=["webhooks"])
    reader = Annotated[Reach, Depends(reading(authorize, Scope.EVENTS))]
    writer = Annotated[Reach, Depends(changing(authorize, Scope.EVENTS))]

    @router.post("", status_code=201)
    async def create_webhook(
        request: Request, body: WebhookRequest, reach: writer
    ) -> NewWebhookView:
        """Make a webhook. Calls are signed and retried for most of a day."""
        made = await webhooks.create(
            reach.own,
            url=body.url,
            types=body.types,
            description=body.description,
            secret=body.secret,
        )
        note_audit(request, target=str(made["_id"]))
        return NewWebhookView(**_fields(made, reach), secret=made["secrets"][0]["secret"])

    @router.get("")
    async def list_webhooks(
        reach: reader,
        cursor: Annotated[str | None, Query(max_length=64)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> WebhookList:
        """List webhooks, the oldest first."""
        found = await webhooks.all_of(reach.client, limit=limit, after=cursor)
        last = found[-1]["_id"] if len(found) == limit else None
        return WebhookList(
            webhooks=[WebhookView(**_fields(one, reach)) for one in found], cursor=last
        )

    @router.get("/{webhook_id}")
    async def get_webhook(webhook_id: str, reach: reader) -> WebhookView:
        """One webhook."""
        found = await webhooks.get(webhook_id, client=reach.client)
        return WebhookView(**_fields(found, reach))

    @router.patch("/{webhook_id}")
    async def change_webhook(webhook_id: str, body: WebhookPatch, reach: writer) -> WebhookView:
        """Change a part of it, or turn it off and on."""
        change = WebhookChange(**body.model_dump())
        by = reach.signature
        changed = await webhooks.change(webhook_id, change, client=reach.client, by=by)
        return WebhookView(**_fields(changed, reach))

    @router.post("/{webhook_id}/rotate")
    async def rotate_webhook_secret(webhook_id: str, reach: writer) -> SecretView:
        """Give it a new secret."""
        return SecretView(secret=await webhooks.rotate(webhook_id, client=reach.client))

    @router.delete("/{webhook_id}", status_code=204)
    async def delete_webhook(webhook_id: str, reach: writer) -> None:
        """Delete it; what is still queued for it is not sent."""
        await webhooks.delete(webhook_id, client=reach.client)

    @router.get("/{webhook_id}/deliveries")
    async def list_deliveries(
        webhook_id: str,
        reach: reader,
        status: DeliveryStatus | None = None,
        cursor: Annotated[str | None, Query(max_length=64)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> DeliveryList:
        """What was sent or is to be sent, the newest first; `status=dead` for dead letters."""
        found = await webhooks.deliveries(
            webhook_id, client=reach.client, status=status, limit=limit, before=cursor
        )
        last = found[-1]["_id"] if len(found) == limit else None
        return DeliveryList(deliveries=[_delivery(one) for one in found], cursor=last)

    @router.post("/deliveries/{delivery_id}/replay", status_code=202)
    async def replay_delivery(delivery_id: str, reach: writer) -> DeliveryView:
        """Send it again, under the same `webhook-id`."""
        revived = await webhooks.replay(delivery_id, client=reach.client)
        await nudges.nudge(Work.WEBHOOKS, [delivery_id], news=True)
        return _delivery(revived)

    return router


def _fields(document: Document, reach: Reach) -> dict[str, Any]:
    named = {name: document.get(name) for name in WebhookView.model_fields}
    by = reach.named(document.get("disabled_by"))
    return {**named, "id": document["_id"], "disabled_by": by}


def _delivery(document: Document) -> DeliveryView:
    pending = document["status"] == DeliveryStatus.PENDING
    named = {name: document[name] for name in DeliveryView.model_fields if name in document}
    next_at = document["due_at"] if pending else None
    return DeliveryView(**{**named, "id": document["_id"], "next_at": next_at})

"""Events over HTTP: publish CloudEvents in each of their modes, list, get, replay."""

# No postponed annotations here: FastAPI has to see the dependencies made inside the function.

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field

from lambent.admission.decisions import Scope
from lambent.bus.cloudevents import (
    BATCH,
    STRUCTURED,
    CloudEvent,
    read_http,
    to_structured,
)
from lambent.bus.events import EventBus, Published, event_of
from lambent.bus.transitions import EventStatus
from lambent.errors import Unprocessable
from lambent.http.audited import note_audit
from lambent.http.bodies import read_body
from lambent.http.reach import Authorize, Reach, changing, reading
from lambent.mongo import Document
from lambent.waits import RESERVED, is_reserved

_EXAMPLE: Final = {
    "specversion": "1.0",
    "id": "order-4711-placed",
    "source": "/shop",
    "type": "order.placed",
    "subject": "order-4711",
    "data": {"total": 99.5},
}
_EVENT_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["specversion", "id", "source", "type"],
    "properties": {
        "specversion": {"const": "1.0"},
        "id": {"type": "string", "minLength": 1},
        "source": {"type": "string", "format": "uri-reference"},
        "type": {"type": "string", "minLength": 1},
        "subject": {"type": "string"},
        "time": {"type": "string", "format": "date-time"},
        "datacontenttype": {"type": "string"},
        "dataschema": {"type": "string", "format": "uri"},
        "data": {},
        "data_base64": {"type": "string", "format": "byte"},
    },
    "examples": [_EXAMPLE],
}
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            STRUCTURED: {"schema": _EVENT_SCHEMA},
            BATCH: {
                "schema": {"type": "array", "items": _EVENT_SCHEMA, "maxItems": 100},
                "example": [_EXAMPLE],
            },
        },
    }
}


class PublishedView(BaseModel):
    """One event, as it is kept."""

    key: str = Field(description="The platform's own id of it.", examples=["01KB0Z6T9M0W9"])
    id: str = Field(examples=["order-4711-placed"])
    source: str = Field(examples=["/shop"])
    duplicate: bool = Field(description="It was published before; nothing was changed.")


class PublishAnswer(BaseModel):
    """What became of each event, in the order sent."""

    events: list[PublishedView]


class EventView(BaseModel):
    """An event and where it stands."""

    key: str
    client: str
    status: EventStatus
    received_at: datetime
    delivered_at: datetime | None
    problem: str | None = Field(description="Why its delivery failed, where it did.")
    event: dict[str, Any] = Field(description="The CloudEvent.", examples=[_EXAMPLE])


class EventList(BaseModel):
    """A page, newest first."""

    events: list[EventView]
    cursor: str | None = Field(description="Ask with it for the next page; null on the last.")


def events_router(bus: EventBus, authorize: Authorize) -> APIRouter:
    """`/events`; needs the scope `events`."""
    router = APIRouter(prefix="/events", tags=["events"])
    reader = Annotated[Reach, Depends(reading(authorize, Scope.EVENTS))]
    writer = Annotated[Reach, Depends(changing(authorize, Scope.EVENTS))]

    @router.post("", status_code=202, openapi_extra=_BODY)
    async def publish_events(request: Request, reach: writer) -> PublishAnswer:
        """Publish one CloudEvent (structured or binary mode) or a batch of up to 100.

        Answered once they are durable. `id` and `source` make an event the same: sent twice, it
        is kept and delivered once.
        """
        events = read_http(dict(request.headers), await read_body(request))
        _refuse_reserved(events)
        published = await bus.publish(reach.own, events)
        note_audit(request, target=_told(published))
        return PublishAnswer(events=[_published(one) for one in published])

    @router.get("")
    async def list_events(
        reach: reader,
        type: Annotated[str | None, Query(max_length=1024)] = None,
        subject: Annotated[str | None, Query(max_length=1024)] = None,
        source: Annotated[str | None, Query(max_length=1024)] = None,
        status: EventStatus | None = None,
        cursor: Annotated[str | None, Query(max_length=64)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> EventList:
        """List events, the newest first."""
        found = await bus.find(
            client=reach.client,
            type=type,
            subject=subject,
            source=source,
            status=status,
            limit=limit,
            before=cursor,
        )
        last = found[-1]["_id"] if len(found) == limit else None
        return EventList(events=[_view(one) for one in found], cursor=last)

    @router.get("/{key}")
    async def get_event(key: str, reach: reader) -> EventView:
        """One event, by the key that publishing it answered."""
        return _view(await bus.get(key, client=reach.client))

    @router.post("/{key}/replay", status_code=202)
    async def replay_event(key: str, reach: writer) -> EventView:
        """Deliver it once more, to what waits for it now. No run takes it twice."""
        return _view(await bus.replay(key, client=reach.client))

    return router


def _refuse_reserved(events: list[CloudEvent]) -> None:
    problems = [
        {"field": f"[{place}].type", "message": f"{RESERVED}* is the platform's own"}
        for place, event in enumerate(events)
        if is_reserved(event.type)
    ]
    if problems:
        raise Unprocessable("That type is reserved.", fields={"errors": problems})


def _published(one: Published) -> PublishedView:
    return PublishedView(key=one.key, id=one.id, source=one.source, duplicate=one.duplicate)


def _view(document: Document) -> EventView:
    return EventView(
        key=document["_id"],
        client=document["client"],
        status=document["status"],
        received_at=document["received_at"],
        delivered_at=document.get("delivered_at"),
        problem=document.get("problem"),
        event=to_structured(event_of(document)),
    )


def _told(published: Sequence[Published]) -> str:
    """What the record names: a batch by its first event."""
    first, *others = [_published(one).key for one in published] or ["none"]
    return f"{first} and {len(others)} more" if others else first

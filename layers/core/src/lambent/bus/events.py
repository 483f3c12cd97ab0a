"""The `EventBus`: publish, get, list and replay events."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from lambent.bus import transitions
from lambent.bus.cloudevents import CloudEvent, check
from lambent.bus.delivery import Deliverer
from lambent.bus.transitions import EventStatus
from lambent.clock import EPOCH, FAR_FUTURE, Clock
from lambent.codec import encode, plain
from lambent.due import LEASE_S, Claimed, Database, DueDocuments, Lease, new_due_fields
from lambent.errors import Conflict, NotFound, StoreUnavailable
from lambent.ids import new_ulid, ulid_floor
from lambent.mongo import Document, guarded, insert_new
from lambent.newest import by_status, newest
from lambent.telemetry import log_fields, logger
from lambent.tracing import carried

# How long a publisher delivers by itself before it leaves the rest to `deliver`.
PUBLISH_BUDGET_S: Final = 2.0
# For people who look, the newest first; see `_lanes`.
_NARROW: Final = ("client", "subject", "source")
_LOOKED_FOR_BY: Final = (*((name,) for name in _NARROW), ("status",), ("type", "status"))


@dataclass(frozen=True, slots=True)
class Published:
    """`key` is the platform's own id of the event; `duplicate`: it was here before."""

    key: str
    id: str
    source: str
    duplicate: bool


def event_of(document: Document) -> CloudEvent:
    """The CloudEvent that was published as this document."""
    return CloudEvent(
        id=document["id"],
        source=document["source"],
        type=document["type"],
        subject=document["subject"],
        time=document["time"],
        datacontenttype=document["datacontenttype"],
        dataschema=document["dataschema"],
        data=document["data"],
        extensions=document["extensions"],
    )


class EventBus:
    """Keeps events and hands them out."""

    def __init__(self, mongo: Database, *, clock: Clock, deliverer: Deliverer) -> None:
        self._mongo = mongo
        self._clock = clock
        self._deliverer = deliverer
        self._events = DueDocuments(mongo, transitions.EVENTS, clock=clock)

    async def publish(self, client: str, events: Sequence[CloudEvent]) -> list[Published]:
        """Keep the events and deliver them at once, as far as that goes within 2 s.

        Returns once they are durable; what could not be delivered now is delivered by `deliver`.
        An event whose id and source the client has used before changes nothing. Raises
        `Unprocessable`, `TooLarge`, and `StoreUnavailable` when it is not known to be kept.
        """
        token = secrets.token_hex(12)
        begun_s = self._clock.monotonic_s()
        documents = [self._new_document(client, check(event), token) for event in events]
        known = await insert_new(self._events.collection, documents)
        published = [
            _published(await self._first_of(one) if place in known else one, place in known)
            for place, one in enumerate(documents)
        ]
        mine = [one for place, one in enumerate(documents) if place not in known]
        await self._deliver_now(mine, token, begun_s)
        return published

    async def get(self, key: str, *, client: str | None) -> Document:
        """By the platform's id of it. Raises `NotFound`."""
        found = await guarded(self._events.collection.find_one({"_id": key, **_scope(client)}))
        if found is None:
            raise NotFound(f"There is no event {key}.")
        return found

    async def find(
        self,
        *,
        client: str | None,
        type: str | None = None,
        subject: str | None = None,
        source: str | None = None,
        status: EventStatus | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> list[Document]:
        """The newest first; `before` is the key of the last one of the page before."""
        wanted = {"subject": subject, "source": source, "type": type, "status": status}
        query: dict[str, Any] = _scope(client)
        query |= {name: value for name, value in wanted.items() if value is not None}
        query["_id"] = {"$gte": ulid_floor(EPOCH), "$lt": before or ulid_floor(FAR_FUTURE)}
        events, now = self._events.collection, self._clock.now()
        return await newest(events, query, lanes=_lanes, limit=limit, now=now)

    async def replay(self, key: str, *, client: str | None) -> Document:
        """Deliver it once more: to waits that are open now, and by webhooks not told before.

        A run that holds it does not take it again, nor does it start a workflow twice. Raises
        `NotFound`; `Conflict` while it is still being delivered.
        """
        await self.get(key, client=client)
        if not await transitions.replay_event(self._events, key):
            raise Conflict("It is still being delivered.", fields={"status": EventStatus.PENDING})
        await self._deliverer.deliver_due(
            [key], deadline_s=self._clock.monotonic_s() + PUBLISH_BUDGET_S
        )
        return await self.get(key, client=client)

    def _new_document(self, client: str, event: CloudEvent, token: str) -> Document:
        now = self._clock.now()
        due = new_due_fields(now)
        # Born leased: the publisher delivers it without a claim. If he dies, the lease lapses.
        due |= {"lease": token, "lease_until": now + timedelta(seconds=LEASE_S), "claims": 1}
        return {
            "_id": new_ulid(self._clock),
            "client": client,
            "id": event.id,
            "source": event.source,
            "type": event.type,
            "subject": event.subject,
            "time": event.time,
            "datacontenttype": event.datacontenttype,
            "dataschema": event.dataschema,
            "extensions": dict(event.extensions),
            "data": event.data,
            "received_at": now,
            "status": EventStatus.PENDING,
            "attempts": 0,
            "trace": carried(),
            **due,
        }

    async def _first_of(self, document: Document) -> Document:
        identity = {name: document[name] for name in ("client", "source", "id")}
        first = await transitions.read_winner(self._events.collection, identity)
        # Gone again: it expired between the two. Then it was here, and that is the answer.
        return first or document

    async def _deliver_now(self, documents: Sequence[Document], token: str, begun_s: float) -> None:
        async def deliver(document: Document) -> None:
            lease = Lease(transitions.EVENTS, document["_id"], token, begun_s + LEASE_S)
            deadline_s = begun_s + PUBLISH_BUDGET_S
            try:
                await self._deliverer.deliver(Claimed(document, lease), deadline_s=deadline_s)
            except StoreUnavailable as error:
                # It is kept, so it was published. The lease lapses, and the poller finds it.
                logger().warning("event left to the poller", **log_fields(problem=str(error)))

        await asyncio.gather(*(deliver(document) for document in documents))


async def ensure_event_indexes(mongo: Database, *, clock: Clock) -> None:
    """Make the indexes of events; for setup."""
    due = DueDocuments(mongo, transitions.EVENTS, clock=clock)
    await due.ensure_indexes()
    identity = [("client", 1), ("source", 1), ("id", 1)]
    await guarded(due.collection.create_index(identity, unique=True))
    for names in _LOOKED_FOR_BY:
        await guarded(due.collection.create_index([(name, 1) for name in (*names, "_id")]))
    await guarded(due.collection.create_index("expire_at", expireAfterSeconds=0))


def _lanes(query: Document) -> list[Document]:
    """The queries that together ask the same, each led by an equality that has an index."""
    if not query.keys().isdisjoint(_NARROW):
        return [query]
    return by_status(query, EventStatus)


def _published(document: Document, duplicate: bool) -> Published:
    return Published(document["_id"], document["id"], document["source"], duplicate)


def _scope(client: str | None) -> dict[str, Any]:
    return {} if client is None else {"client": client}


class StepEvents:
    """The bus as the engine's `step.publish` asks for it: one event, told apart by its id.

    `bus` is asked for at the first event: engine and bus are made of each other.
    """

    def __init__(self, bus: Callable[[], EventBus]) -> None:
        self._bus = bus

    async def publish(
        self, *, client: str, id: str, source: str, type: str, subject: str | None, data: Any
    ) -> None:
        """Durable when it returns. Raises as `EventBus.publish` does."""
        if not isinstance(data, bytes):
            # An author's instants and models travel as the JSON that others can read.
            data = plain(encode(data).form)
        event = CloudEvent(id=id, source=source, type=type, subject=subject, data=data)
        await self._bus().publish(client, [event])

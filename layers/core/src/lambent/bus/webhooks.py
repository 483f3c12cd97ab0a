"""Webhooks of a client: who is told of which events, with which secrets, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from pymongo.asynchronous.collection import AsyncCollection

from lambent.bus import transitions
from lambent.bus.signing import is_secret, new_secret
from lambent.bus.targets import check_url
from lambent.bus.transitions import DeliveryStatus, WebhookStatus
from lambent.clock import EPOCH, FAR_FUTURE, Clock
from lambent.due import Database, DueDocuments, new_due_fields
from lambent.errors import Conflict, NotFound, Unprocessable
from lambent.ids import new_ulid, ulid_floor
from lambent.mongo import Document, drop_former_indexes, guarded, insert_new, oldest_first
from lambent.newest import by_status, newest
from lambent.tracing import carried
from lambent.waits import is_reserved

MAX_PER_CLIENT: Final = 100
MAX_TYPES: Final = 50
# Both secrets sign for so long after a rotation, so that receivers can change theirs meanwhile.
ROTATION: Final = timedelta(hours=24)
_FORMER_INDEX: Final = "webhook_1__id_1"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookChange:
    """What to change; None leaves a part as it is."""

    url: str | None = None
    types: Sequence[str] | None = None
    description: str | None = None
    status: WebhookStatus | None = None


def type_matches(pattern: str, event_type: str) -> bool:
    """`news.digest.ready` names one type, `news.*` all below `news.`, `*` every type."""
    if pattern.endswith("*"):
        return event_type.startswith(pattern[:-1])
    return pattern == event_type


class WebhookQueue:
    """Queues one delivery for each webhook that an event concerns; part of its fan-out."""

    def __init__(self, mongo: Database, *, clock: Clock) -> None:
        self._mongo = mongo
        self._clock = clock

    async def queue(self, event: Document) -> list[str]:
        """The ids of the deliveries, new or not: their `_id` makes each exist once."""
        if is_reserved(event["type"]):
            return []
        webhooks = self._mongo.db[transitions.WEBHOOKS]
        active = {"client": event["client"], "status": WebhookStatus.ACTIVE}
        found = await guarded(webhooks.find(active, {"types": 1}).to_list())
        now = self._clock.now()
        wanted = [
            _new_delivery(event, webhook["_id"], now)
            for webhook in found
            if any(type_matches(pattern, event["type"]) for pattern in webhook["types"])
        ]
        if wanted:
            deliveries = self._mongo.db[transitions.DELIVERIES.collection]
            await insert_new(deliveries, wanted)
        return [one["_id"] for one in wanted]


class Webhooks:
    """What a client does with its webhooks. `client=None` is an admin, who reaches all."""

    def __init__(self, mongo: Database, *, clock: Clock, allow_loopback: bool = False) -> None:
        self._mongo = mongo
        self._clock = clock
        self._allow_loopback = allow_loopback
        self._deliveries = DueDocuments(mongo, transitions.DELIVERIES, clock=clock)

    async def create(
        self,
        client: str,
        *,
        url: str,
        types: Sequence[str],
        description: str = "",
        secret: str | None = None,
    ) -> Document:
        """A new webhook with its secret. Raises `Unprocessable`, `Conflict` over the limit."""
        if secret is not None and not is_secret(secret):
            raise _invalid("secret", "must be whsec_ and 24 to 64 bytes in Base64")
        now = self._clock.now()
        document: Document = {
            "_id": new_ulid(self._clock),
            "client": client,
            "url": check_url(url, allow_loopback=self._allow_loopback),
            "types": _checked_types(types),
            "description": description,
            "secrets": [{"secret": secret or new_secret(), "until": None}],
            "status": WebhookStatus.ACTIVE,
            "reason": None,
            "created_at": now,
            "updated_at": now,
        }
        count = await guarded(
            self._webhooks.count_documents({"client": client}, limit=MAX_PER_CLIENT)
        )
        if count >= MAX_PER_CLIENT:
            raise Conflict(f"A client has {MAX_PER_CLIENT} webhooks at most.")
        await guarded(self._webhooks.insert_one(document))
        return document

    async def get(self, webhook_id: str, *, client: str | None) -> Document:
        """Raises `NotFound`."""
        query = {"_id": webhook_id, **_scope(client)}
        found = await guarded(self._webhooks.find_one(query))
        if found is None:
            raise NotFound(f"There is no webhook {webhook_id}.")
        return found

    async def all_of(
        self, client: str | None, *, limit: int = 50, after: str | None = None
    ) -> list[Document]:
        """The oldest first; `after` is the `_id` of the last one of the page before."""
        query = _scope(client)
        return await oldest_first(self._webhooks, query, limit=limit, after=after)

    async def change(
        self,
        webhook_id: str,
        change: WebhookChange,
        *,
        client: str | None,
        by: Mapping[str, str] | None = None,
    ) -> Document:
        """Raises `NotFound`, `Unprocessable`. `by`: who asks, for the record."""
        changes: dict[str, Any] = {"updated_at": self._clock.now()}
        if change.url is not None:
            changes["url"] = check_url(change.url, allow_loopback=self._allow_loopback)
        if change.types is not None:
            changes["types"] = _checked_types(change.types)
        if change.description is not None:
            changes["description"] = change.description
        if change.status is not None:
            off = change.status is WebhookStatus.DISABLED
            changes |= {"status": change.status, "reason": None}
            changes |= {"disabled_at": self._clock.now() if off else None}
            changes |= {"disabled_by": by if off else None}
        await transitions.change_webhook(self._webhooks, webhook_id, client=client, changes=changes)
        return await self.get(webhook_id, client=client)

    async def rotate(self, webhook_id: str, *, client: str | None) -> str:
        """The new secret. The one before goes on signing beside it for 24 hours."""
        webhook = await self.get(webhook_id, client=client)
        now = self._clock.now()
        fresh = new_secret()
        secrets = [
            {"secret": fresh, "until": None},
            {"secret": webhook["secrets"][0]["secret"], "until": now + ROTATION},
        ]
        # Guarded: of two rotations at once, one would otherwise lose a secret it has shown.
        changed = await transitions.change_webhook(
            self._webhooks,
            webhook_id,
            client=client,
            changes={"secrets": secrets, "updated_at": now},
            seen={"secrets": webhook["secrets"]},
        )
        if not changed:
            raise Conflict("The secret is being rotated by someone else.")
        return fresh

    async def delete(self, webhook_id: str, *, client: str | None) -> None:
        """Deliveries still queued find it gone and die. Raises `NotFound`."""
        answer = await guarded(self._webhooks.delete_one({"_id": webhook_id, **_scope(client)}))
        if answer.deleted_count == 0:
            raise NotFound(f"There is no webhook {webhook_id}.")

    async def deliveries(
        self,
        webhook_id: str,
        *,
        client: str | None,
        status: DeliveryStatus | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> list[Document]:
        """The newest first; `before` is the `_id` of the last one of the page before."""
        await self.get(webhook_id, client=client)
        query: dict[str, Any] = {"webhook": webhook_id}
        if status is not None:
            query["status"] = status
        query["_id"] = {"$gte": ulid_floor(EPOCH), "$lt": before or ulid_floor(FAR_FUTURE)}
        found, now = self._deliveries.collection, self._clock.now()
        return await newest(found, query, lanes=_lanes, limit=limit, now=now)

    async def replay(self, delivery_id: str, *, client: str | None) -> Document:
        """Send it again, now. Raises `NotFound`; `Conflict` while it is still being tried."""
        deliveries = self._deliveries.collection
        query = {"_id": delivery_id, **_scope(client)}
        if await guarded(deliveries.find_one(query, {"_id": 1})) is None:
            raise NotFound(f"There is no delivery {delivery_id}.")
        revived = await transitions.replay_delivery(self._deliveries, delivery_id)
        found = await guarded(deliveries.find_one(query))
        if found is None:
            raise NotFound(f"There is no delivery {delivery_id}.")
        if not revived:
            raise Conflict("It is still being tried.", fields={"status": found["status"]})
        return found

    @property
    def _webhooks(self) -> AsyncCollection[Document]:
        return self._mongo.db[transitions.WEBHOOKS]


async def ensure_webhook_indexes(mongo: Database, *, clock: Clock) -> None:
    """Make the indexes of webhooks and their deliveries; for setup."""
    await guarded(mongo.db[transitions.WEBHOOKS].create_index([("client", 1), ("status", 1)]))
    due = DueDocuments(mongo, transitions.DELIVERIES, clock=clock)
    await due.ensure_indexes()
    await guarded(due.collection.create_index([("webhook", 1), ("status", 1), ("_id", 1)]))
    await guarded(due.collection.create_index([("status", 1), ("_id", 1)]))
    await guarded(due.collection.create_index("expire_at", expireAfterSeconds=0))
    await drop_former_indexes(due.collection, _FORMER_INDEX)


def _lanes(query: Document) -> list[Document]:
    """The queries that together ask the same, each by all that its index begins with."""
    return by_status(query, DeliveryStatus)


def _new_delivery(event: Document, webhook_id: str, now: datetime) -> Document:
    return {
        # Starts with the event's ULID, so it sorts by time; unique for event and webhook.
        "_id": f"{event['_id']}-{webhook_id}",
        "client": event["client"],
        "webhook": webhook_id,
        "event": event["_id"],
        "type": event["type"],
        "status": DeliveryStatus.PENDING,
        "attempts": 0,
        "history": [],
        "reason": None,
        "trace": carried(),
        "created_at": now,
        **new_due_fields(now),
    }


def _scope(client: str | None) -> dict[str, Any]:
    return {} if client is None else {"client": client}


def _checked_types(types: Sequence[str]) -> list[str]:
    if not 1 <= len(types) <= MAX_TYPES:
        raise _invalid("types", f"must name 1 to {MAX_TYPES} types")
    for one in types:
        if not one or len(one) > 1024 or "*" in one[:-1] or not (one == "*" or _whole(one)):
            raise _invalid("types", f"{one!r} is neither a type, nor ends in .*, nor is *")
    return list(dict.fromkeys(types))


def _whole(pattern: str) -> bool:
    return not pattern.endswith("*") or pattern.endswith(".*")


def _invalid(name: str, message: str) -> Unprocessable:
    problem: Mapping[str, str] = {"field": name, "message": message}
    return Unprocessable(f"{name} {message}.", fields={"errors": [problem]})

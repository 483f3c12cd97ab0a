"""Every state change of events, webhooks and webhook deliveries: each one compare-and-set.

Events:     pending → delivered | failed (by the lease's holder); delivered | failed → pending.
Deliveries: pending → delivered | dead (by the lease's holder); delivered | dead → pending.
Webhooks:   active ↔ disabled; secrets change as a whole, guarded by what was read.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from pymongo.asynchronous.collection import AsyncCollection
from pymongo.read_concern import ReadConcern

from lambent.clock import FAR_FUTURE
from lambent.due import DueDocuments, DueKind, Lease, Settled
from lambent.mongo import Document, guarded

EVENTS: Final = DueKind("events", wakeable={"status": {"$in": ["delivered", "failed"]}})
DELIVERIES: Final = DueKind(
    "webhook_deliveries", wakeable={"status": {"$in": ["delivered", "dead"]}}
)
WEBHOOKS: Final = "webhooks"

_FRESH: Final[Mapping[str, Any]] = {"status": "pending", "attempts": 0, "expire_at": None}


class EventStatus(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class DeliveryStatus(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"


class WebhookStatus(StrEnum):
    ACTIVE = "active"
    DISABLED = "disabled"


async def read_winner(
    collection: AsyncCollection[Document], identity: Mapping[str, Any]
) -> Document | None:
    """What the loser of an insert lost to, read so that it cannot be rolled back afterwards."""
    majority = collection.with_options(read_concern=ReadConcern("majority"))
    return await guarded(majority.find_one(dict(identity)))


async def save_cursor(events: DueDocuments, lease: Lease, cursor: Document) -> Lease | None:
    """pending → pending: how far the fan-out has come, saved with the renewal of the lease."""
    return await events.renew(lease, set={"cursor": cursor})


async def mark_delivered(
    events: DueDocuments, lease: Lease, *, at: datetime, expire_at: datetime
) -> Settled:
    """pending → delivered. Its retention begins only here: an undelivered event never expires.

    Need not outlive a crash of the store: one that is forgotten costs one more delivery, which
    changes nothing, while whoever was woken now works with the same store.
    """
    return await events.settle(
        lease,
        due_at=FAR_FUTURE,
        seen_signals=None,
        set={"status": EventStatus.DELIVERED, "delivered_at": at, "expire_at": expire_at},
        unset=("cursor", "problem"),
        lasting=False,
    )


async def put_off(
    events: DueDocuments, lease: Lease, *, attempts: int, problem: str, due_at: datetime
) -> Settled:
    """pending → pending: something raised; another try at `due_at`."""
    changes = {"attempts": attempts, "problem": problem}
    return await events.settle(lease, due_at=due_at, seen_signals=None, set=changes)


async def set_aside(
    events: DueDocuments, lease: Lease, *, problem: str, expire_at: datetime
) -> Settled:
    """pending → failed: deliverers died or failed too often on it."""
    changes = {"status": EventStatus.FAILED, "problem": problem, "expire_at": expire_at}
    return await events.settle(lease, due_at=FAR_FUTURE, seen_signals=None, set=changes)


async def replay_event(events: DueDocuments, event_id: str) -> bool:
    """delivered | failed → pending, due now; runs that hold the event do not take it again."""
    return await events.wake(event_id, set={**_FRESH, "cursor": None})


async def record_success(
    deliveries: DueDocuments, lease: Lease, *, history: list[Document], expire_at: datetime
) -> Settled:
    """pending → delivered."""
    changes = {
        "status": DeliveryStatus.DELIVERED,
        "attempts": len(history) and history[-1]["attempt"],
        "history": history,
        "expire_at": expire_at,
    }
    return await deliveries.settle(lease, due_at=FAR_FUTURE, seen_signals=None, set=changes)


async def record_failure(
    deliveries: DueDocuments, lease: Lease, *, history: list[Document], due_at: datetime
) -> Settled:
    """pending → pending: another try at `due_at`."""
    changes = {"attempts": history[-1]["attempt"], "history": history}
    return await deliveries.settle(lease, due_at=due_at, seen_signals=None, set=changes)


async def bury(
    deliveries: DueDocuments,
    lease: Lease,
    *,
    reason: str,
    history: list[Document],
    expire_at: datetime,
) -> Settled:
    """pending → dead: kept as a dead letter, for replay."""
    changes = {
        "status": DeliveryStatus.DEAD,
        "reason": reason,
        "history": history,
        "expire_at": expire_at,
    }
    return await deliveries.settle(lease, due_at=FAR_FUTURE, seen_signals=None, set=changes)


async def replay_delivery(deliveries: DueDocuments, delivery_id: str) -> bool:
    """delivered | dead → pending, due now, with all its attempts ahead of it."""
    return await deliveries.wake(delivery_id, set={**_FRESH, "reason": None})


_GONE: Final = {"status": WebhookStatus.DISABLED, "reason": "gone", "disabled_by": None}


async def disable_gone(
    webhooks: AsyncCollection[Document], webhook_id: str, *, url: str, at: datetime
) -> bool:
    """active → disabled: its receiver answered 410; not if the address was changed meanwhile."""
    answer = await guarded(
        webhooks.update_one(
            {"_id": webhook_id, "url": url, "status": WebhookStatus.ACTIVE},
            {"$set": {**_GONE, "updated_at": at, "disabled_at": at}},
        )
    )
    return answer.matched_count == 1


async def change_webhook(
    webhooks: AsyncCollection[Document],
    webhook_id: str,
    *,
    client: str | None,
    changes: Mapping[str, Any],
    seen: Mapping[str, Any] | None = None,
) -> bool:
    """Set these fields, provided that those in `seen` still are what they were."""
    scope = {} if client is None else {"client": client}
    answer = await guarded(
        webhooks.update_one({"_id": webhook_id, **scope, **(seen or {})}, {"$set": dict(changes)})
    )
    return answer.matched_count == 1

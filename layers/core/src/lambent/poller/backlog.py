"""What waits and what was given up, over all kinds of due documents, for people who look."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from lambent.bus.transitions import DELIVERIES, EVENTS, WEBHOOKS, DeliveryStatus, EventStatus
from lambent.clock import Clock
from lambent.due import Database, DueDocuments, DueKind
from lambent.engine.model import RUNS
from lambent.mongo import guarded
from lambent.poller.generation import is_awake
from lambent.schedules.transitions import SCHEDULES

KINDS: Final = (RUNS, EVENTS, DELIVERIES, SCHEDULES)


@dataclass(frozen=True, slots=True)
class Late:
    """The document of a kind that has been due longest, with nobody at work on it."""

    kind: DueKind
    id: str
    due_at: datetime


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Deliveries to one webhook that were given up and are kept for a replay."""

    webhook: str
    url: str
    count: int


class Backlog:
    """Reads; each look is by an index."""

    def __init__(self, mongo: Database, *, clock: Clock) -> None:
        self._mongo = mongo
        self._clock = clock

    async def late(self) -> list[Late]:
        """One of each kind that has something due, the oldest first."""

        async def one(kind: DueKind) -> Late | None:
            found = await DueDocuments(self._mongo, kind, clock=self._clock).oldest()
            return None if found is None else Late(kind, found.id, found.due_at)

        late = await asyncio.gather(*map(one, KINDS))
        return sorted((each for each in late if each is not None), key=lambda each: each.due_at)

    async def poller_awake(self) -> bool:
        """Whether a poller has said that it looks now; on an idle platform none does."""
        return await is_awake(self._mongo, at=self._clock.now())

    async def dead_events(self, *, most: int) -> int:
        """How many were given up; counting stops at `most`."""
        events, failed = self._mongo.db[EVENTS.collection], {"status": EventStatus.FAILED}
        return await guarded(events.count_documents(failed, limit=most))

    async def dead_letters(self, *, most: int) -> list[DeadLetters]:
        """Of each webhook that has some, the most first; the first `most` of all are counted."""
        deliveries = self._mongo.db[DELIVERIES.collection].find(
            {"status": DeliveryStatus.DEAD}, {"webhook": 1}
        )
        found = await guarded(deliveries.limit(most).to_list())
        counts = Counter(one["webhook"] for one in found)
        # One that was deleted leaves its dead letters behind until they expire.
        webhooks = self._mongo.db[WEBHOOKS].find({"_id": {"$in": list(counts)}}, {"url": 1})
        urls = {one["_id"]: one["url"] for one in await guarded(webhooks.to_list())}
        return [DeadLetters(id, urls[id], n) for id, n in counts.most_common() if id in urls]

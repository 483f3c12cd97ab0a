"""The `Poller`: stays awake while something is due within its minute, and nudges for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from lambent.clock import EPOCH, Clock
from lambent.due import Database, DueKind
from lambent.errors import StoreUnavailable
from lambent.first_aid import explain
from lambent.metrics import Metric, flush, note
from lambent.mongo import Document, guarded
from lambent.poller.generation import HORIZON, Generation
from lambent.poller.source import LOOK_EVERY_S, Source
from lambent.telemetry import log_fields, logger

_MIN_PAUSE_S: Final = 0.01
# An alarm looks at each minute, and a poller may live through two of them.
_REPORT_EVERY_S: Final = 30.0


class Left(StrEnum):
    """Why a poller ended."""

    IDLE = "idle"  # nothing is due within its minute
    REPLACED = "replaced"  # a newer one is awake
    DEADLINE = "deadline"  # its function ends
    STOPPED = "stopped"


class Poller:
    """One poller's life, from its tick to its end."""

    def __init__(self, mongo: Database, sources: Sequence[Source], *, clock: Clock) -> None:
        self._mongo = mongo
        self._sources = sources
        self._clock = clock
        self._generation = Generation(mongo, clock=clock)
        self._stopped = False
        self._reported_s = clock.monotonic_s()
        self.looks = 0

    def stop(self) -> None:
        """Leave at the next look; what is due is for the next poller."""
        self._stopped = True

    async def watch(self, *, deadline_s: float) -> Left:
        """Find and nudge until there is nothing left to wait for, or `deadline_s` (monotonic)."""
        self._stopped = False
        awake = False
        while True:
            try:
                if not awake and not await self._anything_due():
                    note(Metric.DUE_LAG, 0.0)
                    return Left.IDLE
                if not awake:
                    await self._generation.take_over(self._until(deadline_s))
                    awake = True
                if left := await self._must_leave(deadline_s):
                    return left
                next_s = await self._look()
                if next_s is None:
                    if await self._fell_asleep():
                        return Left.IDLE
                    if not await self._generation.wake_up(self._until(deadline_s)):
                        return Left.REPLACED
                    next_s = self._clock.monotonic_s()
            except StoreUnavailable as error:
                # The store comes back, and what is due then is late already: stay and watch.
                logger().warning("the poller cannot look", **log_fields(problem=explain(error)))
                next_s = self._clock.monotonic_s() + error.retry_after_s
                if self._stopped or next_s >= deadline_s:
                    return Left.DEADLINE
            pause_s = min(next_s, deadline_s) - self._clock.monotonic_s()
            await self._clock.sleep(max(_MIN_PAUSE_S, pause_s))

    def _until(self, deadline_s: float) -> datetime:
        life_s = max(0.0, deadline_s - self._clock.monotonic_s())
        return self._clock.now() + timedelta(seconds=life_s)

    async def _must_leave(self, deadline_s: float) -> Left | None:
        if self._stopped or self._clock.monotonic_s() >= deadline_s:
            # Said, so that the next settle rings the bell at once.
            await self._generation.fall_asleep()
            return Left.STOPPED if self._stopped else Left.DEADLINE
        return None if await self._generation.is_newest() else Left.REPLACED

    async def _look(self) -> float | None:
        self.looks += 1
        instants = await asyncio.gather(*(source.look() for source in self._sources))
        if self._clock.monotonic_s() - self._reported_s >= _REPORT_EVERY_S:
            self._reported_s = self._clock.monotonic_s()
            flush()
        worth = [at_s for at_s in instants if at_s is not None]
        if not worth:
            return None
        # What is quiet now may get something to do: all are looked at once a second.
        return min([*worth, self._clock.monotonic_s() + LOOK_EVERY_S])

    async def _fell_asleep(self) -> bool:
        """Say so first, then look once more: whoever settled in between found us awake."""
        if not await self._generation.fall_asleep():
            return True
        return not await self._anything_due()

    async def _anything_due(self) -> bool:
        """Whether anything is due within the minute, leased or not: one command."""
        kinds = [source.documents.kind for source in self._sources]
        horizon = self._clock.now() + HORIZON
        first, *others = (_any_due(kind, horizon) for kind in kinds)
        unions = [
            {"$unionWith": {"coll": kind.collection, "pipeline": pipeline}}
            for kind, pipeline in zip(kinds[1:], others, strict=True)
        ]
        collection = self._mongo.db[kinds[0].collection]
        cursor = await guarded(collection.aggregate([*first, *unions, {"$limit": 1}]))
        return bool(await guarded(cursor.to_list()))


def _any_due(kind: DueKind, horizon: datetime) -> list[Document]:
    match: Document = {"due_at": {"$gte": EPOCH, "$lte": horizon}}
    if kind.levels:
        # The index begins with the priority: without it the server would read the collection.
        match["priority"] = {"$in": list(kind.levels)}
    return [{"$match": match}, {"$limit": 1}, {"$project": {"_id": 1}}]

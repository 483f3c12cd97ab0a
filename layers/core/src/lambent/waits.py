"""Keeps waits and satisfies them with events, by the same statements from both sides.

Shapes, shared by engine and bus:

event: `{_id, client, id, source, type, subject, time, received_at, data, datacontenttype,
dataschema, extensions, status, expire_at?}` and the fields of a due document (`due.py`). `_id` is
a ULID of ours; `id` and `source` are CloudEvents', and (client, source, id) is unique. `subject`
is None where there is none. `received_at` is the platform's clock and the only order there is.

wait: `{_id, run, epoch, key, kind, order, client, type, subject, where, since, deadline_at,
opened_at, status, event, record, closed_at}`. `_id` is "<run>/<epoch>/<key>". `event` is
"open:<_id>" until an event's `_id` takes its place, and (run, event) is unique: that index, and
no check before it, makes one event count once a run.

No event is lost, because each side writes before it looks: the run inserts its wait and then looks
back for events; the bus inserts an event and then looks for waits. Whoever comes second sees the
other, and both satisfy by one compare-and-set on `status: open` that copies the event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError

from lambent.clock import EPOCH, FAR_FUTURE, Clock
from lambent.due import Database, durable, read_winner
from lambent.mongo import Document, guarded
from lambent.where import matches

EVENTS: Final = "events"
WAITS: Final = "waits"
# Types of the platform's own events, such as answers to callbacks: nobody else publishes them.
RESERVED: Final = "lambent."
_PAGE: Final = 100
# What an author gets to see of an event, copied into the wait that it satisfies.
_COPIED: Final = ("id", "source", "type", "subject", "time", "received_at", "data")


def is_reserved(event_type: str) -> bool:
    """Whether only the platform itself may publish events of this type."""
    return event_type.startswith(RESERVED)


class WaitStatus(StrEnum):
    OPEN = "open"
    SATISFIED = "satisfied"
    TIMED_OUT = "timed out"
    CLOSED = "closed"  # its run ended first


class Taken(StrEnum):
    TAKEN = "taken"
    COUNTED = "counted"  # this run has that event already: try another
    CLOSED = "closed"  # the wait is no longer open: read it


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a delivery: the runs that had a fitting open wait, and where to go on.

    With the last page, `holders`: the runs that held the event already, whoever gave it to them.
    """

    runs: frozenset[str]
    after: datetime | None
    holders: frozenset[str] = frozenset()


def open_mark(wait_id: str) -> str:
    """What `event` holds while the wait is open: different for each, so that none collides."""
    return f"open:{wait_id}"


def fits(wait: Mapping[str, Any], event: Mapping[str, Any]) -> bool:
    """Whether this event is one that the wait asked for."""
    return (
        wait["client"] == event["client"]
        and wait["type"] == event["type"]
        and (wait["subject"] is None or wait["subject"] == event["subject"])
        and event["received_at"] >= wait["since"]
        and matches(wait["where"], event)
    )


class Waits:
    """The wait documents. Deliberately free of both the engine and the bus: they share it."""

    def __init__(self, mongo: Database, *, clock: Clock) -> None:
        self._mongo = mongo
        self._clock = clock

    @property
    def _waits(self) -> AsyncCollection[Document]:
        return self._mongo.db[WAITS]

    @property
    def _events(self) -> AsyncCollection[Document]:
        return self._mongo.db[EVENTS]

    async def ensure_indexes(self) -> None:
        """Make the indexes of the waits, and those of the events that a look-back needs."""
        await guarded(self._waits.create_index([("run", 1), ("event", 1)], unique=True))
        await guarded(self._waits.create_index([("event", 1)]))
        opened = [("client", 1), ("type", 1), ("status", 1), ("opened_at", 1)]
        await guarded(self._waits.create_index(opened))
        await guarded(self._waits.create_index("expire_at", expireAfterSeconds=0))
        lookback = [("client", 1), ("type", 1), ("received_at", 1)]
        await guarded(self._events.create_index(lookback))
        by_subject = [("client", 1), ("type", 1), ("subject", 1), ("received_at", 1)]
        await guarded(self._events.create_index(by_subject))

    async def open(self, wait: Document) -> Document:
        """Insert the wait, or read the one that was first under its `_id`.

        Look back after this, never before: an event between the two would be lost.
        """
        document = {**wait, "status": WaitStatus.OPEN.value, "event": open_mark(wait["_id"])}
        try:
            await guarded(self._waits.insert_one(document))
        except DuplicateKeyError:
            return await self.read(wait["_id"])
        return document

    async def look_back(
        self, wait: Document, *, stale: Callable[[Document], bool] = lambda holder: False
    ) -> Document:
        """The wait as it stands after trying the events that came before it, oldest first.

        `stale` says of another wait of this run that what it holds was given up (a restart cut
        it off): its event is set free and may count again.
        """
        query: Document = {"client": wait["client"], "type": wait["type"]}
        if wait["subject"] is not None:
            query["subject"] = wait["subject"]
        holders: dict[str, Document] | None = None
        since, limit = wait["since"], _PAGE
        while True:
            query["received_at"] = {"$gte": since, "$lt": FAR_FUTURE}
            cursor = self._events.find(query).sort("received_at", 1).limit(limit)
            events = await guarded(cursor.to_list())
            if events and holders is None:
                holders = await self._holders_of_run(wait["run"])
            for event in events:
                if (holders or {}).get(event["_id"], {}).get("_id") == wait["_id"]:
                    # A late owner gave it to this very wait since it was read here, and nobody
                    # will say so: its delivery may be over.
                    return await self.read(wait["_id"])
                if fits(wait, event) and await self._free(event["_id"], holders or {}, stale):
                    outcome = await self.take(wait, event)
                    if outcome is not Taken.COUNTED:
                        return await self.read(wait["_id"])
            if len(events) < limit:
                return wait
            # A page of one and the same instant would come again for ever: ask for more at once.
            limit = limit * 2 if events[-1]["received_at"] == since else _PAGE
            since = events[-1]["received_at"]

    async def _holders_of_run(self, run: str) -> dict[str, Document]:
        documents = await guarded(self._waits.find({"run": run}).to_list())
        return {document["event"]: document for document in documents}

    async def _free(
        self, event_id: str, holders: dict[str, Document], stale: Callable[[Document], bool]
    ) -> bool:
        holder = holders.get(event_id)
        if holder is None:
            return True
        if not stale(holder):
            return False
        await guarded(
            self._waits.update_one(
                {"_id": holder["_id"], "event": event_id},
                {"$set": {"event": f"void:{holder['_id']}"}},
            )
        )
        return True

    async def take(self, wait: Document, event: Document) -> Taken:
        """Satisfy an open wait with this event: one compare-and-set, from whichever side."""
        record = {name: event.get(name) for name in _COPIED}
        changes = {
            "status": WaitStatus.SATISFIED.value,
            "event": event["_id"],
            "record": record,
            "trace": event.get("trace"),
            "closed_at": self._clock.now(),
        }
        still_open = {"_id": wait["_id"], "status": WaitStatus.OPEN.value}
        try:
            answer = await guarded(self._waits.update_one(still_open, {"$set": changes}))
        except DuplicateKeyError:
            return Taken.COUNTED
        return Taken.TAKEN if answer.matched_count == 1 else Taken.CLOSED

    async def time_out(
        self, wait: Document, *, stale: Callable[[Document], bool] = lambda holder: False
    ) -> Document:
        """The wait after its deadline: an event that did arrive still counts, else timed out."""
        wait = await self.look_back(wait, stale=stale)
        if wait["status"] != WaitStatus.OPEN:
            return wait
        changes = {"status": WaitStatus.TIMED_OUT.value, "closed_at": self._clock.now()}
        # With the deadline that passed: a heartbeat may have moved it meanwhile.
        still_open = {
            "_id": wait["_id"],
            "status": WaitStatus.OPEN.value,
            "deadline_at": wait["deadline_at"],
        }
        await guarded(self._waits.update_one(still_open, {"$set": changes}))
        return await self.read(wait["_id"])

    async def extend(self, wait_id: str, deadline_at: datetime) -> bool:
        """Move the deadline of an open wait (a heartbeat); False: it is no longer open."""
        still_open = {"_id": wait_id, "status": WaitStatus.OPEN.value}
        answer = await guarded(
            self._waits.update_one(still_open, {"$set": {"deadline_at": deadline_at}})
        )
        return answer.matched_count == 1

    async def close(self, wait_id: str) -> None:
        """Close one open wait: its place in the run was cut off."""
        await guarded(
            self._waits.update_one(
                {"_id": wait_id, "status": WaitStatus.OPEN.value},
                {"$set": {"status": WaitStatus.CLOSED.value, "closed_at": self._clock.now()}},
            )
        )

    async def consume(self, wait_ids: list[str]) -> None:
        """Mark waits whose events stay taken though the run goes on in another epoch."""
        if wait_ids:
            await guarded(
                self._waits.update_many({"_id": {"$in": wait_ids}}, {"$set": {"consumed": True}})
            )

    async def close_run(self, run: str, *, up_to: int) -> None:
        """Close what an ended run left open, so that no delivery looks at it any more.

        `up_to`: its epoch; who comes late must not close what a retry has opened since.
        """
        await guarded(
            self._waits.update_many(
                {"run": run, "status": WaitStatus.OPEN.value, "epoch": {"$gte": 0, "$lte": up_to}},
                {"$set": {"status": WaitStatus.CLOSED.value, "closed_at": self._clock.now()}},
            )
        )

    async def reopen(self, wait_id: str) -> None:
        """Open a wait again that the end of its run closed: the run goes on after all."""
        await guarded(
            self._waits.update_one(
                {"_id": wait_id, "status": WaitStatus.CLOSED.value},
                {"$set": {"status": WaitStatus.OPEN.value}, "$unset": {"closed_at": ""}},
            )
        )

    async def satisfy(self, event: Document, *, after: datetime | None = None) -> Page:
        """Offer the event to one page of open waits; go on with `after` until it is None.

        Every run in `runs` and `holders` is to be woken, whoever satisfied its wait.
        """
        query = {"client": event["client"], "type": event["type"], "status": WaitStatus.OPEN.value}
        limit = _PAGE
        since = after or EPOCH
        runs: set[str] = set()
        while True:
            query["opened_at"] = {"$gte": since, "$lt": FAR_FUTURE}
            cursor = self._waits.find(query).sort("opened_at", 1).limit(limit)
            waits = await guarded(cursor.to_list())
            fitting = [wait for wait in waits if fits(wait, event)]
            runs |= {wait["run"] for wait in fitting}
            if len(waits) < limit:
                # Beside the takes: what was open just now is in `runs`, and whatever else has the
                # event by then has had it before.
                taking = self._take_each(fitting, event)
                holders, _ = await asyncio.gather(self.holders(event["_id"]), taking)
                return Page(frozenset(runs), None, holders - runs)
            await self._take_each(fitting, event)
            if waits[-1]["opened_at"] > since:
                return Page(frozenset(runs), waits[-1]["opened_at"])
            limit *= 2

    async def _take_each(self, waits: list[Document], event: Document) -> None:
        for wait in waits:
            await self.take(wait, event)

    async def holders(self, event_id: str) -> frozenset[str]:
        """The runs that hold this event, whoever gave it to them.

        They are woken at each delivery: a crash, or a late owner's look-back, between satisfying
        and waking would else leave one asleep for ever.
        """
        documents = await guarded(self._waits.find({"event": event_id}, {"run": 1}).to_list())
        return frozenset(document["run"] for document in documents)

    async def of_run(self, run: str) -> list[Document]:
        """Every wait of a run, of all epochs, as no failover can take them back."""
        return await guarded(durable(self._waits).find({"run": run}).to_list())

    async def find(self, wait_id: str) -> Document | None:
        """The wait, if there is one."""
        return await guarded(self._waits.find_one({"_id": wait_id}))

    async def read(self, wait_id: str) -> Document:
        """The wait as it stands."""
        document = await read_winner(self._waits, wait_id)
        if document is None:
            raise LookupError(f"the wait {wait_id} was deleted under its run")
        return document

"""Finds, claims, renews, wakes, settles and releases due documents: all waiting work alike.

A due document has `due_at`, `lease`, `lease_until`, `signals` and `claims` (see
`new_due_fields`). Runs, undelivered events, webhook deliveries and schedules are due documents.

The rules, each of which kills a counterexample:

* `due_at` alone says whether a document wants work; nothing due = FAR_FUTURE, never null.
* A claim is one guarded update and then a read by the fresh token, even when the write reported
  no match or an error: a lost acknowledgement must not strand a lease.
* A claim need not outlive a crash of the store, so it does not wait for disks and replicas: a
  lease that the store forgets makes its owner a late one, of which there are others anyway.
* A claimed document keeps its `due_at`: whoever dies leaves it due, with a lease that lapses.
* A wake never takes a live lease away: it counts `signals` up, and the owner, whose settle is
  guarded by the count it had seen, looks again.
* A settle leaves its token behind, so that its owner, not having been told, knows its own write.
* A settle that leaves the document due at once needs no such guard: a flood of signals must not
  hold off a deadline.

Every statement names `_id`, an index equality or a two-sided range, and none uses `$or`,
transactions or findAndModify: so they are fast on a MongoDB-compatible server whose planner knows
only those, and correct on a standalone one.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Protocol

from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from lambent.clock import EPOCH, Clock
from lambent.errors import StoreUnavailable
from lambent.mongo import Document, guarded

LEASE_S: Final = 30.0
# How far ahead of its due time a nudged document may be taken: the clocks of two machines differ.
CLAIM_AHEAD_S: Final = 1.0
_FLEETING: Final = WriteConcern(w=1, j=False)


class Database(Protocol):
    """What holds the database of this event loop; `lambent.mongo.Mongo` is one."""

    @property
    def db(self) -> AsyncDatabase[Document]: ...


@dataclass(frozen=True, slots=True)
class DueKind:
    """One collection of due documents.

    `levels`: the values of its field `priority`, first served first; empty: it has no such field.
    `wakeable`: what must hold, besides the `_id`, for a wake to reach a document.
    `unread`: fields that only people look at; they do not travel with a claim.
    """

    collection: str
    levels: tuple[int, ...] = ()
    wakeable: Mapping[str, Any] = field(default_factory=dict)
    unread: tuple[str, ...] = ()

    @property
    def read(self) -> Mapping[str, int] | None:
        """The projection of a document as its owner reads it."""
        return dict.fromkeys(self.unread, 0) or None


@dataclass(frozen=True, slots=True)
class DueId:
    """A document that may be claimed. `alone`: its last owner died, so let it take no other down
    with it: send it in a batch of its own."""

    id: str
    due_at: datetime
    alone: bool


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write to one document. `ends_s` is its end on the monotonic clock, counted from
    before the claim was sent: the owner lets go no later than the server does."""

    kind: DueKind
    id: str
    token: str
    ends_s: float


@dataclass(frozen=True, slots=True)
class Claimed:
    """A document as it was read after the claim, and the lease on it."""

    document: Document
    lease: Lease


class Settled(StrEnum):
    DONE = "done"
    SIGNALLED = "signalled"  # still ours: something woke it since it was read; look again
    LOST = "lost"  # the lease lapsed and someone else may have it: write nothing more


def new_due_fields(due_at: datetime) -> Document:
    """The fields that make a new document a due document, owned by nobody."""
    return {"due_at": due_at, "lease": None, "lease_until": EPOCH, "signals": 0, "claims": 0}


class DueDocuments:
    """The due documents of one kind."""

    def __init__(self, mongo: Database, kind: DueKind, *, clock: Clock) -> None:
        self._mongo = mongo
        self.kind = kind
        self._clock = clock

    @property
    def collection(self) -> AsyncCollection[Document]:
        return self._mongo.db[self.kind.collection]

    @property
    def _fleeting(self) -> AsyncCollection[Document]:
        return self.collection.with_options(write_concern=_FLEETING)

    async def ensure_indexes(self) -> None:
        """Make the indexes that `find` and `next_due_at` stand on; for setup."""
        prefix = [("priority", 1)] if self.kind.levels else []
        await guarded(self.collection.create_index([*prefix, ("due_at", 1)]))
        await guarded(self.collection.create_index([("lease_until", 1)]))

    async def find(self, limit: int, *, ahead_s: float = 0.0) -> list[DueId]:
        """Up to `limit` documents to claim: by level, the oldest first within each.

        An eighth of the batch is left to lower levels that have something, so that they never
        starve. A server without limits inside index scans pays for all that is due: ask seldom
        for many, not often for few.
        """
        now = self._clock.now()
        horizon = now + timedelta(seconds=ahead_s)
        found = [await self._find(level, now, horizon, limit) for level in self._filters()]
        return _shared_out(found, limit)

    async def _find(
        self, level: Document, now: datetime, horizon: datetime, limit: int
    ) -> list[DueId]:
        due = {**level, "due_at": {"$gte": EPOCH, "$lte": horizon}}
        asked = limit
        while True:
            # Leases are looked at here: for a second range in the filter, a server that is only
            # compatible with MongoDB leaves the index and reads every document there is.
            cursor = self.collection.find(due, {"due_at": 1, "claims": 1, "lease_until": 1})
            documents = await guarded(cursor.sort("due_at", 1).limit(asked).to_list())
            free = [one for one in documents if one["lease_until"] <= now]
            if len(free) >= limit or len(documents) < asked:
                return [DueId(d["_id"], d["due_at"], alone=d["claims"] > 0) for d in free[:limit]]
            # Those that are worked on keep their place in the order.
            asked *= 4

    async def oldest(self) -> DueId | None:
        """What has been due longest while nobody works on it; None where there is nothing."""
        now = self._clock.now()
        found = [one for level in self._filters() for one in await self._find(level, now, now, 1)]
        return min(found, key=lambda one: one.due_at, default=None)

    async def next_due_at(self, before: datetime) -> datetime | None:
        """The next instant, after now and up to `before`, at which `find` may find more.

        The smaller of the earliest future `due_at` and the earliest end of a live lease (of a
        document that is due anyway, as every leased one is).
        """
        now = self._clock.now()
        window = {"$gt": now, "$lte": before}
        nexts = [await self._first(level, "due_at", window) for level in self._filters()]
        nexts.append(await self._first({}, "lease_until", window))
        return min((at for at in nexts if at is not None), default=None)

    async def _first(self, level: Document, name: str, window: Document) -> datetime | None:
        cursor = self.collection.find({**level, name: window}, {name: 1}).sort(name, 1).limit(1)
        for document in await guarded(cursor.to_list()):
            at: datetime = document[name]
            return at
        return None

    async def claim(self, document_id: str, *, ahead_s: float = CLAIM_AHEAD_S) -> Claimed | None:
        """Take the document if it is due and free; None otherwise.

        Takes it up to `ahead_s` before its time and then waits the rest here, warm. Adds one to
        `claims`, which only a settle sets back: so the count says how often owners died.
        """
        now = self._clock.now()
        begun_s = self._clock.monotonic_s()
        token = secrets.token_hex(12)
        horizon = now + timedelta(seconds=ahead_s)
        due = {"$gte": EPOCH, "$lte": horizon}
        with suppress(StoreUnavailable):
            await guarded(
                self._fleeting.update_one(
                    {"_id": document_id, "due_at": due, "lease_until": {"$lte": now}},
                    {"$set": {"lease": token, "lease_until": _lapse(now)}, "$inc": {"claims": 1}},
                )
            )
        # Read whatever the write answered: the lease may be ours without our having been told.
        lease = Lease(self.kind, document_id, token, begun_s + LEASE_S)
        document = await self.own(lease)
        if document is None:
            return None
        if document["due_at"] > horizon:
            # Put off between the two (a schedule changed, a debounced run joined): not due at all.
            await self.release(lease)
            return None
        await self._wait_for(document["due_at"])
        return Claimed(document, lease)

    async def own(self, lease: Lease) -> Document | None:
        """The document as its owner reads it; None where it is not held under this lease.

        Asked for by its `_id` alone: with a second condition, a server that is only compatible
        with MongoDB plans for longer than it reads.
        """
        found = await guarded(self.collection.find_one({"_id": lease.id}, self.kind.read))
        return found if found is not None and found["lease"] == lease.token else None

    def hold(self, document: Document) -> Lease:
        """Make a document that is about to be inserted its inserter's, as if it had been claimed.

        The insert is then the claim. Whoever dies after it leaves the document due, under a lease
        that lapses, as every owner does.
        """
        begun_s = self._clock.monotonic_s()
        token = secrets.token_hex(12)
        document |= {"lease": token, "lease_until": _lapse(self._clock.now()), "claims": 1}
        return Lease(self.kind, document["_id"], token, begun_s + LEASE_S)

    async def _wait_for(self, due_at: datetime) -> None:
        early_s = (due_at - self._clock.now()).total_seconds()
        if early_s > 0:
            await self._clock.sleep(early_s)

    async def renew(self, lease: Lease, *, set: Mapping[str, Any] | None = None) -> Lease | None:
        """The lease, prolonged, with `set` (a cursor, say) saved in the same update; None = lost.

        Raises `StoreUnavailable` where the server does not answer, which is not a loss: try again
        until `ends_s`.
        """
        begun_s = self._clock.monotonic_s()
        changes = {**(set or {}), "lease_until": _lapse(self._clock.now())}
        answer = await guarded(
            self.collection.update_one({"_id": lease.id, "lease": lease.token}, {"$set": changes})
        )
        if answer.matched_count == 0:
            return None
        return Lease(lease.kind, lease.id, lease.token, begun_s + LEASE_S)

    async def write(
        self,
        lease: Lease,
        update: Mapping[str, Any],
        *,
        where: Mapping[str, Any] | None = None,
        lasting: bool = True,
    ) -> bool:
        """One update under the lease that keeps it; False: lost, or `where` does not hold.

        `lasting`: whether it must outlive a crash of the store.
        """
        guard = {"_id": lease.id, "lease": lease.token, **(where or {})}
        collection = self.collection if lasting else self._fleeting
        answer = await guarded(collection.update_one(guard, dict(update)))
        return answer.matched_count == 1

    async def wake(
        self,
        document_id: str,
        *,
        set: Mapping[str, Any] | None = None,
        where: Mapping[str, Any] | None = None,
        also: Mapping[str, Any] | None = None,
        unowned: bool = False,
    ) -> bool:
        """Make it due now and tell its owner, if any, to look again; `set`, and what `also` adds
        to the update, is seen together with the signal. `unowned`: only if it has no owner.
        False: no such wakeable document."""
        update: Document = {"$inc": {"signals": 1}, "$min": {"due_at": self._clock.now()}}
        update |= also or {}
        if set:
            update["$set"] = dict(set)
        guard = dict(self.kind.wakeable if where is None else where)
        if unowned:
            guard["lease_until"] = {"$lte": self._clock.now()}
        answer = await guarded(self.collection.update_one({"_id": document_id, **guard}, update))
        return answer.matched_count == 1

    async def settle(
        self,
        lease: Lease,
        *,
        due_at: datetime,
        seen_signals: int | None,
        set: Mapping[str, Any] | None = None,
        unset: Sequence[str] = (),
        where: Mapping[str, Any] | None = None,
        also: Mapping[str, Any] | None = None,
        lasting: bool = True,
    ) -> Settled:
        """Give the document back with its next due time and what else changes, in one update.

        `seen_signals`: the `signals` that the owner acted upon; None for documents that are never
        woken. Not asked for where the document stays due at once. `where`: further conditions;
        failing them answers SIGNALLED, for the document is then not what the owner thought.
        `lasting`: as for `write`; one that the store forgets leaves the document due again.
        """
        guard: Document = {"_id": lease.id, "lease": lease.token, **(where or {})}
        if seen_signals is not None and due_at > self._clock.now():
            guard["signals"] = seen_signals
        changes = {**(set or {}), "due_at": due_at, **_FREED, "claims": 0, "settled": lease.token}
        update: Document = {"$set": changes, **(also or {})}
        if unset:
            update["$unset"] = dict.fromkeys(unset, "")
        collection = self.collection if lasting else self._fleeting
        answer = await guarded(collection.update_one(guard, update))
        if answer.matched_count == 1:
            return Settled.DONE
        found = await guarded(self.collection.find_one({"_id": lease.id}, _OWNERS))
        if found is not None and found["lease"] == lease.token:
            return Settled.SIGNALLED
        # Settled under this very lease: it was this write, and its acknowledgement was lost.
        done = found is not None and found.get("settled") == lease.token
        return Settled.DONE if done else Settled.LOST

    async def release(self, lease: Lease) -> None:
        """Give it back untouched and uncounted: it was claimed but no work was begun on it."""
        await guarded(
            self.collection.update_one(
                {"_id": lease.id, "lease": lease.token},
                {"$set": dict(_FREED), "$inc": {"claims": -1}},
            )
        )

    def _filters(self) -> list[Document]:
        return [{"priority": level} for level in self.kind.levels] or [{}]


def durable(collection: AsyncCollection[Document]) -> AsyncCollection[Document]:
    """The collection, read so that no failover can take back what was read.

    It shows every write that was acknowledged, as all that matter here wait for a majority; it
    costs no round trip.
    """
    return collection.with_options(read_concern=ReadConcern("majority"))


async def read_winner(collection: AsyncCollection[Document], document_id: str) -> Document | None:
    """The document whose insert came first, read so that no failover can take it back."""
    return await guarded(durable(collection).find_one({"_id": document_id}))


_OWNERS: Final = {"lease": 1, "settled": 1}
_FREED: Final[Mapping[str, Any]] = {"lease": None, "lease_until": EPOCH}


def _lapse(now: datetime) -> datetime:
    return now + timedelta(seconds=LEASE_S)


def _shared_out(levels: Sequence[list[DueId]], limit: int) -> list[DueId]:
    """The batch: the first level first, but an eighth kept for the levels below it."""
    if not levels or limit <= 0:
        return []
    head, lower = levels[0], levels[1:]
    kept = min(sum(len(level) for level in lower), (limit + 4) // 8)
    first = head[: limit - kept]
    return first + _shared_out(lower, limit - len(first))

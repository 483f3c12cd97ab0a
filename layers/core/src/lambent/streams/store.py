"""`StreamStore`: the documents of streams and their events; every state change of both."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from lambent.clock import FAR_FUTURE, Clock
from lambent.streams.values import Batch, Dialect, Stream, StreamStatus

if TYPE_CHECKING:
    from pymongo.asynchronous.collection import AsyncCollection

    from lambent.mongo import Document, Mongo

STREAMS: Final = "streams"
FRAMES: Final = "stream_frames"
OWNER_LEASE: Final = timedelta(seconds=10)
# A page that is loaded again is back within this.
LEFT: Final = timedelta(seconds=5)
# Events of a stream that never ended properly are kept no longer than this.
_LONGEST: Final = timedelta(days=1)
# Above every number of an event: a range has to be two-sided to be found by an index.
_NUMBERS: Final = 1 << 52
_BATCHES: Final = 100
_REST_S: Final = 5.0


class FramesTaken(Exception):
    """Somebody else has written these events: the stream has another owner."""


class StreamStore:
    """Every method may raise `StoreUnavailable`; `mongo` is called at its first use."""

    def __init__(self, mongo: Callable[[], Mongo], *, clock: Clock) -> None:
        self._mongo = mongo
        self._clock = clock
        self._rests_until_s = 0.0
        self._prepared = False

    @property
    def rests(self) -> bool:
        """Whether MongoDB was away just now: then no stream waits long for it."""
        return self._clock.monotonic_s() < self._rests_until_s

    def rest(self) -> None:
        """MongoDB is away."""
        self._rests_until_s = self._clock.monotonic_s() + _REST_S

    async def ensure_indexes(self) -> None:
        """Part of the setup."""
        from lambent.mongo import guarded

        for collection in (self._streams, self._frames):
            await guarded(collection.create_index("expire_at", expireAfterSeconds=0))
        await guarded(self._frames.create_index([("stream", 1), ("last", 1)]))

    async def prepare(self) -> None:
        """Load the driver in a thread: a stream that is under way shall not stand still for it."""
        if not self._prepared:  # a thread costs the first token something each time
            await asyncio.to_thread(importlib.import_module, "lambent.mongo")
            self._prepared = True

    async def open(self, stream: Stream) -> None:
        """none -> `stream.status`; a second insert of the same stream by its owner is no error."""
        from pymongo.errors import DuplicateKeyError

        from lambent.mongo import guarded

        document = {
            "_id": stream.id,
            "client": stream.client,
            "dialect": stream.dialect.value,
            "status": stream.status.value,
            "lease": stream.lease,
            "lease_until": stream.lease_until,
            "stop": stream.stop,
            "attached": stream.attached,
            "readers_lease_s": stream.readers_lease_s,
            "readers_until": stream.readers_until,
            "kept_after_s": stream.kept_after.total_seconds(),
            "created_at": self._clock.now(),
            "expire_at": self._expiry(stream),
        }
        try:
            await guarded(self._streams.insert_one(document))
        except DuplicateKeyError:
            found = await self.look(stream.id)
            if found is None or found.lease != stream.lease:
                raise FramesTaken(stream.id) from None

    async def append(
        self, stream: Stream, first: int, events: Sequence[bytes], *, kept: timedelta | None = None
    ) -> int:
        """Write events from number `first` on; the number of the last.

        Raises `FramesTaken`. Writing the same events a second time, because the first answer was
        lost, is no error. `kept` has to outlast the stream; a day and more where it is not given.
        """
        from pymongo.errors import DuplicateKeyError

        from lambent.mongo import guarded

        last = first + len(events) - 1
        id, data = f"{stream.id}/{first}", b"".join(events)
        document = {
            "_id": id,
            "stream": stream.id,
            "first": first,
            "last": last,
            "data": data,
            "expire_at": self._clock.now() + (kept or _LONGEST + stream.kept_after),
        }
        try:
            await guarded(self._frames.insert_one(document))
        except DuplicateKeyError:
            found = await guarded(self._frames.find_one({"_id": id}))
            if found is None or found["last"] != last or bytes(found["data"]) != data:
                raise FramesTaken(id) from None
        return last

    async def renew(self, stream: Stream) -> bool:
        """live -> live, for another while; False where it is no longer this owner's."""
        until = self._clock.now() + OWNER_LEASE
        expiry = until + stream.kept_after
        return await self._change(_owned(stream), {"lease_until": until, "expire_at": expiry})

    async def finish(self, stream: Stream, status: StreamStatus) -> bool:
        """live -> `status`, after the last event was written; False where it had ended."""
        from lambent.mongo import guarded

        expiry = self._clock.now() + stream.kept_after
        ended = await self._change(
            _owned(stream), {"status": status.value, "lease_until": FAR_FUTURE, "expire_at": expiry}
        )
        # Last: a crash before it leaves events to their own, longer time.
        await guarded(
            self._frames.update_many({"stream": stream.id}, {"$set": {"expire_at": expiry}})
        )
        return ended

    async def lapse(self, stream: Stream) -> bool:
        """live -> failed, where the owner's lease is still the one that was seen to lapse."""
        seen = {**_owned(stream), "lease_until": stream.lease_until}
        expiry = self._clock.now() + stream.kept_after
        return await self._change(seen, {"status": StreamStatus.FAILED.value, "expire_at": expiry})

    async def ask_stop(self, id: str, *, client: str) -> None:
        """live -> live, with the wish that its owner stops; nothing where it has ended."""
        await self._change(_live(id, client), {"stop": True})

    async def attach(self, stream: Stream) -> None:
        """live -> live: another reader is there, which renews the readers' lease too."""
        await self._change(
            _live(stream.id, stream.client), {"attached": True, **self._lease(stream)}
        )

    async def renew_readers(self, stream: Stream) -> datetime | None:
        """live -> live, with the readers' lease renewed; until when, if there is such a lease."""
        changes = self._lease(stream)
        if changes:
            await self._change(_live(stream.id, stream.client), changes)
        return changes.get("readers_until")

    async def prolong_readers(self, stream: Stream, until: datetime) -> None:
        """live -> live, with a whole readers' lease until then, where it does not last longer and
        no reader has said since this one came that it goes."""
        came_at = until - timedelta(seconds=stream.readers_lease_s or 0)
        live = _live(stream.id, stream.client)
        still = {"readers_until": {"$lt": until}, "left_at": {"$not": {"$gt": came_at}}}
        await self._change({**live, **still}, {"readers_until": until})

    async def leave(self, stream: Stream) -> datetime | None:
        """live -> live: a reader says that it goes. Where the readers hold a lease, it lapses
        soon unless one of them renews it, which is told; else the stream is asked to stop. A
        stream that a run makes goes on without a lease: it needs no reader."""
        live = _live(stream.id, stream.client)
        if stream.status is not StreamStatus.LIVE:
            return None
        if stream.readers_lease_s is None:
            if not stream.made_by_run:
                await self._change(live, {"stop": True})
            return None
        from lambent.mongo import guarded

        now = self._clock.now()
        until = now + LEFT
        # Never later: a lease that was about to lapse is not made longer by leaving.
        changes = {"$set": {"left_at": now}, "$min": {"readers_until": until}}
        await guarded(self._streams.update_one(live, changes))
        return until

    async def look(self, id: str) -> Stream | None:
        """The stream, whoever owns it."""
        from lambent.mongo import guarded

        found = await guarded(self._streams.find_one({"_id": id}))
        return None if found is None else _stream(found)

    async def read(self, id: str, *, after: int) -> list[Batch]:
        """Batches with events above `after`, in order; there may be more behind them."""
        from lambent.mongo import guarded

        wanted = {"stream": id, "last": {"$gt": after, "$lt": _NUMBERS}}
        found = self._frames.find(wanted).sort([("stream", 1), ("last", 1)]).limit(_BATCHES)
        return [
            Batch(one["first"], one["last"], bytes(one["data"]))
            for one in await guarded(found.to_list(None))
        ]

    async def last(self, id: str) -> int:
        """The number of the last event; 0 where there is none."""
        from lambent.mongo import guarded

        wanted = {"stream": id, "last": {"$gt": 0, "$lt": _NUMBERS}}
        found = self._frames.find(wanted, {"last": 1}).sort([("stream", -1), ("last", -1)]).limit(1)
        return next((int(one["last"]) for one in await guarded(found.to_list(None))), 0)

    def _lease(self, stream: Stream) -> dict[str, Any]:
        if stream.readers_lease_s is None:
            return {}
        return {"readers_until": self._clock.now() + timedelta(seconds=stream.readers_lease_s)}

    def _expiry(self, stream: Stream) -> datetime:
        # A stream that something else guarantees the end of is not to expire before it.
        if stream.status is StreamStatus.LIVE and stream.lease_until == FAR_FUTURE:
            return FAR_FUTURE
        alive = stream.lease_until if stream.status is StreamStatus.LIVE else self._clock.now()
        return alive + stream.kept_after

    async def _change(self, where: Document, changes: Document) -> bool:
        from lambent.mongo import guarded

        done = await guarded(self._streams.update_one(where, {"$set": changes}))
        return done.matched_count == 1

    @property
    def _streams(self) -> AsyncCollection[Document]:
        return self._mongo().db[STREAMS]

    @property
    def _frames(self) -> AsyncCollection[Document]:
        return self._mongo().db[FRAMES]


def _owned(stream: Stream) -> Document:
    return {"_id": stream.id, "lease": stream.lease, "status": StreamStatus.LIVE.value}


def _live(id: str, client: str) -> Document:
    return {"_id": id, "client": client, "status": StreamStatus.LIVE.value}


def _stream(found: Document) -> Stream:
    return Stream(
        id=found["_id"],
        client=found["client"],
        dialect=Dialect(found["dialect"]),
        lease=found["lease"],
        lease_until=found["lease_until"],
        status=StreamStatus(found["status"]),
        stop=found["stop"],
        attached=found["attached"],
        readers_lease_s=found["readers_lease_s"],
        readers_until=found["readers_until"],
        kept_after=timedelta(seconds=found["kept_after_s"]),
    )

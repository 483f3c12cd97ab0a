"""The MongoDB connection of one environment: short limits, and fresh sockets after a freeze."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar
from weakref import WeakSet

from pymongo import AsyncMongoClient
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    DuplicateKeyError,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
)

from lambent.clock import Clock
from lambent.errors import StoreUnavailable
from lambent.rotation import RotatingSecret
from lambent.telemetry import logger
from lambent.tls import mongo_options

Document = dict[str, Any]
T = TypeVar("T")
_DUPLICATE_KEY: Final = 11000

_NOT_SET_UP: Final = (
    "MongoDB lacks the indexes that this version needs (of %s in the database %s). "
    "Invoke the setup function, or deploy again."
)
# AuthenticationFailed; and what Atlas calls it.
_REFUSALS: Final = (18, 8000)
# Idle sockets do not outlive the NAT and load balancer tables on the way.
_FREEZE: Final = timedelta(seconds=20)
# Defaults stall 20 s on a socket that died while the process was frozen (measured).
_LIMITS: Final[dict[str, Any]] = {
    "timeoutMS": 4000,
    "socketTimeoutMS": 3000,
    "connectTimeoutMS": 2000,
    "serverSelectionTimeoutMS": 3000,
    "maxIdleTimeMS": 20000,
    "maxPoolSize": 10,
    "tz_aware": True,
    "w": "majority",
    "journal": True,
    "appname": "lambent",
}


class Mongo:
    """Owns the client. Made lazily, inside the event loop that uses it.

    `timeoutMS` bounds each call to 4 s; what raises then is `StoreUnavailable` where callers
    go through `guarded`, else PyMongo's own error.
    """

    def __init__(
        self, uri: str | RotatingSecret, db_name: str, *, clock: Clock, ca: str = ""
    ) -> None:
        """`ca`: certificates that the server's is verified by, as `tls.bundle` takes them."""
        if not isinstance(uri, RotatingSecret):
            uri = RotatingSecret("MONGO_URI", uri, clock=clock)
        self._uri = uri
        self._ca = ca
        self._told = uri.value
        self._db_name = db_name
        self._clock = clock
        self._client: AsyncMongoClient[Document] | None = None
        self._used_at: datetime = clock.now()
        self._closing: set[asyncio.Task[None]] = set()
        self._set_up = False
        _CONNECTED.add(self)

    @property
    def db(self) -> AsyncDatabase[Document]:
        """The database, over sockets that this environment was awake to see."""
        now = self._clock.now()
        if self._client is not None and now - self._used_at > _FREEZE:
            self._drop(self._client)
        if self._client is None:
            self._told = self._uri.value
            options = _LIMITS | mongo_options(self._told, self._ca)
            self._client = AsyncMongoClient(self._told, **options)
        self._used_at = now
        return self._client[self._db_name]

    async def ping(self) -> None:
        """Raises `StoreUnavailable` unless the server answers a command."""
        await guarded(self.db.command("ping"))

    @asynccontextmanager
    async def expecting_indexes(self, collection: str) -> AsyncIterator[None]:
        """Look, beside the block and until they were seen once, for what setup makes there.

        Collections come by themselves: without setup nothing fails, and what the unique indexes
        promise does not hold. So it is said.
        """
        look = None if self._set_up else asyncio.create_task(self._look_for_indexes(collection))
        try:
            yield
        finally:
            if look is not None:
                await look

    async def _look_for_indexes(self, collection: str) -> None:
        # A store that does not answer, or forbids this question, is for the work itself to meet.
        with suppress(StoreUnavailable, PyMongoError):
            kept = await guarded(self.db[collection].index_information())
            self._set_up = any(one.get("unique") for name, one in kept.items() if name != "_id_")
            if not self._set_up:
                logger().critical(_NOT_SET_UP, collection, self._db_name)

    async def renew(self) -> None:
        """After a refusal: take up the rotated credentials, if there are any."""
        if await self._uri.renew(self._told) and self._client is not None:
            self._drop(self._client)

    async def close(self) -> None:
        """Close every socket; the next use makes a new client."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _drop(self, client: AsyncMongoClient[Document]) -> None:
        self._client = None
        # Closing says goodbye on sockets that may be dead: off the caller's path.
        task = asyncio.get_running_loop().create_task(client.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def guarded(call: Awaitable[T]) -> T:
    """Await one store call, with "does not answer" turned into `StoreUnavailable`."""
    try:
        return await call
    except PyMongoError as error:
        if is_refused(error):
            # Whose call this was, it does not say; an environment has one store.
            for store in list(_CONNECTED):
                await store.renew()
            said = "MongoDB does not accept this platform's credentials."
            raise StoreUnavailable(said, retry_after_s=1.0) from error
        if is_unreachable(error):
            raise StoreUnavailable("MongoDB does not answer.", retry_after_s=2.0) from error
        raise


async def oldest_first(
    collection: AsyncCollection[Document], query: Document, *, limit: int, after: str | None
) -> list[Document]:
    """A page by `_id`, which tells when it was made; `after` is the last of the page before."""
    if after is not None:
        query = {**query, "_id": {"$gt": after, "$lt": "~"}}
    return await guarded(collection.find(query).sort("_id", 1).limit(limit).to_list())


async def one_by_one(
    collection: AsyncCollection[Document], ids: Iterable[str], read: Mapping[str, int] | None
) -> list[Document]:
    """Those of these ids that are there, in this order; `read` is the projection.

    Not by a list of ids: a server may look for one in every document there is.
    """
    looks = (guarded(collection.find_one({"_id": one}, read)) for one in ids)
    return [one for one in await asyncio.gather(*looks) if one is not None]


async def insert_new(
    collection: AsyncCollection[Document], documents: Sequence[Document]
) -> set[int]:
    """Insert all that do not exist yet; answers the places of those that did.

    Nothing is overwritten: what makes a document the same is for the unique indexes to say.
    """
    try:
        if len(documents) == 1:
            await guarded(collection.insert_one(documents[0]))
        else:
            await guarded(collection.insert_many(documents, ordered=False))
    except DuplicateKeyError:
        return {0}
    except BulkWriteError as error:
        failures = error.details["writeErrors"]
        if any(one["code"] != _DUPLICATE_KEY for one in failures):
            raise
        return {one["index"] for one in failures}
    return set()


async def drop_former_indexes(collection: AsyncCollection[Document], *names: str) -> None:
    """Drop what a release before made and nothing asks by any more: it costs at every write."""
    kept = await guarded(collection.index_information())
    for name in names:
        if name in kept:
            with suppress(OperationFailure):  # another setup was quicker
                await guarded(collection.drop_index(name))


def is_refused(error: PyMongoError) -> bool:
    """Whether the server did not take our credentials."""
    return isinstance(error, OperationFailure) and error.code in _REFUSALS


def is_unreachable(error: PyMongoError) -> bool:
    """Whether the error says that no server answered in time, as against an answer we dislike."""
    return isinstance(error, ConnectionFailure | NetworkTimeout) or bool(
        getattr(error, "timeout", False)
    )


_CONNECTED: Final[WeakSet[Mongo]] = WeakSet()

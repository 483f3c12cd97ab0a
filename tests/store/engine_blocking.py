"""The store over a blocking client: for searches that make one call at a time anyway.

Half the cost of the asynchronous client, which is most of the cost of a schedule.
"""

from __future__ import annotations

from typing import Any, cast

from pymongo import MongoClient
from pymongo.asynchronous.database import AsyncDatabase

from lambent.mongo import Document


class BlockingMongo:
    """`Database` for the engine. Acknowledged by memory: no schedule here kills the server."""

    def __init__(self, uri: str, db_name: str) -> None:
        self.client: MongoClient[Document] = MongoClient(
            uri, w=1, journal=False, tz_aware=True, maxPoolSize=1, retryWrites=False
        )
        self._db = _Db(self.client, db_name)

    @property
    def db(self) -> AsyncDatabase[Document]:
        return cast("AsyncDatabase[Document]", self._db)

    def drop(self) -> None:
        self.client.drop_database(self._db.name)
        self.client.close()


class _Db:
    def __init__(self, client: MongoClient[Document], name: str) -> None:
        self._db = client[name]
        self._collections: dict[str, _Collection] = {}
        self.name = name

    def __getitem__(self, name: str) -> _Collection:
        if name not in self._collections:
            self._collections[name] = _Collection(self._db[name])
        return self._collections[name]


class _Collection:
    def __init__(self, collection: Any) -> None:
        self._collection = collection

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._collection, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return method(*args, **kwargs)

        return call

    def with_options(self, **concerns: Any) -> _Collection:
        del concerns  # what one server has in memory is all there is
        return self

    def find(self, *args: Any, **kwargs: Any) -> _Cursor:
        return _Cursor(self._collection.find(*args, **kwargs))


class _Cursor:
    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def sort(self, *args: Any) -> _Cursor:
        self._cursor.sort(*args)
        return self

    def limit(self, count: int) -> _Cursor:
        self._cursor.limit(count)
        return self

    async def to_list(self) -> list[Document]:
        return list(self._cursor)

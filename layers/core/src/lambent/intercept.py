"""Lets a test stand between the engine and its store: order the calls, or crash at one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, cast

from pymongo.asynchronous.database import AsyncDatabase

from lambent.due import Database
from lambent.mongo import Document

T = TypeVar("T")

_CALLS: Final = {
    "insert_one",
    "insert_many",
    "update_one",
    "update_many",
    "find_one",
    "delete_one",
    "delete_many",
    "count_documents",
    "aggregate",
}


@dataclass(frozen=True, slots=True)
class StoreCall:
    """One call of the engine to its store; `about` is the `_id` it names, if it does; `args` are
    what it was called with."""

    collection: str
    name: str
    about: Any
    args: tuple[Any, ...] = field(default=(), compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.collection}.{self.name}({self.about or ''})"


# Gets each call and what makes it; answers what that answers, or raises instead or afterwards.
Gate = Callable[[StoreCall, Callable[[], Awaitable[Any]]], Awaitable[Any]]


class Intercepted:
    """A database whose calls go through a gate. Indexes are made without it."""

    def __init__(self, mongo: Database, gate: Gate) -> None:
        self._mongo = mongo
        self._gate = gate

    @property
    def db(self) -> AsyncDatabase[Document]:
        # Only what the engine uses of a database is there.
        return cast("AsyncDatabase[Document]", _Db(self._mongo, self._gate))


class _Db:
    def __init__(self, mongo: Database, gate: Gate) -> None:
        self._mongo = mongo
        self._gate = gate

    def __getitem__(self, name: str) -> _Collection:
        return _Collection(self._mongo.db[name], name, self._gate)


class _Collection:
    def __init__(self, collection: Any, name: str, gate: Gate) -> None:
        self._collection = collection
        self._name = name
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._collection, name)
        if name not in _CALLS:
            return method

        async def call(first: Any, *args: Any, **kwargs: Any) -> Any:
            about = first.get("_id") if isinstance(first, dict) else None
            made = StoreCall(self._name, name, about, (first, *args))
            return await self._gate(made, lambda: method(first, *args, **kwargs))

        return call

    def with_options(self, **options: Any) -> _Collection:
        return _Collection(self._collection.with_options(**options), self._name, self._gate)

    def find(self, *args: Any, **kwargs: Any) -> _Cursor:
        return _Cursor(self._collection.find(*args, **kwargs), self._name, self._gate)


class _Cursor:
    def __init__(self, cursor: Any, name: str, gate: Gate) -> None:
        self._cursor = cursor
        self._name = name
        self._gate = gate

    def sort(self, *args: Any) -> _Cursor:
        self._cursor.sort(*args)
        return self

    def limit(self, count: int) -> _Cursor:
        self._cursor.limit(count)
        return self

    async def to_list(self) -> list[Document]:
        made = StoreCall(self._name, "find", None)
        found: list[Document] = await self._gate(made, self._cursor.to_list)
        return found

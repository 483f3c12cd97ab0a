"""The store over one blocking socket: for searches that make one call at a time anyway.

It speaks the wire protocol (OP_MSG) itself for the calls that the engine makes: a driver's pools,
sessions and monitors would take a third of a schedule's time, on both sides.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import bson
from bson.codec_options import CodecOptions
from pymongo import MongoClient
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import DuplicateKeyError, OperationFailure
from pymongo.uri_parser import parse_uri

from lambent.mongo import Document

_OP_MSG = 2013
_AWARE: CodecOptions[Document] = CodecOptions(tz_aware=True)
_ALL = 1_000_000


class BlockingMongo:
    """`Database` for the engine. Acknowledged by memory: no schedule here kills the server."""

    def __init__(self, uri: str, db_name: str) -> None:
        # For all that is not worth a line below: indexes, and the end.
        self.client: MongoClient[Document] = MongoClient(
            uri,
            w=1,
            journal=False,
            tz_aware=True,
            maxPoolSize=1,
            retryWrites=False,
            serverMonitoringMode="poll",  # a stream of its health keeps the server awake
            heartbeatFrequencyMS=600_000,
        )
        self._wire = _Wire(*parse_uri(uri)["nodelist"][0], db_name)
        self._db = _Db(self._wire, self.client, db_name)

    @property
    def db(self) -> AsyncDatabase[Document]:
        return cast("AsyncDatabase[Document]", self._db)

    def close(self) -> None:
        self._wire.close()
        self.client.close()

    def drop(self) -> None:
        self.client.drop_database(self._db.name)
        self.close()


class _Wire:
    """One connection; a command and its reply at a time."""

    def __init__(self, host: str, port: int, db_name: str) -> None:
        self._db_name = db_name
        self._socket = socket.create_connection((host, port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def run(self, command: Document) -> Document:
        """The reply; raises `DuplicateKeyError` or `OperationFailure` as the driver does."""
        body = bson.encode({**command, "$db": self._db_name})
        self._socket.sendall(struct.pack("<4iIB", 21 + len(body), 1, 0, _OP_MSG, 0, 0) + body)
        (length,) = struct.unpack("<i", self._read(4))
        reply = bson.decode(self._read(length - 4)[17:], _AWARE)
        if not reply.get("ok"):
            raise OperationFailure(reply.get("errmsg", ""), reply.get("code"), reply)
        for error in reply.get("writeErrors", ()):
            kind = DuplicateKeyError if error["code"] == 11000 else OperationFailure
            raise kind(error["errmsg"], error["code"], error)
        return reply

    def _read(self, count: int) -> bytes:
        while len(self._received) < count:
            piece = self._socket.recv(65536)
            if not piece:
                raise ConnectionError("the store hung up")
            self._received += piece
        read, self._received = self._received[:count], self._received[count:]
        return read

    def close(self) -> None:
        self._socket.close()


class _Db:
    def __init__(self, wire: _Wire, client: MongoClient[Document], name: str) -> None:
        self._wire = wire
        self._db = client[name]
        self._collections: dict[str, _Collection] = {}
        self.name = name

    def __getitem__(self, name: str) -> _Collection:
        if name not in self._collections:
            self._collections[name] = _Collection(self._wire, self._db[name], name)
        return self._collections[name]


@dataclass(frozen=True, slots=True)
class _Counted:
    matched_count: int = 0
    deleted_count: int = 0


class _Collection:
    def __init__(self, wire: _Wire, driver: Any, name: str) -> None:
        self._wire = wire
        self._driver = driver
        self._name = name

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._driver, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return method(*args, **kwargs)

        return call

    def with_options(self, **concerns: Any) -> _Collection:
        del concerns  # what one server has in memory is all there is
        return self

    async def insert_one(self, document: Document) -> None:
        self._wire.run({"insert": self._name, "documents": [document]})

    async def update_one(
        self, query: Document, update: Document, *, upsert: bool = False
    ) -> _Counted:
        return self._update(query, update, many=False, upsert=upsert)

    async def update_many(self, query: Document, update: Document) -> _Counted:
        return self._update(query, update, many=True)

    def _update(
        self, query: Document, update: Document, *, many: bool, upsert: bool = False
    ) -> _Counted:
        change = {"q": query, "u": update, "multi": many, "upsert": upsert}
        reply = self._wire.run({"update": self._name, "updates": [change]})
        return _Counted(matched_count=reply["n"])

    async def delete_one(self, query: Document) -> _Counted:
        reply = self._wire.run({"delete": self._name, "deletes": [{"q": query, "limit": 1}]})
        return _Counted(deleted_count=reply["n"])

    async def find_one(
        self, query: Document, shown: Mapping[str, Any] | None = None
    ) -> Document | None:
        return next(iter(await self.find(query, shown).limit(1).to_list()), None)

    async def delete_many(self, query: Document) -> _Counted:
        reply = self._wire.run({"delete": self._name, "deletes": [{"q": query, "limit": 0}]})
        return _Counted(deleted_count=reply["n"])

    async def count_documents(self, query: Document, *, limit: int = _ALL) -> int:
        return len(await self.find(query, {"_id": 1}).limit(limit).to_list())

    async def aggregate(self, pipeline: list[Document]) -> _Cursor:
        cursor = {"batchSize": _ALL}
        return _Cursor(
            self._wire, {"aggregate": self._name, "pipeline": pipeline, "cursor": cursor}
        )

    def find(
        self, query: Document, shown: Mapping[str, Any] | None = None, *, batch_size: int = _ALL
    ) -> _Cursor:
        command = {"find": self._name, "filter": query, "batchSize": batch_size}
        return _Cursor(self._wire, command | ({"projection": shown} if shown else {}))


class _Cursor:
    def __init__(self, wire: _Wire, command: Document) -> None:
        self._wire = wire
        self._command = command

    def sort(self, name: str, way: int) -> _Cursor:
        self._command["sort"] = {name: way}
        return self

    def limit(self, count: int) -> _Cursor:
        self._command["limit"] = count
        return self

    async def to_list(self) -> list[Document]:
        cursor = self._wire.run(self._command)["cursor"]
        assert cursor["id"] == 0, "more than one batch"
        found: list[Document] = cursor["firstBatch"]
        return found

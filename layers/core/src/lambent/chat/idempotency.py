"""`IdempotencyKeys`: one answer for each client's key, however often and wherever it is sent.

    none -> running -> streaming -> answered | failed
            running ->              answered | failed
    failed, or a lease that lapsed -> running, under a new owner

One insert of a unique document decides who makes the answer; everybody else waits for that
document, or follows the stream that it names. Only good answers are kept: a failure is told to
those who waited for it, and the next request with the key tries anew. An owner that dies lets
its lease lapse; then one of the next requests takes over. That is the one case in which a key is
paid for twice, and not with a durable agent: its turn has the id that the record gives it, so that
who takes over finds the run that there is. The answer is written before it is told.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from lambent.clock import Clock
from lambent.errors import LambentError, RetryLater, StoreUnavailable, Unprocessable
from lambent.ids import new_ulid
from lambent.telemetry import log_fields, logger

if TYPE_CHECKING:
    from pymongo.asynchronous.collection import AsyncCollection

    from lambent.due import Database
    from lambent.mongo import Document

COLLECTION: Final = "idempotency"
KEPT: Final = timedelta(hours=24)
_LEASE: Final = timedelta(seconds=10)
_RENEW_S: Final = _LEASE.total_seconds() / 3
_FIRST_PAUSE_S: Final = 0.03
_LONGEST_PAUSE_S: Final = 0.3
# MongoDB's documents end at 16 MB.
_LARGEST_BYTES: Final = 15 * 1024 * 1024


class KeyStatus(StrEnum):
    """`streaming`: the answer has begun, and its stream can be followed."""

    RUNNING = "running"
    STREAMING = "streaming"
    ANSWERED = "answered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """A whole answer as it went over the wire."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeptError:
    """What is needed to raise an error of ours again."""

    code: str
    detail: str
    fields: Mapping[str, Any]
    retry_after_s: float | None


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key's document. `token` is its owner's; at the end it has one of the last three.

    `turn`: the id of the turn that makes the answer, if that is durable: the same for every owner
    until it has failed.
    """

    id: str
    token: str
    turn: str
    status: KeyStatus
    lease_until: datetime
    stream: str | None = None
    answer: KeptAnswer | None = None
    error: KeptError | None = None


class IdempotencyKeys:
    """Every method may raise `StoreUnavailable`; `mongo` is called at its first use."""

    def __init__(self, mongo: Callable[[], Database], *, clock: Clock) -> None:
        self._mongo = mongo
        self._clock = clock

    async def ensure_indexes(self) -> None:
        """Part of the setup."""
        from lambent.mongo import guarded

        await guarded(self._keys.create_index("expire_at", expireAfterSeconds=0))

    async def claim(self, key: str, asked: bytes, *, client: str) -> tuple[KeyRecord, bool]:
        """The key's record, and whether this caller owns it now, and has to make the answer.

        `asked` is what the key stands for; raises `Unprocessable` where it was sent with
        something else before.
        """
        from pymongo.errors import DuplicateKeyError

        from lambent.mongo import guarded

        # Hashed as two: no key of one client can spell another client's.
        id = hashlib.sha256(f"{len(client)}:{client}:{key}".encode()).hexdigest()
        digest = hashlib.sha256(asked).hexdigest()
        now = self._clock.now()
        fresh: Document = {
            **self._owned_afresh(now, turn=new_ulid(self._clock)),
            "client": client,
            "key": key,
            "created_at": now,
        }
        while True:
            try:
                await guarded(self._keys.insert_one({"_id": id, "asked": digest, **fresh}))
                return _record({"_id": id, **fresh}), True
            except DuplicateKeyError:
                found: Document | None = await guarded(self._keys.find_one({"_id": id}))
            if found is None:  # its time was over just now
                continue
            if found["token"] == fresh["token"]:  # our insert, whose answer was lost
                return _record(found), True
            if found["asked"] != digest:
                raise Unprocessable("This Idempotency-Key was sent with another request before.")
            return _record(found), False

    async def settled(self, key: str, asked: bytes, *, client: str) -> tuple[KeyRecord, bool]:
        """The record once it can be told, or once this caller owns it. Raises as `claim`."""
        record, owned = await self.claim(key, asked, client=client)
        waited_for, pause_s = "", _FIRST_PAUSE_S
        while not owned:
            failed = record.status is KeyStatus.FAILED
            if self.lapsed(record) or (failed and record.token != waited_for):
                if (fresh := await self.take_over(record)) is not None:
                    return fresh, True
            elif record.status is not KeyStatus.RUNNING:
                break
            else:
                waited_for = record.token
                await self._clock.sleep(pause_s)
                pause_s = min(1.5 * pause_s, _LONGEST_PAUSE_S)
            found = await self.look(record)
            if found is None:
                return await self.claim(key, asked, client=client)
            record = found
        return record, owned

    async def take_over(self, seen: KeyRecord) -> KeyRecord | None:
        """failed, or lapsed -> running, for one of all who saw it so; None for the others."""
        fresh = self._owned_afresh(self._clock.now(), turn=seen.turn)
        where: Document = {"_id": seen.id, "token": seen.token, "status": seen.status.value}
        if seen.status is not KeyStatus.FAILED:
            where["lease_until"] = seen.lease_until
        return _record({"_id": seen.id, **fresh}) if await self._change(where, fresh) else None

    def lapsed(self, record: KeyRecord) -> bool:
        """Whether its owner died before there was an answer."""
        waiting = record.status in {KeyStatus.RUNNING, KeyStatus.STREAMING}
        return waiting and record.lease_until < self._clock.now()

    async def look(self, record: KeyRecord) -> KeyRecord | None:
        """The record as it is now."""
        from lambent.mongo import guarded

        found = await guarded(self._keys.find_one({"_id": record.id}))
        return None if found is None else _record(found)

    async def streams(self, record: KeyRecord, stream: str) -> None:
        """running -> streaming: the stream has begun, and may be followed."""
        changes = {"status": KeyStatus.STREAMING.value, "stream": stream}
        await self._change(_owned(record), changes)

    async def answered(
        self, record: KeyRecord, answer: KeptAnswer | None = None, *, goes_on: bool = False
    ) -> None:
        """running | streaming -> answered; a stream's answer is the stream.

        `goes_on`: one that is too large to keep may be made again with the same turn (`failed`).
        """
        changes: dict[str, Any] = {"status": KeyStatus.ANSWERED.value}
        if answer is not None:
            if len(answer.body) > _LARGEST_BYTES:
                await self.failed(record, None, goes_on=goes_on)
                return
            headers = [[name, value] for name, value in answer.headers.items()]
            changes["answer"] = {
                "status": answer.status,
                "headers": headers,
                "body": answer.body,
            }
        await self._change(_owned(record), changes)

    async def failed(
        self, record: KeyRecord, error: LambentError | None, *, goes_on: bool = False
    ) -> None:
        """running | streaming -> failed: the next request with the key tries anew.

        `goes_on`: only the telling failed; a durable turn is to be found again.
        """
        changes: dict[str, Any] = {"status": KeyStatus.FAILED.value}
        if not goes_on:
            changes["turn"] = new_ulid(self._clock)
        if error is not None:
            retry_after_s = error.retry_after_s if isinstance(error, RetryLater) else None
            changes["error"] = {
                "code": error.code,
                "detail": error.detail,
                "fields": _plain(error.fields),
                "retry_after_s": retry_after_s,
            }
        await self._change(_owned(record), changes)

    def keep(self, record: KeyRecord) -> asyncio.Task[None]:
        """Renews the owner's lease until it is cancelled, or the record is somebody else's."""
        return asyncio.create_task(self._keep(record))

    async def _keep(self, record: KeyRecord) -> None:
        held = True
        while held:
            await self._clock.sleep(_RENEW_S)
            with suppress(StoreUnavailable):
                until = self._clock.now() + _LEASE
                held = await self._change(_owned(record), {"lease_until": until})

    def _owned_afresh(self, now: datetime, *, turn: str) -> Document:
        return {
            "token": secrets.token_hex(16),
            "turn": turn,
            "status": KeyStatus.RUNNING.value,
            "lease_until": now + _LEASE,
            "stream": None,
            "answer": None,
            "error": None,
            "expire_at": now + KEPT,
        }

    async def _change(self, where: Document, changes: Document) -> bool:
        from lambent.mongo import guarded

        done = await guarded(self._keys.update_one(where, {"$set": changes}))
        return done.matched_count == 1

    @property
    def _keys(self) -> AsyncCollection[Document]:
        return self._mongo().db[COLLECTION]


async def quietly(doing: Any, *, key: str) -> None:
    """Await a change that must not fail the answer: a key that is not ended lapses."""
    try:
        await doing
    except StoreUnavailable as error:
        why = log_fields(key=key, detail=error.detail)
        logger().warning("An answer could not be kept for its key", **why)


def _owned(record: KeyRecord) -> Document:
    waiting = [KeyStatus.RUNNING.value, KeyStatus.STREAMING.value]
    return {"_id": record.id, "token": record.token, "status": {"$in": waiting}}


def _record(found: Document) -> KeyRecord:
    answer, error = found["answer"], found["error"]
    return KeyRecord(
        id=found["_id"],
        token=found["token"],
        turn=found.get("turn") or found["token"],  # none is from a version before
        status=KeyStatus(found["status"]),
        lease_until=found["lease_until"],
        stream=found["stream"],
        answer=answer
        and KeptAnswer(answer["status"], dict(answer["headers"]), bytes(answer["body"])),
        error=error
        and KeptError(error["code"], error["detail"], error["fields"], error["retry_after_s"]),
    )


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    import json

    plain: dict[str, Any] = json.loads(json.dumps(dict(fields), default=str))
    return plain

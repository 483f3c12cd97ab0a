"""Which poller is the newest and whether it is awake: one document, and who reads it."""

from __future__ import annotations

import secrets
from collections.abc import Coroutine, Iterable
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from pymongo.asynchronous.collection import AsyncCollection

from lambent.clock import EPOCH, Clock
from lambent.dispatch import Work
from lambent.due import Database
from lambent.errors import StoreUnavailable
from lambent.mongo import Document, guarded

COLLECTION: Final = "poller"
_ID: Final = "poller"
# A settle further ahead than this is found by the tick of the poller's next minute.
HORIZON: Final = timedelta(seconds=60)
_LAST_LOOK: Final = timedelta(seconds=1)


class Nudges(Protocol):
    """`lambent.dispatch.Dispatch` is one."""

    def nudge(
        self, work: Work, ids: Iterable[str], *, news: bool = False
    ) -> Coroutine[Any, Any, int]: ...


class Generation:
    """The hand-over between pollers. Every state change here is one compare-and-set."""

    def __init__(self, mongo: Database, *, clock: Clock) -> None:
        self._mongo = mongo
        self._clock = clock
        self._token = ""

    async def take_over(self, awake_until: datetime) -> None:
        """Become the newest: whoever was before leaves at its next look."""
        self._token = secrets.token_hex(8)
        await guarded(
            self._collection.update_one(
                {"_id": _ID},
                {"$set": {"token": self._token, "awake_until": awake_until}},
                upsert=True,
            )
        )

    async def is_newest(self) -> bool:
        """Asked at each look."""
        found = await guarded(self._collection.find_one({"_id": _ID}, {"token": 1}))
        return found is not None and found["token"] == self._token

    async def fall_asleep(self) -> bool:
        """Say that nobody is awake, unless someone newer is. False: someone is.

        Look once more after this: a document that became due just before found this poller awake.
        """
        answer = await guarded(
            self._collection.update_one(
                {"_id": _ID, "token": self._token}, {"$set": {"awake_until": EPOCH}}
            )
        )
        return answer.matched_count == 1

    async def wake_up(self, awake_until: datetime) -> bool:
        """Awake again after the last look found something. False: someone newer is."""
        answer = await guarded(
            self._collection.update_one(
                {"_id": _ID, "token": self._token}, {"$set": {"awake_until": awake_until}}
            )
        )
        return answer.matched_count == 1

    @property
    def _collection(self) -> AsyncCollection[Document]:
        return self._mongo.db[COLLECTION]


async def is_awake(mongo: Database, *, at: datetime) -> bool:
    """Whether a poller has said that it looks at this instant."""
    found = await guarded(mongo.db[COLLECTION].find_one({"_id": _ID}, {"awake_until": 1}))
    return found is not None and found["awake_until"] > at


class PollerBell:
    """Invokes a poller, if none is awake, for a document that is due before its next minute."""

    def __init__(self, mongo: Database, *, clock: Clock, nudges: Nudges) -> None:
        self._mongo = mongo
        self._clock = clock
        self._nudges = nudges

    async def ring(self, due_at: datetime) -> bool:
        """Call this *after* the write that made the document due; True if a nudge was sent.

        Raises nothing of the store's: without the bell the document is found a minute later.
        """
        now = self._clock.now()
        if due_at > now + HORIZON:
            return False
        try:
            found = await guarded(self._mongo.db[COLLECTION].find_one({"_id": _ID}))
        except StoreUnavailable:
            return False
        # The last second of a poller's life is no promise that it looks once more.
        if found is not None and found["awake_until"] > now + _LAST_LOOK:
            return False
        # Named after the last poller: one that came and went since is no reason to be quiet.
        name = "due" if found is None else f"due after {found['token']}"
        return await self._nudges.nudge(Work.POLL, [name]) > 0

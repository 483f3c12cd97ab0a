"""Takes the answers of those who hold a callback's token: complete, fail, heartbeat."""

from __future__ import annotations

import hmac
from datetime import timedelta
from typing import Any, Final

from lambent.clock import Clock
from lambent.codec import encode, plain
from lambent.due import DueDocuments
from lambent.engine.config import EventPort
from lambent.engine.waiting import CALLBACK_TYPE, digest, wait_of_token
from lambent.errors import ConfigError, Gone, NotFound
from lambent.mongo import Document
from lambent.waits import Waits, WaitStatus

_TOO_LATE: Final = "This callback has been answered, or its time is over."


class Callbacks:
    """An answer is published as an event, so that a crash right after it still wakes the run; its
    id is the token's, so that the first answer counts. Whoever is told that his answer is taken
    is told the truth: another's may have come first, or the end of the time."""

    def __init__(
        self, waits: Waits, *, events: EventPort | None, due: DueDocuments, clock: Clock
    ) -> None:
        self._waits = waits
        self._events = events
        self._due = due
        self._clock = clock

    async def complete(self, token: str, value: Any = None) -> None:
        """Answer with a value. Raises `NotFound` (no such token), `Gone` (answered, too late)."""
        answer = {"outcome": "completed", "value": encode(value).form}
        await self._answer(token, answer)

    async def fail(self, token: str, message: str) -> None:
        """Answer with a failure; the run gets `CallbackFailed`. Raises as `complete` does."""
        await self._answer(token, {"outcome": "failed", "message": message[:4000]})

    async def heartbeat(self, token: str) -> None:
        """Say that somebody is still at it; the next silence may be as long again."""
        wait = await self._open(token)
        if wait["heartbeat_s"] is None:
            return
        deadline_at = self._clock.now() + timedelta(seconds=wait["heartbeat_s"])
        if wait["timeout_s"] is not None:
            latest_at = wait["opened_at"] + timedelta(seconds=wait["timeout_s"])
            deadline_at = min(deadline_at, latest_at)
        if not await self._waits.extend(wait["_id"], deadline_at):
            raise Gone(_TOO_LATE)

    async def _answer(self, token: str, answer: Document) -> None:
        wait = await self._open(token)
        if self._events is None:
            raise ConfigError("This engine was built without an event bus.")
        await self._events.publish(
            client=wait["client"],
            id=wait["subject"],
            source="lambent/callbacks",
            type=CALLBACK_TYPE,
            subject=wait["subject"],
            data=answer,
        )
        if not _holds(await self._settled(wait["_id"]), answer):
            raise Gone(_TOO_LATE)

    async def _settled(self, wait_id: str) -> Document | None:
        """The wait after an answer to it was published; None: it was deleted with its run."""
        try:
            wait = await self._waits.read(wait_id)
            if wait["status"] != WaitStatus.OPEN:
                return wait
            # The delivery, which wakes the run, is still owed; what it will find is settled here,
            # by the same compare-and-set.
            return await self._waits.look_back(wait)
        except LookupError:
            return None

    async def _open(self, token: str) -> Document:
        wait_id = wait_of_token(token)
        wait = None if wait_id is None else await self._waits.find(wait_id)
        if wait is None or not hmac.compare_digest(digest(token), str(wait["subject"])):
            raise NotFound("There is no such callback.")
        if wait["status"] != WaitStatus.OPEN:
            raise Gone(_TOO_LATE)
        return wait


def _holds(wait: Document | None, answer: Document) -> bool:
    """Whether it is this answer that the run gets."""
    if wait is None or wait["status"] != WaitStatus.SATISFIED:
        return False
    return bool(wait["record"]["data"] == plain(encode(answer).form))

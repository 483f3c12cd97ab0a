"""`ResponseStore`: answers of /v1/responses, kept so that a later request can go on from one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from lambent.chat.messages import kept_json, messages_of, records_of
from lambent.clock import Clock
from lambent.errors import NotFound, RequestError
from lambent.models.values import Message

if TYPE_CHECKING:
    from pymongo.asynchronous.collection import AsyncCollection

    from lambent.mongo import Mongo

COLLECTION: Final = "responses"
# As long as OpenAI keeps them.
_RETENTION: Final = timedelta(days=30)
# A conversation beyond this is no longer read for a model of any window.
MOST_TURNS: Final = 500


@dataclass(frozen=True, slots=True)
class Recalled:
    """A conversation up to a response: ids of its responses, oldest first, and what was said."""

    chain: tuple[str, ...] = ()
    messages: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A response: the messages that it added to those of `chain`, and its document."""

    id: str
    client: str
    chain: tuple[str, ...]
    messages: tuple[Message, ...]
    body: Mapping[str, Any]


class ResponseStore:
    """Only the client who made a response reaches it; to others it does not exist.

    A document holds its own turn and the ids of the turns before it: reading a conversation is
    one query for the last and one for all others, however long it is. Values are kept as JSON
    text: schemas have keys (`$ref`) that MongoDB's documents do not take. Every method may raise
    `StoreUnavailable`.
    """

    def __init__(self, mongo: Callable[[], Mongo], *, clock: Clock) -> None:
        self._mongo = mongo
        self._clock = clock
        self._indexed = False

    async def keep(self, kept: Kept) -> None:
        """none -> kept, once: a durable turn may be told by several, each of whom keeps it."""
        from pymongo.errors import DuplicateKeyError

        from lambent.mongo import guarded

        if not self._indexed:
            await guarded(self._responses().create_index("expire_at", expireAfterSeconds=0))
            self._indexed = True
        now = self._clock.now()
        document = {
            "_id": kept.id,
            "client": kept.client,
            "chain": list(kept.chain),
            "messages": records_of(kept.messages),
            "body": kept_json(kept.body),
            "created_at": now,
            "expire_at": now + _RETENTION,
        }
        try:
            await guarded(self._responses().insert_one(document))
        except DuplicateKeyError:
            kept_before = {"_id": kept.id, "client": kept.client}
            if await guarded(self._responses().find_one(kept_before, {"_id": 1})) is None:
                raise

    async def recall(self, id: str, *, client: str) -> Recalled:
        """The conversation up to and with this response; raises `NotFound`, and `RequestError`
        where it is too long to be gone on with."""
        from lambent.mongo import guarded

        last = await self._find(id, client)
        chain = (*last["chain"], id)
        if len(chain) > MOST_TURNS:  # to leave the oldest out would be silent
            raise RequestError(
                f"No conversation goes on from more than {MOST_TURNS} responses; begin a new one,"
                " with what still matters of this one as its input."
            )
        turns = {id: last}
        if before := list(chain[:-1]):
            asked = {"_id": {"$in": before}, "client": client}
            found = await guarded(self._responses().find(asked).to_list(None))
            turns.update({one["_id"]: one for one in found})
        messages: list[Message] = []
        for turn in chain:
            if turn not in turns:
                raise NotFound(f"The response {turn!r} before {id!r} is no longer there.")
            messages.extend(messages_of(turns[turn]["messages"]))
        return Recalled(chain, tuple(messages))

    async def get(self, id: str, *, client: str) -> dict[str, Any]:
        """The response's document; raises `NotFound`."""
        body: dict[str, Any] = json.loads((await self._find(id, client))["body"])
        return body

    async def delete(self, id: str, *, client: str) -> None:
        """Raises `NotFound`. What went on from it cannot be gone on with any more."""
        from lambent.mongo import guarded

        done = await guarded(self._responses().delete_one({"_id": id, "client": client}))
        if not done.deleted_count:
            raise _not_found(id)

    async def _find(self, id: str, client: str) -> dict[str, Any]:
        from lambent.mongo import guarded

        found = await guarded(self._responses().find_one({"_id": id, "client": client}))
        if found is None:
            raise _not_found(id)
        return found

    def _responses(self) -> AsyncCollection[dict[str, Any]]:
        return self._mongo().db[COLLECTION]


def _not_found(id: str) -> NotFound:
    return NotFound(f"There is no response {id[:100]!r}.")

"""`RecentEntries`: a conversation as its next turn reads it, from its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from lambent.chat.entries import Entry, entry_of

if TYPE_CHECKING:
    from pymongo.asynchronous.collection import AsyncCollection

    from lambent.mongo import Document

# A server answers with up to 16 MB at once; entries with images are large.
_AT_ONCE: Final = 16


class RecentEntries:
    """One conversation, from its end; a long one is not read as a whole for each of its turns.

    Raises `StoreUnavailable`.
    """

    def __init__(self, entries: AsyncCollection[Document], id: str, client: str) -> None:
        self._entries = entries
        self._mine = {"conversation": id, "client": client}

    async def until(
        self, enough: Callable[[Entry], bool], *, since: int, before: int | None = None
    ) -> list[Entry]:
        """The last ones, in order, from the one on that is `enough`: each is asked, the latest
        first. None before entry `since`, nor from entry `before` on."""
        from lambent.mongo import guarded

        place: dict[str, int] = {"$gte": since}
        if before is not None:
            place["$lt"] = before
        order = [("conversation", -1), ("number", -1)]
        found = self._entries.find({**self._mine, "number": place}, batch_size=_AT_ONCE)
        found, read = found.sort(order), list[Entry]()
        try:
            while (document := await guarded(anext(found, None))) is not None:
                read.append(entry_of(document))
                if enough(read[-1]):
                    break
        finally:
            await found.close()
        return read[::-1]

    async def standing(self, *, before: int, turn: str) -> list[Entry]:
        """Of the entries before this one those that count wherever they stand: with a system
        message, or of this turn. Looked through by the store."""
        from lambent.mongo import guarded

        # Not false: entries of older versions do not say.
        wanted = {"$or": [{"rules": {"$ne": False}}, {"turn": turn}]}
        found = self._entries.find({**self._mine, "number": {"$gte": 1, "$lt": before}, **wanted})
        documents = await guarded(found.sort([("conversation", 1), ("number", 1)]).to_list(None))
        return [entry_of(one) for one in documents]

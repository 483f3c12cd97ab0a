"""`ConversationStore`: what a client and its agents have said to each other.

An entry is what one turn, or one request to append, added: one document, unique by the
conversation and its number. So one insert decides between two who add at once, nothing is ever
half appended, and the entries themselves tell how far a conversation has come. A turn claims its
conversation first (`busy_until`, renewed while it runs), and so does who appends: a second turn
meanwhile is refused before its model is paid for, not after.

    free -> busy (a turn, or an append) -> free;  a claim that lapsed is free
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from lambent.chat.conversation_search import search
from lambent.chat.entries import Entry, Tools, entry_document, entry_of, place_of
from lambent.chat.messages import check_readable
from lambent.chat.recent_entries import RecentEntries
from lambent.clock import EPOCH, Clock
from lambent.errors import Conflict, NotFound, StoreUnavailable
from lambent.ids import new_ulid
from lambent.models.values import Message, Role

if TYPE_CHECKING:
    from pymongo.asynchronous.collection import AsyncCollection

    from lambent.mongo import Document, Mongo

CONVERSATIONS: Final = "conversations"
ENTRIES: Final = "conversation_entries"
BUSY: Final = timedelta(seconds=30)
# In `turn`, of a conversation that is busy with an append.
_APPEND: Final = "append:"
_NUMBERS: Final = 1 << 52
_TITLE_LENGTH: Final = 60
# Beyond this no model of any window reads it, and no page shows it.
_MOST_ENTRIES: Final = 5000


class TitledBy(StrEnum):
    """Where a title is from: the user's first words, a model, or a person, who has the last say."""

    WORDS = "words"
    MODEL = "model"
    PERSON = "person"


@dataclass(frozen=True, slots=True)
class Summary:
    """What entries up to number `covers` came to, and the next one's first `offset` bytes."""

    text: str
    covers: int
    offset: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation without what was said. `tokens_a_byte` is as its last turn measured it.

    `answering`: a turn of it was under way when it was read. `titled_by` None: it is from before
    that was noted.
    """

    id: str
    title: str
    created_at: datetime
    updated_at: datetime
    forked_from: str | None = None
    tokens_a_byte: float | None = None
    titled_by: TitledBy | None = None
    summary: Summary | None = None
    answering: bool = False


class ConversationStore:
    """Only the client who made a conversation reaches it; to others it does not exist.

    Every method may raise `StoreUnavailable`; `mongo` is called at its first use.
    """

    def __init__(self, mongo: Callable[[], Mongo], *, clock: Clock) -> None:
        self._mongo = mongo
        self._clock = clock

    async def ensure_indexes(self) -> None:
        """Part of the setup."""
        from lambent.mongo import guarded

        # Rising, though read from its end: some servers find nothing in a falling one.
        await guarded(self._conversations.create_index([("client", 1), ("place", 1)]))
        await guarded(self._entries.create_index([("conversation", 1), ("number", 1)]))
        by_words = [("client", 1), ("words", 1), ("created_at", 1)]
        await guarded(self._entries.create_index(by_words))

    async def create(
        self,
        client: str,
        *,
        title: str = "",
        messages: Sequence[Message] = (),
        tools: Tools | None = None,
        id: str | None = None,
    ) -> Conversation:
        """A new one, with what was said before it, if anything was; under the same `id` once.

        Raises `TooLarge`.
        """
        check_readable(messages)
        now = self._clock.now()
        first = [Entry(1, tuple(messages), None, now, tools=tools or {})] if messages else []
        by = TitledBy.PERSON if title else TitledBy.WORDS
        return await self._insert(client, first, _Origin(title, by), id)

    async def fork(
        self, id: str, *, client: str, at: str, fork_id: str | None = None
    ) -> Conversation:
        """A new one that begins with this one's messages up to and with `at`; under the same
        `fork_id` once.

        Raises `NotFound` for the conversation, and for the message.
        """
        source = await self.get(id, client=client)
        number, index = place_of(at)
        entries = await self.entries(id, client=client, until=number + 1)
        if not entries or entries[-1].number != number or index >= len(entries[-1].messages):
            raise NotFound(f"There is no message {at[:40]!r} in this conversation.")
        last = entries[-1]
        tools = {place: uses for place, uses in last.tools.items() if place <= index}
        cut = replace(last, messages=last.messages[: index + 1], tools=tools)
        summary = source.summary
        if summary is not None and summary.covers + 1 >= number:
            summary = None  # it may tell what comes after the cut
        origin = _Origin(source.title, source.titled_by, f"{id}/{at}", summary)
        return await self._insert(client, [*entries[:-1], cut], origin, fork_id)

    async def page(self, client: str, *, limit: int, before: str | None) -> list[Conversation]:
        """The newest first, from behind the conversation `before` on."""
        from lambent.mongo import guarded

        wanted = {"client": client, "place": {"$gt": "", "$lt": before or "~"}}
        found = self._conversations.find(wanted).sort([("client", -1), ("place", -1)]).limit(limit)
        now = self._clock.now()
        return [_conversation(one, now) for one in await guarded(found.to_list(None))]

    async def get(self, id: str, *, client: str) -> Conversation:
        """Raises `NotFound`."""
        return _conversation(await self._find(id, client), self._clock.now())

    async def entries(
        self, id: str, *, client: str, since: int = 0, until: int | None = None, last: int = 0
    ) -> list[Entry]:
        """What was said, in order, from entry `since` on and before entry `until`; of that the
        `last` so many entries."""
        from lambent.mongo import guarded

        wanted = {"conversation": id, "number": {"$gte": max(1, since), "$lt": until or _NUMBERS}}
        way = -1 if last else 1
        order = [("conversation", way), ("number", way)]
        found = self._entries.find(wanted).sort(order).limit(last or _MOST_ENTRIES)
        read = (await guarded(found.to_list(None)))[::way]
        return [entry_of(one) for one in read if one["client"] == client]

    def recent(self, id: str, *, client: str) -> RecentEntries:
        """The same from its end, and only as far as it is asked for."""
        return RecentEntries(self._entries, id, client)

    async def search(self, client: str, question: str, *, limit: int) -> list[dict[str, Any]]:
        """As `conversation_search.search`."""
        wanted: dict[str, Any] = {"client": client, "question": question, "limit": limit}
        return await search(self._entries, self._conversations, **wanted)

    async def append(
        self,
        id: str,
        messages: Sequence[Message],
        *,
        client: str,
        once: str | None = None,
        tools: Tools | None = None,
    ) -> Entry:
        """Add messages, with the same token `once`; raises `NotFound`, `TooLarge`, and `Conflict`
        where a turn or somebody else adds."""
        from lambent.mongo import guarded

        check_readable(messages)
        # Who repeats it after a crash finds the claim to be his own.
        claim = _APPEND + (once or new_ulid(self._clock))
        await self.begin_turn(id, client=client, turn=claim)
        try:
            known = {"conversation": id, "client": client, "once": once}
            if once is not None and (there := await guarded(self._entries.find_one(known))):
                return entry_of(there)
            last = await self.entries(id, client=client, last=1)
            number = last[0].number + 1 if last else 1
            return await self.add(
                id, number, messages, client=client, turn=None, once=once, tools=tools
            )
        finally:
            with suppress(StoreUnavailable):  # what was added is there; the claim lapses
                await self.end_turn(id, turn=claim, tokens_a_byte=None)

    async def add(
        self,
        id: str,
        number: int,
        messages: Sequence[Message],
        *,
        client: str,
        turn: str | None,
        usage: Mapping[str, Any] | None = None,
        once: str | None = None,
        tools: Tools | None = None,
    ) -> Entry:
        """Add the entry of this number, once for each turn or token; raises `Conflict` where it
        is there."""
        from pymongo.errors import DuplicateKeyError

        from lambent.mongo import guarded

        if number > _MOST_ENTRIES:
            raise Conflict("This conversation has become too long; fork it at a late message.")
        now = self._clock.now()
        entry = Entry(number, tuple(messages), turn, now, usage, once, tools or {})
        try:
            await guarded(self._entries.insert_one(entry_document(id, client, entry)))
        except DuplicateKeyError:
            there = await guarded(self._entries.find_one({"_id": f"{id}/{number}"}))
            mine = turn or once
            if there is None or mine is None or mine not in (there["turn"], there.get("once")):
                raise _busy() from None
        if not await self._touch(id, client, messages):
            # It was deleted meanwhile: nothing of it may stay behind.
            await guarded(self._entries.delete_one({"_id": f"{id}/{number}"}))
            raise _not_found(id)
        return entry

    async def begin_turn(self, id: str, *, client: str, turn: str) -> Conversation:
        """free -> busy; raises `NotFound`, and `Conflict` while another turn runs, or somebody
        appends."""
        now = self._clock.now()
        free = {"_id": id, "client": client, "busy_until": {"$gte": EPOCH, "$lte": now}}
        if not await self._change(free, {"busy_until": now + BUSY, "turn": turn}):
            found = await self._find(id, client)
            if found["turn"] != turn:
                raise _busy()
            return _conversation(found, self._clock.now())
        return await self.get(id, client=client)

    async def renew_turn(self, id: str, *, turn: str) -> bool:
        """busy -> busy, for another while; False where the claim is somebody else's."""
        return await self._change(_busy_with(id, turn), {"busy_until": self._clock.now() + BUSY})

    async def end_turn(self, id: str, *, turn: str, tokens_a_byte: float | None) -> None:
        """busy -> free, with what the turn has measured."""
        measured = {} if tokens_a_byte is None else {"tokens_a_byte": tokens_a_byte}
        await self._change(_busy_with(id, turn), {"busy_until": EPOCH, "turn": None, **measured})

    async def rename(self, id: str, title: str, *, client: str) -> Conversation:
        """Raises `NotFound`."""
        changes = {"title": title, "titled_by": TitledBy.PERSON.value}
        await self._change({"_id": id, "client": client}, changes)
        return await self.get(id, client=client)

    async def title_by_model(self, id: str, title: str, *, client: str) -> bool:
        """words -> model; False where a person has given it one, or it is gone."""
        words = {"_id": id, "client": client, "titled_by": TitledBy.WORDS.value}
        return await self._change(words, {"title": title, "titled_by": TitledBy.MODEL.value})

    async def keep_summary(
        self, id: str, summary: Summary, *, client: str, before: Summary | None
    ) -> bool:
        """Up to one place -> up to a later one; False where it is no longer as `before`."""
        where = {"_id": id, "client": client, "summarised": _place_after(before)}
        return await self._change(where, _summary_fields(summary))

    async def delete(self, id: str, *, client: str) -> None:
        """Raises `NotFound`. A turn that still runs ends without having anything kept."""
        from lambent.mongo import guarded

        # The head first: what a crash leaves is reached by nobody.
        done = await guarded(self._conversations.delete_one({"_id": id, "client": client}))
        if not done.deleted_count:
            raise _not_found(id)
        await guarded(self._entries.delete_many({"conversation": id}))

    async def _insert(
        self, client: str, entries: Sequence[Entry], origin: _Origin, id: str | None
    ) -> Conversation:
        from lambent.mongo import insert_new

        id, now = id or new_ulid(self._clock), self._clock.now()
        said = [message for entry in entries for message in entry.messages]
        document = {
            "_id": id,
            "client": client,
            # The same once more: a range on `_id` is read by scanning on some servers.
            "place": id,
            "title": origin.title or title_of(said),
            "titled_by": origin.titled_by.value if origin.titled_by else None,
            "created_at": now,
            "updated_at": now,
            "forked_from": origin.forked_from,
            **_summary_fields(origin.summary),
            "tokens_a_byte": None,
            "busy_until": EPOCH,
            "turn": None,
        }
        # The head last: a conversation that is seen is whole.
        if entries:
            # Some are there where who was to make it before died over it.
            await insert_new(self._entries, [entry_document(id, client, one) for one in entries])
        if await insert_new(self._conversations, [document]):
            return await self.get(id, client=client)
        return _conversation(document, self._clock.now())

    async def _touch(self, id: str, client: str, messages: Sequence[Message]) -> bool:
        mine = {"_id": id, "client": client}
        there = await self._change(mine, {"updated_at": self._clock.now()})
        if there and (title := title_of(messages)):
            await self._change({**mine, "title": ""}, {"title": title})
        return there

    async def _find(self, id: str, client: str) -> Document:
        from lambent.mongo import guarded

        found = await guarded(self._conversations.find_one({"_id": id, "client": client}))
        if found is None:
            raise _not_found(id)
        return found

    async def _change(self, where: Document, changes: Document) -> bool:
        from lambent.mongo import guarded

        done = await guarded(self._conversations.update_one(where, {"$set": changes}))
        return done.matched_count == 1

    @property
    def _conversations(self) -> AsyncCollection[Document]:
        return self._mongo().db[CONVERSATIONS]

    @property
    def _entries(self) -> AsyncCollection[Document]:
        return self._mongo().db[ENTRIES]


def title_of(messages: Sequence[Message]) -> str:
    """The first words of the first that the user said."""
    said = next((one.content for one in messages if one.role is Role.user), "")
    return shortened(said)


def shortened(text: str) -> str:
    """As much of it as a title holds, on one line."""
    words = " ".join(text.split())
    if len(words) <= _TITLE_LENGTH:
        return words
    cut = words[:_TITLE_LENGTH]
    return (cut.rpartition(" ")[0] or cut) + "…"


@dataclass(frozen=True, slots=True)
class _Origin:
    """What a new conversation is made with, beside its entries."""

    title: str
    titled_by: TitledBy | None
    forked_from: str | None = None
    summary: Summary | None = None


def _place_after(summary: Summary | None) -> str | None:
    # One field, so that one comparison decides.
    return None if summary is None else f"{summary.covers}.{summary.offset}"


def _summary_fields(summary: Summary | None) -> Document:
    text = None if summary is None else summary.text
    return {"summary": text, "summarised": _place_after(summary)}


def _summary(found: Document) -> Summary | None:
    place = found.get("summarised")  # not in documents of older versions
    if place is None:
        return None
    covers, _, offset = place.partition(".")
    return Summary(found["summary"], int(covers), int(offset))


def _busy_with(id: str, turn: str) -> dict[str, Any]:
    return {"_id": id, "turn": turn}


def _busy() -> Conflict:
    said = (
        "Another turn of this conversation, or an append to it, is under way; try again after it."
    )
    return Conflict(said)


def _not_found(id: str) -> NotFound:
    return NotFound(f"There is no conversation {id[:100]!r}.")


def _conversation(found: Document, now: datetime) -> Conversation:
    return Conversation(
        id=found["_id"],
        title=found["title"],
        created_at=found["created_at"],
        updated_at=found["updated_at"],
        forked_from=found["forked_from"],
        tokens_a_byte=found["tokens_a_byte"],
        titled_by=TitledBy(by) if (by := found.get("titled_by")) else None,
        summary=_summary(found),
        answering=found["busy_until"] > now and not (found["turn"] or "").startswith(_APPEND),
    )

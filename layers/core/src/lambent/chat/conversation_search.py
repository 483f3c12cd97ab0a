"""Finds what was said in a client's conversations, by the words in it.

An entry keeps the words of its user's and its agent's messages, under an index that begins with the
client: a search reads the newest entries that hold the longest word asked for, however much there
is besides. It finds whole words, all of those asked for within one entry, in any order. Of an entry
the first 2,000 different words count; entries from before they were kept are not found.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from lambent.chat.messages import messages_of
from lambent.models.values import Message, Role

if TYPE_CHECKING:
    from pymongo.asynchronous.collection import AsyncCollection

    from lambent.mongo import Document

_WORD: Final = re.compile(r"\w+")
# Written without spaces: their words are taken as pairs of characters.
_UNSPACED: Final = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]")
_MOST_WORDS: Final = 2000
_LONGEST_WORD: Final = 64
_MOST_ASKED: Final = 8
_AROUND: Final = 150
_SAID: Final = frozenset({Role.user, Role.assistant})


def words_of(text: str) -> list[str]:
    """The different words of a text as they are compared, in order."""
    return list(dict.fromkeys(_words(text)))


def words_said(messages: Sequence[Message]) -> list[str]:
    """The words that an entry is found by."""
    said = " ".join(one.content for one in messages if one.role in _SAID)
    return words_of(said)[:_MOST_WORDS]


async def search(
    entries: AsyncCollection[Document],
    conversations: AsyncCollection[Document],
    *,
    client: str,
    question: str,
    limit: int,
) -> list[dict[str, Any]]:
    """The newest places in the client's conversations with all these words.

    Each is a dict: `conversation`, `title`, `said_at` (ISO 8601), `role`, `excerpt`. Raises
    `StoreUnavailable`.
    """
    from lambent.mongo import guarded

    asked = sorted(words_of(question), key=len, reverse=True)[:_MOST_ASKED]
    if not asked:
        return []
    wanted = {"client": client, "words": {"$all": asked}}
    found = entries.find(wanted).sort([("created_at", -1)]).limit(limit)
    places = await guarded(found.to_list(None))
    ids = list({one["conversation"] for one in places})
    # By client once more, and because an entry may outlive its conversation.
    heads = conversations.find({"_id": {"$in": ids}, "client": client}, {"title": 1})
    titles = {one["_id"]: one["title"] for one in await guarded(heads.to_list(None))}
    return [
        _told(one, titles[one["conversation"]], set(asked))
        for one in places
        if one["conversation"] in titles
    ]


def _told(place: Document, title: str, asked: set[str]) -> dict[str, Any]:
    said = [one for one in messages_of(place["messages"]) if one.role in _SAID]
    best = max(said, key=lambda one: len(asked & set(words_of(one.content))))
    return {
        "conversation": place["conversation"],
        "title": title,
        "said_at": place["created_at"].isoformat(timespec="seconds"),
        "role": best.role.value,
        "excerpt": _excerpt(best.content, asked),
    }


def _words(text: str) -> Iterator[str]:
    for match in _WORD.finditer(unicodedata.normalize("NFKC", text).casefold()):
        word = match[0]
        if not _UNSPACED.search(word):
            yield word[:_LONGEST_WORD]
        else:
            yield from (word[at : at + 2] for at in range(max(1, len(word) - 1)))


def _excerpt(text: str, asked: set[str]) -> str:
    lowered = text.casefold()
    at = min((place for word in asked if (place := lowered.find(word)) >= 0), default=0)
    begin, end = max(0, at - _AROUND), at + _AROUND
    before, after = "…" if begin else "", "…" if end < len(text) else ""
    return before + " ".join(text[begin:end].split()) + after

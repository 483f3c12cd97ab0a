"""Conversations are found by what was said in them, and by nobody but whose they are."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from lambent.agents.builtin_tools import search_conversations
from lambent.agents.tool_calls import run_tool
from lambent.agents.tool_context import Caller, Means, ToolContext
from lambent.chat.conversations import ConversationStore
from lambent.clock import SystemClock
from lambent.models.values import Message, Role, ToolCall
from lambent.mongo import Mongo
from lambent.settings import Settings


def said(text: str, answer: str = "I see.", *more: Message) -> list[Message]:
    return [
        Message(role=Role.user, content=text),
        *more,
        Message(role=Role.assistant, content=answer),
    ]


@pytest.fixture
async def store(mongo_uri: str, mongo_db_name: str) -> AsyncIterator[ConversationStore]:
    clock = SystemClock()
    mongo = Mongo(mongo_uri, mongo_db_name, clock=clock)
    store = ConversationStore(lambda: mongo, clock=clock)
    await store.ensure_indexes()
    yield store
    await mongo.close()


async def asked(store: ConversationStore, client: str, words: str, **more: Any) -> Any:
    settings = Settings(mongo_uri="mongodb://h", postgres_dsn="postgresql://h")
    means = Means(settings=settings, clock=SystemClock(), conversations=lambda: store)
    caller = Caller(client=client, scopes=frozenset({"chat"}))
    context = ToolContext(turn="T", call="0.0", caller=caller, means=means)
    call = ToolCall("search_conversations", {"words": words, **more})
    ended = await run_tool({"search_conversations": search_conversations}, call, context)
    return json.loads(ended.content) if not ended.failed else ended.content


async def test_the_newest_places_with_all_the_words_are_told(store: ConversationStore) -> None:
    old = await store.create("ann", title="Trip", messages=said("We go to Oslo in May."))
    new = await store.create("ann", messages=said("When?", "You go to OSLO, in May you said."))
    await store.create("ann", messages=said("Oslo is cold."))
    found = await asked(store, "ann", "may oslo")
    assert [one["conversation"] for one in found] == [new.id, old.id]
    assert found[1]["title"] == "Trip"
    assert (found[1]["role"], found[1]["excerpt"]) == ("user", "We go to Oslo in May.")
    assert found[0]["role"] == "assistant"
    assert len(await asked(store, "ann", "oslo", limit=1)) == 1
    assert await asked(store, "ann", "osl") == []


async def test_nobody_finds_what_another_client_said(store: ConversationStore) -> None:
    mine = await store.create("ann", messages=said("The code is swordfish."))
    await store.create("bob", messages=said("The code is swordfish too."))
    assert [one["conversation"] for one in await asked(store, "ann", "swordfish")] == [mine.id]
    # Whatever the words are made to look like.
    for words in ('{"$gt": ""}', "swordfish bob", "client bob", ".*", "$all words"):
        assert await asked(store, "eve", words) == []


async def test_what_was_deleted_is_not_found(store: ConversationStore) -> None:
    gone = await store.create("ann", messages=said("Forget the swordfish."))
    # As a crash between the two leaves it: the head is gone, its entries are not.
    await store._conversations.delete_one({"_id": gone.id})
    assert await asked(store, "ann", "swordfish") == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Grüße aus KÖLN, Straße 5", "köln STRASSE grüße"),
        ("東京都に住んでいます", "東京"),
        ("it's snake_case, really", "snake_case"),
        ("a ① ﬁne day", "1 fine"),
    ],
)
async def test_words_are_compared_as_people_do(
    store: ConversationStore, text: str, words: str
) -> None:
    await store.create("ann", messages=said(text))
    assert len(await asked(store, "ann", words)) == 1


async def test_only_what_people_and_agents_said_counts(store: ConversationStore) -> None:
    page = Message(role=Role.tool, content="secretword of a page", tool_name="fetch_page")
    made = await store.create("ann", messages=said("Read it.", "Done.", page))
    assert await asked(store, "ann", "secretword") == []
    (entry,) = await store.entries(made.id, client="ann")
    assert replace(entry.messages[1]).content == page.content


async def test_a_long_text_is_shown_by_what_stands_around_the_word(
    store: ConversationStore,
) -> None:
    text = f"{'before ' * 100}needle {'after ' * 100}"
    await store.create("ann", messages=said(text))
    (found,) = await asked(store, "ann", "needle")
    assert "needle" in found["excerpt"]
    assert len(found["excerpt"]) < 310
    assert await asked(store, "ann", "?!") == []
    assert "words" in await asked(store, "ann", "")

"""A kept conversation goes on from turn to turn, whichever function takes the turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from lambent.agents.agent import agent
from lambent.agents.tool_agent import ToolAgent
from lambent.agents.tools import tool
from lambent.chat.conversations import ConversationStore
from lambent.chat.entries import Entry
from lambent.chat.messages import messages_of, records_of
from lambent.clock import SystemClock
from lambent.models.values import Message, Role
from lambent.mongo import Mongo
from local.services import ScriptedModel
from local.services.script import Fault, Reply
from tests.unit.chat_site import said
from tests.unit.stream_sites import Sites, read, two_sites


@pytest.fixture
async def sites(
    postgres_dsn: str, scripted_model: ScriptedModel, mongo_uri: str, mongo_db_name: str
) -> AsyncIterator[Sites]:
    stores = (postgres_dsn, scripted_model.host, mongo_uri, mongo_db_name)
    async with two_sites(*stores, conversation_tokens=600) as sites:
        yield sites


@pytest.fixture
async def store(mongo_uri: str, mongo_db_name: str) -> AsyncIterator[ConversationStore]:
    mongo = Mongo(mongo_uri, mongo_db_name, clock=SystemClock())
    store = ConversationStore(lambda: mongo, clock=SystemClock())
    await store.ensure_indexes()
    yield store
    await mongo.close()


class Slow(ConversationStore):
    """Appends in two parts, as a slow function does; the second one once it may."""

    def __init__(self, mongo: Mongo) -> None:
        super().__init__(lambda: mongo, clock=SystemClock())
        self.half, self.may = asyncio.Event(), asyncio.Event()

    async def add(self, *given: Any, **named: Any) -> Entry:
        self.half.set()
        await self.may.wait()
        return await super().add(*given, **named)


class Dying(ConversationStore):
    """Dies before it frees what it has claimed."""

    async def end_turn(self, *given: Any, **named: Any) -> None:
        pass


def told(model: ScriptedModel, at: int = -1) -> list[tuple[str, str]]:
    """What the model was told, without the agent's own prompt."""
    messages: Any = model.generations[at].json["messages"]
    return [(one["role"], one["content"]) for one in messages if one["role"] != "system"]


async def test_each_turn_knows_what_was_said_before(
    sites: Sites, store: ConversationStore, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.text("Hello Ada"), Reply.text("It is Ada"))
    made = await store.create("tests")
    one, two = sites.clients()
    async with one, two:
        first = await one.post("/chat", json={"input": "I am Ada", "conversation": made.id})
        asked = {"input": "My name?", "conversation": made.id}
        second = await read(two, json=asked, headers={})
    assert first.json()["output"] == "Hello Ada"
    assert said(second.text) == "It is Ada"
    assert told(scripted_model) == [
        ("user", "I am Ada"), ("assistant", "Hello Ada"), ("user", "My name?"),
    ]  # fmt: skip
    entries = await store.entries(made.id, client="tests")
    assert [one.messages[1].content for one in entries] == ["Hello Ada", "It is Ada"]
    assert entries[1].turn == second.id
    assert (await store.get(made.id, client="tests")).title == "I am Ada"


async def test_of_two_turns_at_once_one_is_refused_before_the_model_is_asked(
    sites: Sites, store: ConversationStore, scripted_model: ScriptedModel
) -> None:
    scripted_model.default = Reply.text("x", first_delay_s=0.5)
    made = await store.create("tests")
    asked = {"input": "Hi", "conversation": made.id}
    one, two = sites.clients()
    async with one, two:
        answers = await asyncio.gather(*(at.post("/chat", json=asked) for at in (one, two)))
        after = await two.post("/chat", json=asked)
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    assert after.status_code == 200
    assert len(scripted_model.generations) == 2
    assert len(await store.entries(made.id, client="tests")) == 2


async def test_a_turn_that_fails_adds_nothing_and_lets_the_next_begin(
    sites: Sites, store: ConversationStore, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.text("half", fault=Fault.BREAK), Reply.text("whole"))
    made = await store.create("tests")
    asked = {"input": "Hi", "conversation": made.id}
    one, two = sites.clients()
    async with one, two:
        failed = await one.post("/chat", json=asked)
        done = await two.post("/chat", json=asked)
    assert [failed.status_code, done.status_code] == [503, 200]
    (entry,) = await store.entries(made.id, client="tests")
    assert entry.messages[1].content == "whole"


async def test_the_oldest_entries_are_left_out_of_a_full_window(
    sites: Sites, store: ConversationStore, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.text("ok"))
    rule = Message(role=Role.system, content="Be brief.")
    made = await store.create("tests", messages=[rule])
    for number in range(2, 12):
        text = f"{number} " + "word " * 40
        message = Message(role=Role.user, content=text)
        await store.add(made.id, number, [message], client="tests", turn=None)
    one, _ = sites.clients()
    async with one:
        answer = await one.post("/chat", json={"input": "Now?", "conversation": made.id})
    assert answer.status_code == 200
    kept = [text.partition(" ")[0] for _, text in told(scripted_model)]
    assert kept[-2:] == ["11", "Now?"]
    assert 2 < len(kept) < 9
    first: Any = scripted_model.generations[0].json["messages"]
    assert any("Be brief." in one["content"] for one in first if one["role"] == "system")


@tool
async def look() -> str:
    """Look something up."""
    return "found " * 2000


@agent("looker", description="Looks things up.", tools=[look])
class LookerAgent(ToolAgent): ...


async def test_rounds_of_tools_do_not_make_a_conversation_seem_longer(
    postgres_dsn: str, scripted_model: ScriptedModel, mongo_uri: str, mongo_db_name: str,
    store: ConversationStore,
) -> None:  # fmt: skip
    calls = Reply.calls(("look", {})).but(prompt_tokens=100)
    scripted_model.script(calls, calls, Reply.text("Done").but(prompt_tokens=9000))
    made = await store.create("tests")
    stores = (postgres_dsn, scripted_model.host, mongo_uri, mongo_db_name)
    async with two_sites(*stores, agents=[LookerAgent]) as sites, sites.clients()[0] as client:
        asked = {"agent": "looker", "input": "word " * 80, "conversation": made.id}
        assert (await client.post("/chat", json=asked)).status_code == 200
    assert len(scripted_model.generations) == 3
    assert (await store.get(made.id, client="tests")).tokens_a_byte == 100 / 400


async def test_a_strangers_or_an_unknown_conversation_is_404(
    sites: Sites, store: ConversationStore, scripted_model: ScriptedModel
) -> None:
    made = await store.create("somebody-else")
    one, _ = sites.clients()
    async with one:
        for id in (made.id, "nothing"):
            for path in ("/chat", "/chat/stream"):
                answer = await one.post(path, json={"input": "Hi", "conversation": id})
                assert answer.status_code == 404
    assert not scripted_model.generations
    await sites.one.until_no_slot_is_taken()


async def test_history_may_not_be_sent_along_with_a_kept_conversation(sites: Sites) -> None:
    message = {"role": "user", "content": "Hi"}
    one, _ = sites.clients()
    async with one:
        body = {"messages": [message, message], "conversation": "x"}
        answer = await one.post("/chat", json=body)
    assert answer.status_code == 422


async def test_a_turn_as_large_as_a_request_may_be_is_kept_in_any_script(
    sites: Sites, store: ConversationStore, scripted_model: ScriptedModel
) -> None:
    # As ASCII with six bytes a letter this would be more than one document of MongoDB holds.
    long = "\U0001f600" * 1_400_000
    made = await store.create("tests")
    one, _ = sites.clients()
    async with one:
        answer = await one.post("/chat", json={"input": long, "conversation": made.id})
    assert answer.status_code == 200, answer.text[:500]
    (entry,) = await store.entries(made.id, client="tests")
    assert entry.messages[0].content == long


def test_half_a_letter_is_kept_as_it_came_in_text_that_mongodb_takes() -> None:
    said = (Message(role=Role.assistant, content="cut \ud83d", thinking="\U0001f600é"),)
    records = records_of(said)
    records.encode()
    assert messages_of(records) == said


async def test_a_turn_with_more_than_can_be_read_back_is_refused_before_its_model_is_asked(
    sites: Sites, store: ConversationStore, scripted_model: ScriptedModel
) -> None:
    made = await store.create("tests")
    one, two = sites.clients()
    async with one, two:
        asked = {"input": '"' * 1_500_000, "conversation": made.id}
        answer = await one.post("/chat", json=asked)
    assert answer.status_code == 413, answer.text
    assert "divide it among several" in answer.json()["detail"]
    assert scripted_model.generations == []
    assert await store.entries(made.id, client="tests") == []


async def test_a_turn_during_an_append_is_refused_before_any_model_is_asked(
    sites: Sites, store: ConversationStore, scripted_model: ScriptedModel
) -> None:
    slow = Slow(store._mongo())
    made = await store.create("tests")
    asked = {"input": "And?", "conversation": made.id}
    one, _ = sites.clients()
    async with one:
        said = [Message(role=Role.user, content="Noted")]
        appending = asyncio.create_task(slow.append(made.id, said, client="tests"))
        await slow.half.wait()
        refused = await one.post("/chat", json=asked)
        assert not (await store.get(made.id, client="tests")).answering
        slow.may.set()
        await appending
        answered = await one.post("/chat", json=asked)
    assert (refused.status_code, answered.status_code) == (409, 200)
    assert [said for _, said in told(scripted_model)] == ["Noted", "And?"]
    assert len(scripted_model.generations) == 1


async def test_an_append_that_died_is_repeated_at_once_and_adds_once(
    store: ConversationStore,
) -> None:
    said = [Message(role=Role.user, content="Noted")]
    made = await store.create("tests")
    dying = Dying(store._mongo, clock=SystemClock())
    await dying.append(made.id, said, client="tests", once="token")
    again = await store.append(made.id, said, client="tests", once="token")
    more = await store.append(made.id, said, client="tests")
    assert (again.number, more.number) == (1, 2)

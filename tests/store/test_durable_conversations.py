"""A durable turn is in its conversation once, whoever ends it, and whoever has stopped reading."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lambent.agents.durable import workflow_name
from lambent.agents.turn_input import Exchange, turn_input
from lambent.chat.dialogue import Dialogue
from lambent.chat.upkeep import TITLE
from lambent.clock import EPOCH
from lambent.engine.model import RUNS
from lambent.ids import new_ulid
from lambent.models.values import Message, Role, Usage
from local.services import ScriptedModel
from local.services.script import Reply
from tests.store.durable_site import ASK, Function, functions
from tests.store.test_durable_turns import WORDS, going_on, read
from tests.unit.chat_site import said

SAID = Message(role=Role.user, content=ASK["input"])


class Left:
    """A turn in a new conversation whose readers have left for good; its run waits."""

    def __init__(self, at: Function) -> None:
        self.at = at
        self.conversation = self.turn = self.run = ""

    async def begin(self, said: str = ASK["input"]) -> Left:
        self.conversation = (await self.at.parts.conversations.create("ann")).id
        asked: Any = {"json": {**ASK, "input": said, "conversation": self.conversation}}
        async with (
            self.at.client() as client,
            client.stream("POST", "/chat/stream", **asked) as answer,
        ):
            assert answer.status_code == 200
            self.turn = answer.headers["x-stream-id"]
            await read(answer.aiter_lines(), until="word3")
        self.run = (await self.at.until_run("waiting"))["_id"]
        chats = self.at.parts.chats
        async with asyncio.timeout(30):
            while chats.stream_here(self.turn, client="ann") is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return self

    async def claim_lapses(self) -> None:
        """As it does in half a minute, where nobody goes on with the turn."""
        heads = self.at.parts.mongo.db["conversations"]
        await heads.update_one({"_id": self.conversation}, {"$set": {"busy_until": EPOCH}})

    async def answering(self) -> bool:
        found = await self.at.parts.conversations.get(self.conversation, client="ann")
        return found.answering

    async def kept(self) -> list[tuple[str, ...]]:
        return await kept(self.at, self.conversation)


async def kept(at: Function, conversation: str) -> list[tuple[str, ...]]:
    """What each entry of the conversation says."""
    entries = await at.parts.conversations.entries(conversation, client="ann")
    return [tuple(message.content for message in one.messages) for one in entries]


@pytest.fixture
async def left(pair: list[Function], scripted_model: ScriptedModel) -> Left:
    scripted_model.script(Reply.calls(("note", {"word": "x"})), going_on, going_on)
    return await Left(pair[0]).begin()


async def end(at: Function, run: str) -> dict[str, Any]:
    """As the step function would; the run as it ended."""
    await at.parts.engine.advance([run])
    return await at.until_run("completed")


async def lapse(at: Function) -> None:
    """The lease of whoever has a run."""
    runs = at.parts.mongo.db[RUNS.collection]
    await runs.update_many({"status": "running"}, {"$set": {"lease_until": EPOCH}})


async def test_readers_who_leave_for_good_find_question_and_answer_in_the_conversation(
    pair: list[Function], left: Left, scripted_model: ScriptedModel
) -> None:
    await end(pair[1], left.run)
    assert await left.kept() == [("Do it.", WORDS)]
    store = left.at.parts.conversations
    (entry,) = await store.entries(left.conversation, client="ann")
    assert entry.turn == left.turn
    assert entry.usage is not None
    assert entry.usage["completion_tokens"] > 0
    (use,) = entry.tools[1]
    assert (use.name, use.arguments, use.result) == ("note", '{\n  "word": "x"\n}', "noted x")
    found = await store.get(left.conversation, client="ann")
    assert (found.title, found.answering) == ("Do it.", False)
    scripted_model.script(Reply.text("Next."))
    async with left.at.client() as client:
        asked = {"agent": "clerk", "input": "And?", "conversation": left.conversation}
        assert (await client.post("/chat", json=asked)).json()["output"] == "Next."
    assert await left.kept() == [("Do it.", WORDS), ("And?", "Next.")]


async def test_what_a_turn_leaves_to_be_done_is_begun_by_its_run_too(
    postgres_dsn: str, mongo_uri: str, mongo_db_name: str, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.calls(("note", {"word": "x"})), going_on, going_on)
    places = (postgres_dsn, mongo_uri, mongo_db_name, scripted_model.host)
    async with functions(2, *places, conversation_titles="model") as (first, second):
        left = await Left(first).begin("Do it. " * 50)
        await second.parts.engine.advance([left.run])
        found = await first.parts.conversations.get(left.conversation, client="ann")
        titling = await first.parts.mongo.db[RUNS.collection].find({"workflow": TITLE}).to_list()
    assert [one["client"] for one in titling] == ["ann"]
    # As its first call measured it; the second one was told what had come of that, too.
    assert found.tokens_a_byte == 7 / 350


@pytest.mark.parametrize("dies", ["before the write", "after the write", "after the end is told"])
async def test_a_slice_that_dies_about_the_write_leaves_the_exchange_once(
    pair: list[Function], left: Left, dies: str
) -> None:
    first, second = pair
    exchanges, streams = second.parts.durable_chats.turns.exchanges, second.parts.chats.streams
    add, finish, died, there = exchanges.keep, streams.finish, asyncio.Event(), []

    async def die() -> None:
        there.extend(await left.kept())
        died.set()
        await asyncio.Event().wait()

    async def keep(exchange: Exchange) -> None:
        if dies != "before the write":
            await add(exchange)
        if dies != "after the end is told":
            await die()

    async def finish_and_die(*about: Any) -> None:
        await finish(*about)
        await die()

    exchanges.keep = keep  # type: ignore[method-assign]
    streams.finish = finish_and_die  # type: ignore[method-assign,assignment]
    dying = asyncio.create_task(second.parts.engine.advance([left.run]))
    await asyncio.wait_for(died.wait(), 30)
    dying.cancel()
    await asyncio.wait({dying})
    await lapse(first)
    await end(first, left.run)
    assert len(there) == (0 if dies == "before the write" else 1)
    assert await left.kept() == [("Do it.", WORDS)]


async def test_a_zombies_late_write_adds_nothing(pair: list[Function], left: Left) -> None:
    first, second = pair
    exchanges, reached, go = (
        second.parts.durable_chats.turns.exchanges,
        asyncio.Event(),
        asyncio.Event(),
    )
    add, came = exchanges.keep, []

    async def late(exchange: Exchange) -> None:
        reached.set()
        await go.wait()
        came.append(await add(exchange))

    exchanges.keep = late  # type: ignore[method-assign]
    zombie = asyncio.create_task(second.parts.engine.advance([left.run]))
    await asyncio.wait_for(reached.wait(), 30)
    await lapse(first)
    await end(first, left.run)
    go.set()
    await asyncio.wait_for(zombie, 30)
    assert came
    assert await left.kept() == [("Do it.", WORDS)]


async def test_of_all_who_add_the_turn_at_once_one_does(
    pair: list[Function], scripted_model: ScriptedModel
) -> None:
    keeps = [one.parts.durable_chats.turns.exchanges.keep for one in pair]
    store, clock = pair[0].parts.conversations, pair[0].parts.clock
    for _ in range(10):
        made, turn = await store.create("ann"), new_ulid(clock)
        dialogue = Dialogue(store, made.id, turn=turn, client="ann", clock=clock)
        messages = await dialogue.begin([SAID], window_tokens=4096, options={})
        input = turn_input(
            pair[0].parts.registry.info("clerk"), turn=turn, messages=messages, model="m",
            options={}, think=None, scopes=frozenset(), key=None, place=dialogue.place,
        )  # fmt: skip
        exchange = Exchange(
            input=input, client="ann", place=dialogue.place, usage=Usage(), prompt_tokens=0,
            answer=Message(role=Role.assistant, content="Done."),
        )  # fmt: skip
        chat = dialogue.keep("Done.", thinking="", usage=Usage(), first=None)
        await asyncio.gather(chat, *(keep(exchange) for keep in keeps * 3))
        assert await kept(pair[0], made.id) == [("Do it.", "Done.")]


async def test_the_run_of_a_deleted_conversation_ends_well_and_leaves_nothing_there(
    pair: list[Function], left: Left
) -> None:
    await left.at.parts.conversations.delete(left.conversation, client="ann")
    run = await end(pair[1], left.run)
    assert run["error"] is None
    entries = left.at.parts.mongo.db["conversation_entries"]
    assert await entries.count_documents({"conversation": left.conversation}) == 0
    async with left.at.client() as client:
        assert said((await client.get(f"/chat/streams/{left.turn}")).text) == WORDS


async def test_a_conversation_that_has_gone_on_without_the_turn_stays_as_it_is(
    pair: list[Function], left: Left
) -> None:
    await left.claim_lapses()
    other = [Message(role=Role.user, content="Never mind.")]
    await left.at.parts.conversations.append(left.conversation, other, client="ann")
    run = await end(pair[1], left.run)
    assert run["error"] is None
    assert await left.kept() == [("Never mind.",)]


@pytest.mark.parametrize("gap", ["short", "long"])
async def test_no_other_turn_begins_while_the_run_goes_on_without_readers(
    pair: list[Function], left: Left, scripted_model: ScriptedModel, gap: str
) -> None:
    first, second = pair
    if gap == "long":
        await left.claim_lapses()
    asked = {"agent": "clerk", "input": "And?", "conversation": left.conversation}
    running = asyncio.create_task(second.parts.engine.advance([left.run]))
    await scripted_model.until(lambda: len(scripted_model.generations) == 3)
    async with first.client() as client:
        assert (await client.post("/chat", json=asked)).status_code == 409
        await asyncio.wait_for(running, 30)
        scripted_model.script(Reply.text("Next."))
        assert (await client.post("/chat", json=asked)).status_code == 200
    assert await left.kept() == [("Do it.", WORDS), ("And?", "Next.")]


async def test_a_turn_that_has_lost_its_place_keeps_nobody_out(
    pair: list[Function], left: Left, scripted_model: ScriptedModel
) -> None:
    await left.claim_lapses()
    other = [Message(role=Role.user, content="Never mind.")]
    await left.at.parts.conversations.append(left.conversation, other, client="ann")
    running = asyncio.create_task(pair[1].parts.engine.advance([left.run]))
    await scripted_model.until(lambda: len(scripted_model.generations) == 3)
    assert not await left.answering()
    await asyncio.wait_for(running, 30)


async def test_a_turn_that_fails_without_readers_lets_the_next_begin(
    pair: list[Function], scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.calls(("note", {"word": "x"})), going_on, Reply.failure(400, "no"))
    left = await Left(pair[0]).begin()
    assert await left.answering()
    await pair[1].parts.engine.advance([left.run])
    await pair[1].until_run("failed")
    assert not await left.answering()
    assert await left.kept() == []


async def test_another_clients_conversation_is_not_added_to(
    pair: list[Function], left: Left
) -> None:
    store, runs = left.at.parts.conversations, left.at.parts.mongo.db[RUNS.collection]
    foreign = (await store.create("bob")).id
    await runs.update_one({"_id": left.run}, {"$set": {"client": "bob"}})
    await end(pair[1], left.run)
    assert await left.kept() == []
    assert await store.entries(foreign, client="bob") == []
    assert await store.entries(left.conversation, client="bob") == []


async def test_a_turn_that_is_stopped_adds_nothing(pair: list[Function], left: Left) -> None:
    async with left.at.client() as client:
        assert (await client.delete(f"/chat/streams/{left.turn}")).status_code == 202
    await pair[1].parts.engine.advance([left.run])
    await pair[1].until_run("cancelled")
    assert await left.kept() == []
    assert not await left.answering()


@pytest.mark.parametrize("streams", [True, False])
async def test_a_turn_that_waits_for_a_person_is_added_whole_once_it_ends(
    pair: list[Function], scripted_model: ScriptedModel, streams: bool
) -> None:
    first, second = pair
    scripted_model.script(Reply.calls(("pay", {"amount": 5})), Reply.text("It is paid."))
    made = await first.parts.conversations.create("ann")
    asked: Any = {"json": {**ASK, "conversation": made.id}}
    async with first.client() as client:
        if streams:
            async with client.stream("POST", "/chat/stream", **asked) as answer:
                await read(answer.aiter_lines(), until="waiting")
        else:
            assert (await client.post("/chat", **asked)).json()["finish_reason"] == "waiting"
    run = (await first.until_run("waiting"))["_id"]
    assert await kept(first, made.id) == []
    assert (await first.post(f"/runs/{run}/approvals/0.0", {"approve": True})).is_success
    await end(second, run)
    assert await kept(first, made.id) == [("Do it.", "It is paid.")]


async def test_the_same_key_sent_again_after_all_have_left_adds_nothing_more(
    pair: list[Function], scripted_model: ScriptedModel
) -> None:
    first, second = pair
    scripted_model.script(going_on, going_on)
    made = await first.parts.conversations.create("ann")
    body, key = {**ASK, "conversation": made.id}, {"idempotency-key": "order-67"}
    async with first.client() as client:
        async with client.stream("POST", "/chat/stream", json=body, headers=key) as answer:
            await read(answer.aiter_lines(), until="word3")
            first.parts.chats.stop()  # the function goes away
        run = (await first.until_run("waiting"))["_id"]
        await end(second, run)
        async with second.client() as again:
            answer = await again.post("/chat/stream", json=body, headers=key)
        assert said(answer.text) == WORDS
    assert await kept(first, made.id) == [("Do it.", WORDS)]
    assert await first.parts.mongo.db[RUNS.collection].count_documents({}) == 1


async def test_a_run_from_before_this_was_told_ends_as_it_would_have(
    pair: list[Function], scripted_model: ScriptedModel
) -> None:
    first, second = pair
    scripted_model.script(Reply.text("All the same."))
    info, turn = first.parts.registry.info("clerk"), new_ulid(first.parts.clock)
    input = turn_input(
        info, turn=turn, messages=[SAID], model="m", options={}, think=None,
        scopes=frozenset(), key=None,
    )  # fmt: skip
    assert "place" not in input
    began: Any = {"client": "ann", "key": f"turn:{turn}", "version": info.version}
    started = await first.parts.engine.take_internal(workflow_name("clerk"), input, **began)
    await first.die()
    run = await end(second, started.run["_id"])
    assert run["error"] is None

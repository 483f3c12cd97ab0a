"""What no longer fits is summed up, and titles are given, by runs behind a conversation's turns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from lambent.agents.tool_agent import opening
from lambent.agents.turn_input import message_of, message_record
from lambent.chat.conversations import Conversation, ConversationStore, Summary
from lambent.chat.upkeep import SUMMARISE, TITLE, Upkeep, title_in
from lambent.clock import SystemClock
from lambent.engine.model import ENDED, RUNS
from lambent.errors import NotFound
from lambent.models.values import Message, Role
from lambent.mongo import Mongo
from local.services import Reply, ScriptedModel
from tests.store.durable_site import Function, functions

# As many tokens as the estimate takes a prompt of these tests for.
NOTES = Reply.text("They count words.", prompt_tokens=300)
RECAP = "Notes on what was said earlier"


@pytest.fixture
async def place(
    postgres_dsn: str, mongo_uri: str, mongo_db_name: str, scripted_model: ScriptedModel
) -> AsyncIterator[Function]:
    scripted_model.default = NOTES
    changed: Any = {
        "agent_modules": ("lambent_agents.chat",), "conversation_overflow": "summarise",
        "conversation_titles": "model", "conversation_tokens": 600,
    }  # fmt: skip
    places = (postgres_dsn, mongo_uri, mongo_db_name, scripted_model.host)
    async with functions(1, *places, **changed) as (one,):
        await one.parts.conversations.ensure_indexes()
        yield one


@pytest.fixture
async def store(mongo_uri: str, mongo_db_name: str) -> AsyncIterator[ConversationStore]:
    mongo = Mongo(mongo_uri, mongo_db_name, clock=SystemClock())
    yield ConversationStore(lambda: mongo, clock=SystemClock())
    await mongo.close()


def words(number: int) -> Message:
    return Message(role=Role.user, content=f"no{number} " + "word " * 40)


async def long_one(store: ConversationStore) -> Conversation:
    """Ten entries, of which a window of 600 tokens holds five or so."""
    made = await store.create("ann", title="Words")
    for number in range(1, 11):
        await store.add(made.id, number, [words(number)], client="ann", turn=None)
    return made


async def ask(place: Function, id: str, said: str = "Now?") -> None:
    async with place.client() as client:
        answer = await client.post("/chat", json={"input": said, "conversation": id})
    assert answer.status_code == 200, answer.text


async def runs(place: Function, workflow: str) -> list[dict[str, Any]]:
    found = await place.parts.mongo.db[RUNS.collection].find({}).to_list()
    return [one for one in found if one["workflow"] == workflow]


async def done(place: Function, workflow: str) -> str:
    """Advance the only run of this workflow to its end, as the step function would."""
    (run,) = await runs(place, workflow)
    control = place.parts.engine.control
    async with asyncio.timeout(20):
        while (ended := await control.get(run["_id"], client="ann")).status not in ENDED:
            await place.parts.engine.advance([run["_id"]])
    assert ended.status == "completed", ended.error
    return str(run["_id"])


def told(model: ScriptedModel, at: int = -1) -> list[str]:
    messages: Any = model.generations[at].json["messages"]
    return [one["content"] for one in messages]


async def test_what_no_longer_fits_is_summed_up_and_told_in_its_place(
    place: Function, store: ConversationStore, scripted_model: ScriptedModel
) -> None:
    made = await long_one(store)
    await ask(place, made.id)
    before = told(scripted_model)
    await done(place, SUMMARISE)
    summary = (await store.get(made.id, client="ann")).summary
    asked = "".join(told(scripted_model, at)[1] for at in range(1, len(scripted_model.generations)))
    await ask(place, made.id, "And now?")
    after = told(scripted_model)
    assert not any(RECAP in one for one in before)
    assert not any(one.startswith("no1 ") for one in before)
    assert summary is not None
    assert (summary.text, summary.offset) == ("They count words.", 0)
    # More than had to be, so that the next turns have room and need no summary of their own.
    assert 10 - sum(one.startswith("no") for one in before) < summary.covers < 10
    assert all(f"no{number} " in asked for number in range(1, summary.covers + 1))
    assert f"no{summary.covers + 1} " not in asked
    # Behind the agent's own prompt, which only a rule of the client's takes the place of.
    assert after[0] == before[0]
    assert RECAP in after[1]
    assert after[1].endswith("They count words.")
    kept = [one.partition(" ")[0] for one in after if one.startswith("no")]
    assert kept == [f"no{number}" for number in range(summary.covers + 1, 11)]
    assert len(await runs(place, SUMMARISE)) == 1


def test_a_durable_agent_keeps_its_prompt_before_a_recap_too() -> None:
    recap = Message(role=Role.system, content="Notes", recap=True)
    rule = Message(role=Role.system, content="Be brief.")
    told = [message_of(message_record(one)) for one in (recap, words(1))]
    assert [one.content for one in opening("You are.", told)[:2]] == ["You are.", "Notes"]
    assert opening("You are.", [rule, *told])[0] == rule


async def test_one_large_entry_is_summed_up_part_by_part_and_no_run_holds_its_words(
    place: Function, store: ConversationStore, scripted_model: ScriptedModel
) -> None:
    made = await store.create("ann", title="Words", messages=[words(one) for one in range(30)])
    await ask(place, made.id)
    run = await done(place, SUMMARISE)
    asked = [told(scripted_model, at)[1] for at in range(1, len(scripted_model.generations))]
    assert len(asked) > 2
    assert "Notes so far:\n(none)" in asked[0]
    assert all("Notes so far:\nThey count words." in one for one in asked[1:])
    joined = "".join(one.partition("Said next:\n")[2] for one in asked)
    assert all(f"no{number} " in joined for number in range(30))
    steps = await place.parts.engine.control.steps(run, client="ann")
    assert [one.output for one in steps] == [0] * (len(asked) - 1) + [1]


async def test_of_many_who_ask_for_a_summary_one_run_comes(
    place: Function, store: ConversationStore
) -> None:
    made = await long_one(store)
    upkeep = Upkeep(
        engine=lambda: place.parts.engine, settings=place.parts.settings, client="ann", key=None,
        model="any:1b", options={}, window_tokens=600,
    )  # fmt: skip
    wanted = (6, 6, 6, 7, 7)
    await asyncio.gather(*(upkeep.after_turn(made, covers=one) for one in wanted))
    assert len(await runs(place, SUMMARISE)) == 1


async def test_a_conversation_that_is_deleted_has_nothing_summed_up(
    place: Function, store: ConversationStore, scripted_model: ScriptedModel
) -> None:
    made = await long_one(store)
    await ask(place, made.id)
    await store.delete(made.id, client="ann")
    await done(place, SUMMARISE)
    assert len(scripted_model.generations) == 1
    with pytest.raises(NotFound):
        await store.get(made.id, client="ann")


async def test_a_summary_goes_on_from_the_one_it_was_made_of_only(store: ConversationStore) -> None:
    made = await long_one(store)
    first, other = Summary("a", 3, 0), Summary("b", 4, 10)
    assert await store.keep_summary(made.id, first, client="ann", before=None)
    assert not await store.keep_summary(made.id, other, client="ann", before=None)
    assert not await store.keep_summary(made.id, other, client="bob", before=first)
    assert await store.keep_summary(made.id, other, client="ann", before=first)
    assert (await store.get(made.id, client="ann")).summary == other
    # A fork has it only where all that it tells of was said before the cut.
    early = await store.fork(made.id, client="ann", at="5.1")
    late = await store.fork(made.id, client="ann", at="6.1")
    assert (early.summary, late.summary) == (None, other)


async def test_the_model_gives_a_title_after_the_first_exchange(
    place: Function, store: ConversationStore, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.text("Hello"), Reply.text('"Greetings at dawn."\nIt greets.'))
    made = await store.create("ann")
    await ask(place, made.id, "Good morning to you")
    between = await store.get(made.id, client="ann")
    await done(place, TITLE)
    assert told(scripted_model)[1] == "User: Good morning to you\n\nAssistant: Hello\n\n"
    await ask(place, made.id)
    found = await store.get(made.id, client="ann")
    assert (between.title, found.title) == ("Good morning to you", "Greetings at dawn")
    assert len(await runs(place, TITLE)) == 1


async def test_a_title_that_a_person_gave_is_never_replaced(
    place: Function, store: ConversationStore
) -> None:
    made = await store.create("ann")
    await ask(place, made.id)
    await store.rename(made.id, "Mine", client="ann")
    await done(place, TITLE)
    given = await store.create("ann", title="Mine too")
    await ask(place, given.id)
    titles = [(await store.get(one.id, client="ann")).title for one in (made, given)]
    assert titles == ["Mine", "Mine too"]
    assert len(await runs(place, TITLE)) == 1


async def test_by_default_turns_start_no_runs(
    postgres_dsn: str, mongo_uri: str, mongo_db_name: str, scripted_model: ScriptedModel,
    store: ConversationStore,
) -> None:  # fmt: skip
    places = (postgres_dsn, mongo_uri, mongo_db_name, scripted_model.host)
    changed: Any = {"agent_modules": ("lambent_agents.chat",), "conversation_tokens": 600}
    async with functions(1, *places, **changed) as (one,):
        made = await long_one(store)
        untitled = await store.create("ann")
        await ask(one, made.id)
        await ask(one, untitled.id)
        assert await one.run() == {}


@pytest.mark.parametrize(
    ("answer", "title"),
    [
        ("Greetings", "Greetings"),
        ("\n**Title: A trip to Oslo.**\n\nWhy: …", "A trip to Oslo"),
        ("„Grüße“", "Grüße"),
        ("", ""),
        ("word " * 40, " ".join(["word"] * 12) + "…"),
    ],
)
def test_a_title_is_taken_out_of_whatever_a_model_says(answer: str, title: str) -> None:
    assert title_in(answer) == title

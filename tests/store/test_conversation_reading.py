"""A turn reads of its conversation what it may need, and is told as if it had read all of it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from lambent.chat import window
from lambent.chat.conversations import ConversationStore, Summary
from lambent.chat.dialogue import Dialogue
from lambent.chat.entries import Entry
from lambent.chat.recent_entries import RecentEntries
from lambent.clock import SystemClock
from lambent.models.values import Message, Role
from lambent.mongo import Mongo

SEEDS = 40
ASKED = [Message(role=Role.user, content="And now?")]


class Counting(RecentEntries):
    """Notes how many entries it gave."""

    given = 0

    async def until(self, *given: object, **named: object) -> list[Entry]:
        read = await super().until(*given, **named)  # type: ignore[arg-type]
        Counting.given += len(read)
        return read


class Store(ConversationStore):
    def recent(self, id: str, *, client: str) -> RecentEntries:
        return Counting(self._entries, id, client)


@pytest.fixture
async def mongo(mongo_uri: str, mongo_db_name: str) -> AsyncIterator[Mongo]:
    mongo = Mongo(mongo_uri, mongo_db_name, clock=SystemClock())
    yield mongo
    await mongo.close()


@pytest.fixture
async def store(mongo: Mongo) -> Store:
    store = Store(lambda: mongo, clock=SystemClock())
    await store.ensure_indexes()
    return store


def entry(rng: random.Random) -> list[Message]:
    kinds = [Role.user, Role.assistant]
    if rng.random() < 0.1:
        kinds.insert(0, Role.system)
    return [
        Message(role=kind, content=f"{rng.random()} " * rng.randrange(1, 12), thinking="…")
        for kind in kinds
    ]


async def told(store: ConversationStore, id: str, turn: str, tokens: int) -> Dialogue:
    dialogue = Dialogue(store, id, turn=turn, client="c", clock=SystemClock())
    try:
        await dialogue.begin(ASKED, window_tokens=tokens, options={})
    finally:
        await dialogue.end()
    return dialogue


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_it_is_told_the_same_as_if_all_was_read(
    store: Store, mongo: Mongo, seed: int
) -> None:
    rng = random.Random(seed)
    made = await store.create("c", messages=entry(rng))
    length = rng.randrange(1, 40)
    for number in range(2, length + 1):
        await store.add(made.id, number, entry(rng), client="c", turn=f"t{number}")
    if rng.random() < 0.3:  # as a version before wrote them
        await mongo.db["conversation_entries"].update_many({}, {"$unset": {"rules": ""}})
    summary = None
    if length > 4 and rng.random() < 0.5:
        summary = Summary("Long ago.", rng.randrange(1, length + 1), 0)
        await store.keep_summary(made.id, summary, client="c", before=None)
    tokens = rng.choice([200, 600, 2_000, 100_000])
    turn = f"t{rng.randrange(2, length + 20)}"  # an old one, asked for again, or a new one

    whole = await store.entries(made.id, client="c")
    at = next((at for at, one in enumerate(whole) if one.turn == turn), len(whole))
    expected = window.fit(
        whole[:at],
        ASKED,
        window_tokens=tokens,
        answer_tokens=0,
        tokens_a_byte=None,
        summary=summary,
    )
    dialogue = await told(store, made.id, turn, tokens)
    assert dialogue._fitted == expected
    assert dialogue.place.number == at + 1


async def test_a_long_conversation_is_not_read_as_a_whole(store: Store) -> None:
    made = await store.create("c", messages=[Message(role=Role.system, content="Be brief.")])
    said = [Message(role=Role.user, content="word " * 200)]
    for number in range(2, 151):
        await store.add(made.id, number, said, client="c", turn=None)
    Counting.given = 0
    dialogue = await told(store, made.id, "t", 2_000)
    assert dialogue.place.number == 151
    contents = [one.content for one in dialogue._fitted.messages]
    assert contents[0] == "Be brief."
    assert len(contents) > 3
    assert Counting.given < 10


async def test_a_conversation_that_is_summed_up_whole_goes_on_behind_it(store: Store) -> None:
    made = await store.create("c", messages=[replace(ASKED[0], content="Hello")])
    await store.keep_summary(made.id, Summary("Greetings.", 1, 0), client="c", before=None)
    dialogue = await told(store, made.id, "t", 2_000)
    assert dialogue.place.number == 2
    assert [one.role for one in dialogue._fitted.messages] == [Role.system, Role.user]

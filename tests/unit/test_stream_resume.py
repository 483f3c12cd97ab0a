"""A stream that is cut goes on where it was left, at whichever function one asks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from lambent.clock import SystemClock
from lambent.ids import new_ulid
from lambent.streams.values import Dialect, Stream
from local.services import ScriptedModel
from local.services.script import Reply
from tests.unit.chat_site import CHAT, frames, said
from tests.unit.stream_sites import Sites, read, two_sites, until_kept


@pytest.fixture
async def sites(
    postgres_dsn: str, scripted_model: ScriptedModel, mongo_uri: str, mongo_db_name: str
) -> AsyncIterator[Sites]:
    async with two_sites(postgres_dsn, scripted_model.host, mongo_uri, mongo_db_name) as sites:
        yield sites


async def test_a_stream_cut_at_twenty_places_adds_up_to_the_uncut_one(
    sites: Sites, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.many(150, delay_s=0.01))
    chance = random.Random(20)
    one, two = sites.clients()
    async with one, two:
        part = await read(one, events=chance.randint(1, 7))
        text, id = part.text, part.id
        for _ in range(19):
            at = chance.choice((one, two))
            last = text.count("\n\n")
            text += (await read(at, id=id, after=last, events=chance.randint(1, 7))).text
        text += (await read(two, id=id, after=text.count("\n\n"))).text
        whole = (await read(one, id=id)).text
    assert text == whole
    assert frames(whole)[-1] == "[DONE]"
    assert len(frames(whole)) == 152
    assert len(scripted_model.generations) == 1


async def test_a_finished_stream_is_read_again_from_any_place(
    sites: Sites, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.text("one two three"))
    one, two = sites.clients()
    async with one, two:
        first = await read(one)
        await until_kept(sites.store, first.id, "done")
        for after in range(5):
            again = await read(two, id=first.id, after=after)
            assert first.text.endswith(again.text)
            assert first.text.count("\n\n") - again.text.count("\n\n") == after
        behind = await read(two, id=first.id, after=99)
    assert said(first.text) == "one two three"
    assert behind.text == ""


async def test_several_readers_follow_one_live_stream(
    sites: Sites, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.many(80, delay_s=0.01))
    one, two = sites.clients()
    async with one, two:
        begun = await read(one, events=3)
        readers = [read(at, id=begun.id, after=n) for n in range(3) for at in (one, two)]
        texts = [part.text for part in await asyncio.gather(*readers)]
        whole = (await read(two, id=begun.id)).text
    assert all(whole.endswith(text) for text in texts)
    assert texts[0] == texts[1] == whole


async def test_a_reader_of_a_dead_function_is_told_instead_of_waiting_for_ever(
    sites: Sites,
) -> None:
    clock = SystemClock()
    # As kill -9 leaves it: live, with a lease that nobody renews.
    stream = Stream(
        id=new_ulid(clock), client="tests", dialect=Dialect.LAMBENT, lease="gone",
        lease_until=clock.now() + timedelta(seconds=0.5),
    )  # fmt: skip
    await sites.store.open(stream)
    await sites.store.append(stream, 1, [b'id: 1\ndata: {"delta": "one"}\n\n'])
    one, two = sites.clients()
    async with one, two:
        readers = [read(at, id=stream.id, after=n) for at in (one, two) for n in (0, 1)]
        first, *others = [part.text for part in await asyncio.gather(*readers)]
    assert first.startswith('id: 1\ndata: {"delta": "one"}\n\nid: 2\nevent: error\n')
    assert frames(first)[-1]["type"] == "urn:lambent:problem:model_unavailable"
    assert all("id: 2\nevent: error\n" in text for text in others)
    await until_kept(sites.store, stream.id, "failed")


async def test_the_answer_names_its_stream(sites: Sites, scripted_model: ScriptedModel) -> None:
    scripted_model.script(Reply.text("x"))
    one, _ = sites.clients()
    async with one:
        answer = await one.post("/chat/stream", json=CHAT)
    id = answer.headers["x-stream-id"]
    assert answer.headers["content-location"] == f"/chat/streams/{id}"


@pytest.mark.parametrize("after", ["-1", "x", "1.5", "9" * 30, "0" * 20 + "9" * 5000, "²"])
async def test_a_last_event_that_is_no_number_is_refused(sites: Sites, after: str) -> None:
    one, _ = sites.clients()
    async with one:
        answer = await one.get("/chat/streams/x", headers={"last-event-id": after.encode()})
    assert answer.status_code == 400


@pytest.mark.parametrize(("method", "more"), [("GET", ""), ("DELETE", ""), ("POST", "/lease")])
async def test_an_id_of_the_far_future_is_not_waited_for(
    sites: Sites, method: str, more: str
) -> None:
    one, _ = sites.clients()
    async with one, asyncio.timeout(30):
        answer = await one.request(method, f"/chat/streams/7{'Z' * 25}{more}")
    assert answer.status_code == 404

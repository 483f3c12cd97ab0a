"""Without MongoDB a chat goes on as if nothing were: only its frames are not kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from lambent.clock import SystemClock
from lambent.mongo import Mongo
from local.services import ScriptedModel
from local.services.script import Reply
from tests.unit.chat_site import CHAT, ChatSite, chat_site, frames
from tests.unit.stream_sites import read


@pytest.fixture
async def site(postgres_dsn: str, scripted_model: ScriptedModel) -> AsyncIterator[ChatSite]:
    nobody = Mongo("mongodb://127.0.0.1:9", "lambent", clock=SystemClock())
    async with chat_site(postgres_dsn, scripted_model.host, mongo=nobody) as site:
        yield site
    await nobody.close()


async def test_streams_go_on(site: ChatSite, scripted_model: ScriptedModel) -> None:
    scripted_model.default = Reply.many(60, delay_s=0.01)
    async with site.client() as client:
        answers = await asyncio.gather(*(client.post("/chat/stream", json=CHAT) for _ in range(3)))
    assert all(len(frames(answer.text)) == 62 for answer in answers)
    await site.until_no_slot_is_taken()


async def test_a_lease_that_nobody_renews_stops_the_model_all_the_same(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    scripted_model.default = Reply.many(3000, delay_s=0.01)
    async with site.client() as client:
        answer = await client.post("/chat/stream", json=CHAT, headers={"x-stream-lease": "1"})
    assert frames(answer.text)[-1]["type"] == "urn:lambent:problem:stopped"
    await scripted_model.until(lambda: scripted_model.generations[0].hung_up)
    await site.until_no_slot_is_taken()


@pytest.mark.parametrize("how", ["asking", "reading"])
async def test_a_lease_is_renewed_at_the_function_that_makes_the_stream(
    site: ChatSite, scripted_model: ScriptedModel, how: str
) -> None:
    scripted_model.default = Reply.many(600, delay_s=0.01)
    async with site.client() as client:
        part = await read(client, events=1, headers={"x-stream-lease": "3"})
        for after in range(0, 570, 30):
            await scripted_model.until(
                lambda n=after: scripted_model.generations[0].frames_sent > n
            )
            if how == "asking":
                renewed = await client.post(f"/chat/streams/{part.id}/lease")
                assert renewed.json()["lease_until"], renewed.text
            else:
                await read(client, id=part.id, after=after, events=1)
        whole = await read(client, id=part.id)
    assert frames(whole.text)[-1] == "[DONE]"


async def test_what_needs_it_says_so_and_may_be_tried_again(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    key = {"idempotency-key": "k"}
    async with site.client() as client:
        answers = await asyncio.gather(
            client.post("/chat", json=CHAT, headers=key),
            client.post("/chat/stream", json=CHAT, headers=key),
            client.get("/chat/streams/x"),
            client.delete("/chat/streams/x"),
            client.post("/chat/streams/x/lease"),
        )
    assert {answer.status_code for answer in answers} == {503}
    assert all(answer.json()["type"].endswith("store_unavailable") for answer in answers)
    assert not scripted_model.generations

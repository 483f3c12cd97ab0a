"""Streams under /v1 that were asked to outlive their connection, read by OpenAI's own client."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from local.services import ScriptedModel
from local.services.script import Fault, Reply
from tests.unit.openai_site import ASKED, WHY, openai_client
from tests.unit.stream_sites import LEASE, Sites, read, two_sites, until_kept

MADE = {"json": {**ASKED, "stream": True}, "headers": LEASE}


@pytest.fixture
async def sites(
    postgres_dsn: str, scripted_model: ScriptedModel, mongo_uri: str, mongo_db_name: str
) -> AsyncIterator[Sites]:
    stores = (postgres_dsn, scripted_model.host, mongo_uri, mongo_db_name)
    async with two_sites(*stores, keep_alive_s=0.3) as sites:
        yield sites


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
async def test_a_cut_stream_goes_on_with_the_same_bytes_elsewhere(
    sites: Sites, scripted_model: ScriptedModel, path: str
) -> None:
    scripted_model.script(Reply.many(60, delay_s=0.01))
    asked = {"model": ASKED["model"], "stream": True}
    asked |= {"messages": WHY} if "chat" in path else {"input": "Why is the sky blue?"}
    one, two = sites.clients()
    async with one, two:
        part = await read(one, path=path, json=asked, events=5)
        rest = await read(two, id=part.id, after=5)
        whole = (await read(one, id=part.id)).text
    assert part.text + rest.text == whole
    assert whole.count("id: ") == whole.count("data: {")
    assert whole.endswith("data: [DONE]\n\n") == ("chat" in path)


async def test_the_official_client_reads_a_kept_stream_through_its_silences(
    sites: Sites, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.text("one two three", delay_s=0.7))
    client = openai_client(sites.one)
    stream = await client.chat.completions.create(
        model=ASKED["model"], messages=WHY, stream=True, extra_headers=LEASE
    )
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    await client.close()
    assert text == "one two three"


async def test_a_stream_that_was_not_asked_to_last_has_no_ids_and_is_not_kept(
    sites: Sites, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.text("one"))
    async with sites.one.client() as client:
        answer = await client.post("/v1/chat/completions", json=MADE["json"])
    assert "id: 1\n" not in answer.text
    assert "x-stream-id" not in answer.headers


async def test_a_stop_and_a_failure_are_errors_in_openais_shape(
    sites: Sites, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.text("one two", fault=Fault.BREAK), Reply.many(2000, delay_s=0.01))
    one, two = sites.clients()
    async with one, two:
        failed = await read(one, path="/v1/chat/completions", json=MADE["json"])
        part = await read(one, path="/v1/chat/completions", json=MADE["json"], events=2)
        await two.delete(f"/chat/streams/{part.id}")
        await until_kept(sites.store, part.id, "stopped")
        stopped = await read(two, id=part.id, after=2)
    assert '"code":"model_unavailable"}}' in failed.text
    assert '"code":"stopped"}}' in stopped.text
    assert "event:" not in failed.text + stopped.text

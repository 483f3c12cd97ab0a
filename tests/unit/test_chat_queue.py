"""The queue in front of the models: clients take turns, and waits are told by recent durations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from lambent.admission.decisions import AdmissionRequest, Admitted, Outcome
from local.services import Reply, ScriptedModel
from tests.store.admission_kit import stand
from tests.unit.chat_site import CHAT, ChatSite, chat_site
from tests.unit.openai_site import ASKED
from tests.unit.stream_sites import two_sites


@pytest.fixture
async def site(postgres_dsn: str, scripted_model: ScriptedModel) -> AsyncIterator[ChatSite]:
    scripted_model.default = Reply.many(3)
    brisk: Any = {"ollama_max_inflight": 1, "slot_wait_s": 60.0, "keep_alive_s": 60.0}
    async with chat_site(postgres_dsn, scripted_model.host, **brisk) as site:
        yield site


async def until_waiting(site: ChatSite, count: int) -> None:
    async with asyncio.timeout(20):
        while len((await site.gate.state()).waiting) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_client_that_floods_does_not_keep_another_from_its_turns(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    modest = await site.new_key()
    async with site.client() as flooding, site.client(modest) as other:

        async def ask(client: httpx.AsyncClient, said: str) -> None:
            answer = await client.post("/chat", json={"input": said})
            assert answer.status_code == 200

        async with taken(site, scripted_model.host):
            flood = [asyncio.create_task(ask(flooding, "flood")) for _ in range(9)]
            await until_waiting(site, 9)
            late = [asyncio.create_task(ask(other, "modest")) for _ in range(3)]
            await until_waiting(site, 12)
        await asyncio.gather(*late)
        served = [one.json["messages"][-1]["content"] for one in scripted_model.generations]
        assert served.count("modest") == 3
        assert served.count("flood") <= 4
        for one in flood:
            one.cancel()
        await asyncio.wait(flood)


@asynccontextmanager
async def taken(site: ChatSite, model_host: str) -> AsyncIterator[None]:
    """The only slot is somebody else's for as long as this lasts."""
    asked = AdmissionRequest(
        credential=None, scope=None, host=model_host, slot=True, on_behalf_of="holder"
    )
    holder = await site.gate.admit(asked)
    assert isinstance(holder, Admitted)
    yield
    await site.gate.finish(holder.grant, Outcome.SUCCESS)


async def test_a_waiting_stream_shows_its_place_at_once_and_not_with_its_answer(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    got = ""
    async with (
        site.client() as client,
        asyncio.timeout(15),
        taken(site, scripted_model.host),
        client.stream("POST", "/chat/stream", json=CHAT) as answer,
    ):
        async for text in answer.aiter_text():
            got += text
            if "\n\n" in got:  # while nobody else gives the slot back
                break
    assert answer.status_code == 200
    assert got.startswith('id: 1\nevent: queued\ndata: {"position": 1')


@pytest.mark.parametrize("headers", [{}, {"x-stream-lease": "30"}])
async def test_no_slot_in_time_is_a_status_to_openais_clients_which_then_try_again(
    postgres_dsn: str,
    scripted_model: ScriptedModel,
    mongo_uri: str,
    mongo_db_name: str,
    headers: dict[str, str],
) -> None:
    # As the settings come: a wait for a slot may last as long as a silence.
    even: Any = {"ollama_max_inflight": 1, "slot_wait_s": 1.0, "keep_alive_s": 1.0}
    host = scripted_model.host
    async with (
        two_sites(postgres_dsn, host, mongo_uri, mongo_db_name, **even) as sites,
        taken(sites.one, host),
        sites.one.client() as client,
    ):
        asked = {**ASKED, "stream": True}
        late = await client.post("/v1/chat/completions", json=asked, headers=headers)
    assert (late.status_code, late.json()["error"]["code"]) == (503, "no_slot")
    assert int(late.headers["retry-after"]) >= 1


async def test_the_wait_is_estimated_from_how_long_slots_were_held(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, max_inflight=1) as place:
        holder = await place.admitted(slot=True)
        first = await place.queued()
        assert first.estimated_wait_s == 1.0  # nothing is known yet
        await place.gate.leave(first)
        await place.postgres.fetch(
            "UPDATE lambent.slot SET taken_at = clock_timestamp() - interval '10 s'"
        )
        await place.gate.finish(holder.grant, Outcome.SUCCESS)
        assert isinstance(await place.ask_as("acme", slot=True), Admitted)
        waits = [(await place.queued()).estimated_wait_s for _ in range(3)]
        assert [round(wait) for wait in waits] == [10, 20, 30]

"""The queue in front of the models: clients take turns, and waits are told by recent durations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from lambent.admission.decisions import AdmissionRequest, Admitted, Outcome
from local.services import Reply, ScriptedModel
from tests.store.admission_kit import stand
from tests.unit.chat_site import ChatSite, chat_site


@pytest.fixture
async def site(postgres_dsn: str, scripted_model: ScriptedModel) -> AsyncIterator[ChatSite]:
    scripted_model.default = Reply.many(3)
    brisk = {"ollama_max_inflight": 1, "slot_wait_s": 60.0}
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
    asked = AdmissionRequest(
        credential=None, scope=None, host=scripted_model.host, slot=True, on_behalf_of="holder"
    )
    holder = await site.gate.admit(asked)
    assert isinstance(holder, Admitted)
    async with site.client() as flooding, site.client(modest) as other:

        async def ask(client: httpx.AsyncClient, said: str) -> None:
            answer = await client.post("/chat", json={"input": said})
            assert answer.status_code == 200

        flood = [asyncio.create_task(ask(flooding, "flood")) for _ in range(9)]
        await until_waiting(site, 9)
        late = [asyncio.create_task(ask(other, "modest")) for _ in range(3)]
        await until_waiting(site, 12)
        await site.gate.finish(holder.grant, Outcome.SUCCESS)
        await asyncio.gather(*late)
        served = [one.json["messages"][-1]["content"] for one in scripted_model.generations]
        assert served.count("modest") == 3
        assert served.count("flood") <= 4
        for one in flood:
            one.cancel()
        await asyncio.wait(flood)


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

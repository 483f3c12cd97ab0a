"""Several model servers: the one that is ready, else the least busy, else another before a word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from lambent.admission.decisions import AdmissionRequest
from lambent.admission.reports import UsageFilter, UsageReports
from lambent.admission.usage import ModelUse, Payer, TurnUse
from lambent.agents.model_hosts import ModelHosts
from lambent.agents.step_model import StepModel
from lambent.clock import SystemClock
from lambent.models.manager import ModelManager
from lambent.settings import Settings
from local.services import Reply, ScriptedModel
from local.services.script import Fault
from local.services.scripted import MODEL
from tests.unit.chat_site import CHAT, ChatSite, budget, chat_site, said

FAILS = Reply.failure(500, "out of memory")


@pytest.fixture
async def pair() -> AsyncIterator[tuple[ScriptedModel, ScriptedModel]]:
    with ScriptedModel.start() as one, ScriptedModel.start() as two:
        one.default, two.default = Reply.text("from one"), Reply.text("from two")
        yield one, two


@pytest.fixture
async def site(
    postgres_dsn: str,
    pair: tuple[ScriptedModel, ScriptedModel],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[ChatSite]:
    # A second is short for a busy machine, and a host that does not say counts as silent.
    defaults: dict[str, float] = ModelHosts.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "look_limit_s", 30.0)
    hosts = ",".join(server.host for server in pair)
    async with chat_site(postgres_dsn, hosts, ollama_max_inflight=2, slot_wait_s=5.0) as site:
        yield site


async def ask(site: ChatSite) -> httpx.Response:
    async with site.client() as client:
        answer = await client.post("/chat/stream", json=CHAT)
    await site.until_no_slot_is_taken()
    return answer


async def failures(site: ChatSite) -> dict[str, int]:
    return {one.host: one.failures for one in (await site.gate.state()).breakers}


async def test_a_call_goes_to_the_host_that_has_the_model_loaded(
    site: ChatSite, pair: tuple[ScriptedModel, ScriptedModel]
) -> None:
    pair[0].loaded_models = []
    assert said((await ask(site)).text) == "from two"


async def test_where_it_is_loaded_nowhere_the_least_busy_host_is_asked(
    site: ChatSite, pair: tuple[ScriptedModel, ScriptedModel]
) -> None:
    pair[0].loaded_models, pair[1].loaded_models = [], []
    asked = AdmissionRequest(
        credential=None, scope=None, host=pair[0].host, slot=True, on_behalf_of="other"
    )
    await site.gate.admit(asked)
    async with site.client() as client:
        assert said((await client.post("/chat/stream", json=CHAT)).text) == "from two"


async def test_a_host_that_does_not_hold_the_model_is_not_asked(
    site: ChatSite, pair: tuple[ScriptedModel, ScriptedModel]
) -> None:
    pair[0].held_models = ["other:latest"]
    pair[1].loaded_models = []
    assert said((await ask(site)).text) == "from two"
    assert not pair[0].generations


@pytest.mark.parametrize("called", ["library/{}", "Registry.Ollama.ai/library/{}", "SMOLLM2:135M"])
async def test_whatever_the_model_is_called_it_is_asked_where_it_is_held(
    site: ChatSite, pair: tuple[ScriptedModel, ScriptedModel], called: str
) -> None:
    pair[0].held_models, pair[0].loaded_models = ["other:latest"], []
    pair[1].loaded_models = []
    async with site.client() as client:
        answer = await client.post("/chat/stream", json={**CHAT, "model": called.format(MODEL)})
    assert said(answer.text) == "from two"
    assert not pair[0].generations


async def test_a_host_with_its_slots_taken_is_passed_over(
    site: ChatSite, pair: tuple[ScriptedModel, ScriptedModel]
) -> None:
    pair[1].loaded_models = []
    asked = AdmissionRequest(
        credential=None, scope=None, host=pair[0].host, slot=True, on_behalf_of="other"
    )
    for _ in range(2):
        await site.gate.admit(asked)
    async with site.client() as client:
        assert said((await client.post("/chat/stream", json=CHAT)).text) == "from two"


@pytest.mark.parametrize("how", ["fails", "is gone", "is busy"])
async def test_before_the_first_token_another_host_takes_over(
    site: ChatSite, pair: tuple[ScriptedModel, ScriptedModel], how: str
) -> None:
    pair[1].loaded_models = []
    await ask(site)  # now both are known
    if how == "is gone":
        pair[0].stop_listening()
    else:
        pair[0].default = FAILS if how == "fails" else Reply.busy()
    answer = await ask(site)
    assert (answer.status_code, said(answer.text)) == (200, "from two")
    assert (await failures(site)).get(pair[0].host, 0) == (0 if how == "is busy" else 1)
    (row,) = await UsageReports(site.postgres).rows(UsageFilter(), by=())
    assert (row.requests, row.broken, row.completion_tokens) == (2, 0, 4)


async def test_a_turn_that_has_begun_moves_on_though_its_budget_is_used_up_meanwhile(
    site: ChatSite, pair: tuple[ScriptedModel, ScriptedModel]
) -> None:
    pair[1].loaded_models = []
    await budget(site, hard=100)
    used = ModelUse(
        model="m", requests=1, broken=0, prompt_tokens=200, completion_tokens=0,
        estimated_tokens=0, model_s=0.0,
    )  # fmt: skip
    payer = Payer(client="tests", key_id=None, agent="")
    pair[0].default = Reply.failure(500, "out of memory", first_delay_s=3)
    async with site.client() as client:
        asking = asyncio.create_task(client.post("/chat/stream", json=CHAT))
        await pair[0].until(lambda: pair[0].generations)
        assert await site.gate.book(TurnUse(turn="t", seq=1, payer=payer, models=(used,)))
        assert said((await asking).text) == "from two"


async def test_after_the_first_token_the_answer_breaks_off(
    site: ChatSite, pair: tuple[ScriptedModel, ScriptedModel]
) -> None:
    pair[1].loaded_models = []
    pair[0].default = Reply.many(2, fault=Fault.ERROR_LINE)
    answer = await ask(site)
    assert "event: error" in answer.text
    assert not pair[1].generations
    assert await failures(site) == {pair[0].host: 1}


async def test_where_every_host_fails_the_caller_is_told_and_each_breaker_counts(
    site: ChatSite, pair: tuple[ScriptedModel, ScriptedModel]
) -> None:
    pair[0].default = pair[1].default = FAILS
    assert (await ask(site)).status_code == 503
    assert await failures(site) == {server.host: 1 for server in pair}


async def test_a_host_whose_breaker_is_open_is_left_alone(
    site: ChatSite, pair: tuple[ScriptedModel, ScriptedModel]
) -> None:
    await site.gate.trip(pair[0].host)
    assert said((await ask(site)).text) == "from two"
    await site.gate.trip(pair[1].host)
    assert (await ask(site)).status_code == 503


async def test_embeddings_and_steps_move_on_too(
    site: ChatSite, pair: tuple[ScriptedModel, ScriptedModel], postgres_dsn: str
) -> None:
    hosts = ",".join(server.host for server in pair)
    settings = Settings(mongo_uri="mongodb://h", postgres_dsn=postgres_dsn, ollama_host=hosts)
    models = ModelManager(settings, clock=SystemClock())
    steps = StepModel(models, site.gate, default_model=MODEL)
    asked = {"messages": [{"role": "user", "content": "Hi"}]}
    pair[1].loaded_models = []
    assert (await steps.generate(asked, client="acme")).value["text"] == "from one"
    pair[0].default = FAILS
    assert (await steps.generate(asked, client="acme")).value["text"] == "from two"
    pair[0].stop_listening()
    async with site.client() as client:
        body = {"model": MODEL, "input": "Hi"}
        assert (await client.post("/v1/embeddings", json=body)).status_code == 200
        assert (await client.get("/v1/models")).status_code == 200
    await models.close()

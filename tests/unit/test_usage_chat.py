"""Budgets as a chatting client meets them: a warning in a header, then a refusal that says when."""

from collections.abc import AsyncIterator

import openai
import pytest

from lambent.admission.budgets import BudgetEdges, BudgetStore, Kind, Period, Unit
from lambent.admission.reports import GroupBy, UsageFilter, UsageReports
from lambent.setting_values import ModelPrice
from local.services import Reply, ScriptedModel
from tests.unit.chat_site import CHAT, ChatSite, budget, chat_site
from tests.unit.openai_site import ASKED, WHY, openai_client


@pytest.fixture
async def site(postgres_dsn: str, scripted_model: ScriptedModel) -> AsyncIterator[ChatSite]:
    scripted_model.default = Reply.many(13, prompt_tokens=7)
    async with chat_site(postgres_dsn, scripted_model.host) as site:
        yield site


async def test_a_turn_is_booked_on_its_key_agent_and_model(site: ChatSite) -> None:
    async with site.client() as client:
        assert (await client.post("/chat", json=CHAT)).status_code == 200
    await site.until_no_slot_is_taken()
    by = [GroupBy.CLIENT, GroupBy.KEY, GroupBy.AGENT, GroupBy.MODEL]
    (row,) = await UsageReports(site.postgres).rows(UsageFilter(), by=by)
    key = site.key.split("_")[1]
    assert (row.client, row.key, row.agent, row.model) == ("tests", key, "chat", "smollm2:135m")
    assert (row.requests, row.prompt_tokens, row.completion_tokens) == (1, 7, 13)
    assert row.model_s > 0


SPELLINGS = (
    "fake", "FAKE", "Fake:Latest", "library/fake", "registry.ollama.ai/library/fake:latest",
    "https://registry.ollama.ai/library/fake",
)  # fmt: skip


@pytest.mark.parametrize("priced", ["fake", "fake:latest", "Library/Fake"])
async def test_a_models_price_holds_however_its_name_is_spelled(
    postgres_dsn: str, scripted_model: ScriptedModel, priced: str
) -> None:
    scripted_model.default = Reply.many(13, prompt_tokens=7)
    prices = (ModelPrice(priced, 1_000_000.0, 1_000_000.0),)
    async with chat_site(postgres_dsn, scripted_model.host, model_prices=prices) as site:
        async with openai_client(site) as client:
            for spelled in SPELLINGS:
                answer = await client.chat.completions.create(model=spelled, messages=WHY)
                assert answer.model == spelled
        await site.until_no_slot_is_taken()
        reports = UsageReports(site.postgres)
        (row,) = await reports.rows(UsageFilter(model="Fake:latest"), by=[GroupBy.MODEL])
        assert (row.model, row.requests, row.cost) == ("fake", 6, 120.0)
        edges = BudgetEdges(period=Period.DAY, unit=Unit.MONEY, hard=120)
        await BudgetStore(site.postgres).put(Kind.CLIENT, "tests", [edges])
        async with openai_client(site) as client:
            with pytest.raises(openai.RateLimitError):
                await client.chat.completions.create(model="library/fake", messages=WHY)


async def test_a_soft_budget_warns_and_a_hard_one_refuses(site: ChatSite) -> None:
    await budget(site, soft=20, hard=40)
    async with site.client() as client:
        for warned in (False, True):
            answer = await client.post("/chat/stream", json=CHAT)
            assert answer.status_code == 200
            assert ("x-budget-warning" in answer.headers) is warned
            await site.until_no_slot_is_taken()
        refused = await client.post("/chat/stream", json=CHAT)
    assert refused.status_code == 429
    said = refused.json()
    assert said["type"] == "urn:lambent:problem:budget_exceeded"
    assert said["budget"] == {
        "kind": "client", "period": "day", "unit": "tokens", "limit": 40, "used": 40,
    }  # fmt: skip
    assert 1 <= int(refused.headers["retry-after"]) <= 86400


async def test_openais_client_hears_of_an_insufficient_quota_and_does_not_ask_again(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    await budget(site, hard=0)
    async with openai_client(site).with_options(max_retries=2) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(**ASKED)
    assert caught.value.code == "insufficient_quota"
    assert caught.value.type == "insufficient_quota"
    assert caught.value.response.headers["x-should-retry"] == "false"
    limit, left = (caught.value.response.headers[f"x-ratelimit-{name}-requests"]
                   for name in ("limit", "remaining"))  # fmt: skip
    assert int(limit) - int(left) == 1
    assert not scripted_model.generations

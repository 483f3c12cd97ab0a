"""A turn whose host does not hold a model that it asks for has that call made at another host."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from lambent.admission.decisions import AdmissionRequest, Outcome
from lambent.admission.reports import UsageFilter, UsageReports
from lambent.agents.agent import Agent, Chunk, agent
from lambent.agents.turn import Turn
from lambent.errors import LambentError
from local.services import Reply, ScriptedModel
from local.services.scripted import MODEL
from tests.unit.chat_site import ChatSite, budget, chat_site, frames, said

OTHER = "other:latest"
ASKED = {"agent": "two-minds", "input": "Hi"}


@agent("two-minds", description="Asks another model, and for a vector, before its own.")
class TwoMinds(Agent):
    async def generate_stream(self, turn: Turn) -> AsyncGenerator[Chunk, None]:
        try:
            first = (await turn.generate(model=OTHER)).text
        except LambentError as error:
            first = error.code
        vector = await turn.tool_context("1").vector("Hi")
        yield Chunk(delta=f"{first}, {len(vector)}, ")
        async for chunk in turn.generate_stream():
            yield chunk


@pytest.fixture
async def pair() -> AsyncIterator[tuple[ScriptedModel, ScriptedModel]]:
    """One host holds the turn's model alone, two the other alone."""
    with ScriptedModel.start() as one, ScriptedModel.start() as two:
        one.default, two.default = Reply.text("from one"), Reply.text("from two")
        one.unknown_models = {OTHER}
        two.held_models, two.loaded_models, two.unknown_models = [OTHER], [], {MODEL}
        yield one, two


@pytest.fixture
async def site(
    postgres_dsn: str, pair: tuple[ScriptedModel, ScriptedModel]
) -> AsyncIterator[ChatSite]:
    hosts = ",".join(server.host for server in pair)
    async with chat_site(
        postgres_dsn, hosts, agents=[TwoMinds], embedding_model=OTHER, ollama_max_inflight=1,
        slot_wait_s=1.0,
    ) as site:  # fmt: skip
        yield site


async def test_another_model_is_asked_at_the_host_that_holds_it_and_the_turn_goes_on_at_its_own(
    site: ChatSite, pair: tuple[ScriptedModel, ScriptedModel]
) -> None:
    async with site.client() as client:
        answer = await client.post("/chat/stream", json=ASKED)
    assert said(answer.text) == "from two, 8, from one"
    await site.until_no_slot_is_taken()
    rows = await UsageReports(site.postgres).rows(UsageFilter(), by=("model", "agent"))
    assert {(row.model, row.agent, row.requests) for row in rows} == {
        (MODEL, "two-minds", 1), ("other", "two-minds", 2),
    }  # fmt: skip
    told = frames(answer.text)[-2]["usage"]
    assert told["completion_tokens"] == sum(row.completion_tokens for row in rows)
    assert told["prompt_tokens"] == sum(row.prompt_tokens for row in rows)


async def test_such_a_call_waits_for_a_slot_of_its_host_and_the_turn_keeps_its_own(
    site: ChatSite, pair: tuple[ScriptedModel, ScriptedModel]
) -> None:
    asked = AdmissionRequest(
        credential=None, scope=None, host=pair[1].host, slot=True, on_behalf_of="other"
    )
    grant = await site.gate.granted(asked)
    async with site.client() as client:
        answer = await client.post("/chat/stream", json=ASKED)
    assert "no_slot" in answer.text  # of the vector too, which the agent does not catch
    assert not pair[1].generations
    await site.gate.finish(grant, Outcome.SUCCESS)
    assert not (await site.gate.state()).waiting


async def test_a_turn_that_has_begun_is_let_finish_though_its_budget_is_used_up(
    site: ChatSite, pair: tuple[ScriptedModel, ScriptedModel]
) -> None:
    await budget(site, hard=100)
    pair[1].default = Reply.many(13, prompt_tokens=200)  # booked before the turn wants a vector
    async with site.client() as client:
        answer = await client.post("/chat/stream", json=ASKED)
        await site.until_no_slot_is_taken()
        refused = await client.post("/chat/stream", json=ASKED)
    assert said(answer.text).endswith(", 8, from one")
    assert refused.status_code == 429


async def test_a_failure_there_is_told_to_that_hosts_breaker(
    site: ChatSite, pair: tuple[ScriptedModel, ScriptedModel]
) -> None:
    pair[1].default = Reply.failure(500, "out of memory")
    async with site.client() as client:
        answer = await client.post("/chat/stream", json=ASKED)
    assert said(answer.text) == "model_unavailable, 8, from one"
    await site.until_no_slot_is_taken()
    assert pair[0].host not in {one.host for one in (await site.gate.state()).breakers}


async def test_a_model_that_nobody_holds_is_told_as_unknown_by_the_turns_own_host(
    site: ChatSite, pair: tuple[ScriptedModel, ScriptedModel]
) -> None:
    pair[1].held_models = []
    async with site.client() as client:
        answer = await client.post("/chat/stream", json=ASKED)
    assert "model_not_found" in answer.text
    assert not pair[1].generations

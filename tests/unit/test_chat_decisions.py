"""The seed's decision tree over HTTP, branch by branch, and the breaker that a chat feels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from lambent.admission.decisions import Scope
from lambent.clock import SystemClock
from lambent.rotation import RotatingSecret
from local.services import ScriptedModel
from local.services.script import Reply
from tests.unit.chat_site import CHAT, ChatSite, chat_site


@pytest.fixture
async def site(postgres_dsn: str, scripted_model: ScriptedModel) -> AsyncIterator[ChatSite]:
    async with chat_site(postgres_dsn, scripted_model.host, breaker_open_s=0.5) as site:
        yield site


def problem_of(answer: httpx.Response, status: int) -> str:
    """The problem's code, once its shape is right."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    assert body["instance"].endswith(answer.headers["x-request-id"])
    return str(body["type"]).removeprefix("urn:lambent:problem:")


@pytest.mark.parametrize("key", ["nonsense", "lam_01ABC", "lam_x_y", "lam_" + "x" * 5000])
@pytest.mark.parametrize("path", ["/chat", "/chat/stream"])
async def test_a_key_that_is_none_is_401(site: ChatSite, key: str, path: str) -> None:
    async with site.client(key) as client:
        answer = await client.post(path, json=CHAT)
    assert problem_of(answer, 401) == "unauthenticated"
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_the_other_header_for_a_key_serves_as_well(site: ChatSite) -> None:
    async with httpx.AsyncClient(base_url=site.url, headers={"x-api-key": site.key}) as client:
        assert (await client.post("/chat", json=CHAT)).status_code == 200
        assert (await client.get("/agents")).status_code == 200


async def test_a_key_without_the_scope_is_403(site: ChatSite) -> None:
    async with site.client(await site.new_key(scope=Scope.EVENTS)) as client:
        assert problem_of(await client.post("/chat", json=CHAT), 403) == "forbidden"


async def test_beyond_the_limit_is_429_even_for_an_agent_that_is_unknown(site: ChatSite) -> None:
    async with site.client(await site.new_key(limit=2)) as client:
        assert (await client.post("/chat", json=CHAT)).status_code == 200
        assert (await client.post("/chat", json=CHAT)).headers["ratelimit"].find("r=0") > 0
        answer = await client.post("/chat", json={**CHAT, "agent": "none"})
    assert problem_of(answer, 429) == "rate_limited"
    assert int(answer.headers["retry-after"]) >= 1
    assert "q=2" in answer.headers["ratelimit-policy"]


async def test_an_unknown_agent_is_501_even_while_the_breaker_is_open(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    await site.gate.trip(scripted_model.host, open_s=60)
    async with site.client() as client:
        unknown = await client.post("/chat/stream", json={**CHAT, "agent": "none"})
        known = await client.post("/chat/stream", json=CHAT)
    assert problem_of(unknown, 501) == "unknown_agent"
    assert "There is no agent 'none'" in unknown.json()["detail"]
    assert problem_of(known, 503) == "breaker_open"
    assert int(known.headers["retry-after"]) >= 1
    assert scripted_model.generations == []


async def test_five_failures_open_the_breaker_and_good_probes_close_it(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(*[Reply.failure(500, "killed")] * 5)
    async with site.client() as client:
        for _ in range(5):
            failed = await client.post("/chat", json=CHAT)
            assert problem_of(failed, 503) == "model_unavailable"
        assert problem_of(await client.post("/chat", json=CHAT), 503) == "breaker_open"
        assert len(scripted_model.generations) == 5
        await asyncio.sleep(0.6)
        for _ in range(4):
            assert (await client.post("/chat", json=CHAT)).status_code == 200
    (breaker,) = (await site.gate.state()).breakers
    assert breaker.state == "closed"


async def test_what_the_host_refuses_or_is_too_busy_for_does_not_open_the_breaker(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(*[Reply.busy(), Reply.failure(400, "no")] * 4)
    async with site.client() as client:
        statuses = {(await client.post("/chat", json=CHAT)).status_code for _ in range(8)}
        assert statuses == {400, 503}
        assert (await client.post("/chat", json=CHAT)).status_code == 200


async def test_a_model_server_that_stops_is_503_and_its_return_needs_no_restart(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    async with site.client() as client:
        assert (await client.post("/chat", json=CHAT)).status_code == 200
        scripted_model.stop_listening()
        answer = await client.post("/chat", json=CHAT)
        assert problem_of(answer, 503) == "model_unavailable"
        assert int(answer.headers["retry-after"]) >= 1
        scripted_model.listen_again()
        assert (await client.post("/chat", json=CHAT)).status_code == 200


async def test_without_authentication_the_breaker_still_counts(
    postgres_dsn: str, scripted_model: ScriptedModel
) -> None:
    async with chat_site(postgres_dsn, scripted_model.host, auth_enabled=False) as open_site:
        await open_site.gate.trip(scripted_model.host, open_s=60)
        async with httpx.AsyncClient(base_url=open_site.url) as client:
            assert problem_of(await client.post("/chat", json=CHAT), 503) == "breaker_open"
            assert (await client.get("/agents")).status_code == 200


async def test_without_postgres_the_answer_is_503_and_names_no_address(
    postgres_dsn: str, scripted_model: ScriptedModel
) -> None:
    async with chat_site(postgres_dsn, scripted_model.host) as site:
        await site.postgres.close()
        gone = "postgresql://someone:secret@127.0.0.1:9/none"
        site.postgres._dsn = RotatingSecret("POSTGRES_DSN", gone, clock=SystemClock())
        async with site.client() as client:
            answer = await client.post("/chat", json=CHAT)
            assert (await client.get("/health")).status_code == 200
    assert problem_of(answer, 503) == "store_unavailable"
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


async def test_agents_are_listed_for_who_has_a_key(site: ChatSite) -> None:
    async with site.client() as client:
        listed = await client.get("/agents")
        async with httpx.AsyncClient(base_url=site.url) as stranger:
            assert problem_of(await stranger.get("/agents"), 401) == "unauthenticated"
    assert [one["name"] for one in listed.json()["agents"]] == ["chat", "news"]
    assert all(one["description"] and one["model"] for one in listed.json()["agents"])
    assert not any(one["durable"] for one in listed.json()["agents"])
    assert listed.headers["ratelimit"]

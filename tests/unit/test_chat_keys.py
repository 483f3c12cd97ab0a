"""An idempotency key brings one answer, however often and at whichever function it is sent."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from lambent.admission.budgets import BudgetEdges, BudgetStore, Kind, Period, Unit
from lambent.chat.idempotency import IdempotencyKeys, KeptAnswer
from lambent.clock import SystemClock
from lambent.http.keyed import canonical
from lambent.mongo import Mongo
from local.services import ScriptedModel
from local.services.script import Fault, Reply
from tests.unit.chat_site import CHAT, frames, said
from tests.unit.openai_site import ASKED, openai_client
from tests.unit.stream_sites import Sites, read, two_sites, until_kept

KEY = {"idempotency-key": "order-66"}
EMBED = {"model": "smollm2:135m", "input": "sky"}
POSTS: list[tuple[str, Any]] = [
    ("/chat", CHAT),
    ("/chat/stream", CHAT),
    ("/v1/chat/completions", ASKED),
    ("/v1/chat/completions", {**ASKED, "stream": True}),
    ("/v1/responses", {"model": "smollm2:135m", "input": "Why?"}),
    ("/v1/responses", {"model": "smollm2:135m", "input": "Why?", "stream": True}),
    ("/v1/embeddings", EMBED),
]


@pytest.fixture
async def sites(
    postgres_dsn: str, scripted_model: ScriptedModel, mongo_uri: str, mongo_db_name: str
) -> AsyncIterator[Sites]:
    stores = (postgres_dsn, scripted_model.host, mongo_uri, mongo_db_name)
    scripted_model.default = Reply.many(30, delay_s=0.01)
    async with two_sites(*stores) as sites:
        yield sites


@pytest.mark.parametrize(("path", "body"), POSTS)
async def test_many_at_once_make_one_answer(
    sites: Sites, scripted_model: ScriptedModel, path: str, body: Any
) -> None:
    one, two = sites.clients()
    async with one, two:
        asking = [at.post(path, json=body, headers=KEY) for _ in range(10) for at in (one, two)]
        answers = await asyncio.gather(*asking)
        late = await two.post(path, json=dict(reversed(body.items())), headers=KEY)
    assert {answer.status_code for answer in answers} == {200}, answers[0].text
    assert len({without_comments(answer.text) for answer in [*answers, late]}) == 1
    made = [one for one in answers if "idempotency-replayed" not in one.headers]
    assert len(made) == 1
    assert late.headers["idempotency-replayed"] == "true"
    assert len(scripted_model.generations) == (0 if "embed" in path else 1)


async def test_the_same_key_with_another_request_is_422(sites: Sites) -> None:
    one, two = sites.clients()
    async with one, two:
        first = await one.post("/chat", json=CHAT, headers=KEY)
        other = await two.post("/chat", json={**CHAT, "input": "Why not?"}, headers=KEY)
        elsewhere = await two.post("/chat/stream", json=CHAT, headers=KEY)
    assert first.status_code == 200
    assert [other.status_code, elsewhere.status_code] == [422, 422]
    assert other.headers["ratelimit"]


async def test_the_same_key_with_another_request_is_422_under_openais_rules_too(
    sites: Sites,
) -> None:
    one, two = sites.clients()
    body = {"model": "smollm2:135m", "input": "Why?"}
    async with one, two:
        first = await one.post("/v1/responses", json=body, headers=KEY)
        other = await two.post("/v1/responses", json={**body, "input": "No"}, headers=KEY)
    assert (first.status_code, other.status_code) == (200, 422)
    assert other.json()["error"]["code"] == "idempotency_key_reused"


async def test_a_retry_attaches_to_the_stream_that_still_runs(
    sites: Sites, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.many(80, delay_s=0.01))
    one, two = sites.clients()
    async with one, two:
        cut = await read(one, events=3, headers=KEY)
        again = await read(two, headers=KEY)
    assert again.id == cut.id
    assert again.text.startswith(cut.text)
    assert frames(again.text)[-1] == "[DONE]"
    assert len(scripted_model.generations) == 1


async def test_an_answer_is_made_to_its_end_although_its_caller_left(
    sites: Sites, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.text("worth it", first_delay_s=0.5))
    one, two = sites.clients()
    async with one, two:
        asking = asyncio.create_task(one.post("/chat", json=CHAT, headers=KEY))
        await scripted_model.until(lambda: scripted_model.generations)
        asking.cancel()
        answer = await two.post("/chat", json=CHAT, headers=KEY)
    assert answer.json()["output"] == "worth it"
    assert len(scripted_model.generations) == 1


@pytest.mark.parametrize("path", ["/chat", "/chat/stream", "/v1/chat/completions"])
async def test_a_failure_is_not_kept_for_the_next_try(
    sites: Sites, scripted_model: ScriptedModel, path: str
) -> None:
    scripted_model.script(Reply.failure(500, "killed", first_delay_s=0.3), Reply.text("at last"))
    body = ASKED if "v1" in path else CHAT
    one, two = sites.clients()
    async with one, two:
        asking = [at.post(path, json=body, headers=KEY) for at in (one, two)]
        failed = await asyncio.gather(*asking)
        again = await two.post(path, json=body, headers=KEY)
    assert [answer.status_code for answer in failed] == [503, 503]
    assert all("retry-after" in answer.headers for answer in failed)
    assert again.status_code == 200
    assert "at last" in (said(again.text) if "stream" in path else again.text)


async def test_a_stream_that_broke_is_made_anew(
    sites: Sites, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.text("one two", fault=Fault.BREAK), Reply.text("one two three"))
    one, two = sites.clients()
    async with one, two:
        broken = await read(one, headers=KEY)
        await until_kept(sites.store, broken.id, "failed")
        again = await read(two, headers=KEY)
    assert again.id != broken.id
    assert said(again.text) == "one two three"


async def test_a_key_belongs_to_its_client(sites: Sites, scripted_model: ScriptedModel) -> None:
    one, _ = sites.clients()
    stranger, _ = sites.clients(await sites.one.new_key())
    async with one, stranger:
        mine = await one.post("/chat", json=CHAT, headers=KEY)
        theirs = await stranger.post("/chat", json={**CHAT, "input": "Mine?"}, headers=KEY)
    assert [mine.status_code, theirs.status_code] == [200, 200]
    assert mine.json()["id"] != theirs.json()["id"]
    assert len(scripted_model.generations) == 2


@pytest.mark.parametrize("key", ["", "a b", "ä", "x" * 256, "tab\tkey"])
async def test_a_key_that_is_none_is_refused(sites: Sites, key: str) -> None:
    one, _ = sites.clients()
    async with one:
        headers = {"idempotency-key": key.encode()}
        answer = await one.post("/chat", json=CHAT, headers=headers)
    assert answer.status_code == 422
    assert answer.headers["ratelimit"]


@pytest.mark.parametrize(("path", "body"), POSTS)
async def test_each_request_counts_once_against_the_limit(
    sites: Sites, path: str, body: Any
) -> None:
    async with sites.one.client(await sites.one.new_key(limit=3)) as client:
        keys = ({"idempotency-key": key} for key in "aabb")
        answers = [await client.post(path, json=body, headers=key) for key in keys]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    left = [re.search(r"r=(\d+)", one.headers["ratelimit"]) for one in answers]
    assert [one and one[1] for one in left] == ["2", "1", "0", "0"]


@pytest.mark.parametrize(("path", "body"), POSTS)
async def test_a_soft_budget_warns_who_sends_a_key_too(sites: Sites, path: str, body: Any) -> None:
    soft = BudgetEdges(period=Period.DAY, unit=Unit.TOKENS, soft=0)
    await BudgetStore(sites.one.postgres).put(Kind.CLIENT, "tests", [soft])
    async with sites.one.client() as client:
        plain = await client.post(path, json=body)
        keyed = await client.post(path, json=body, headers=KEY)
    warned = [one.headers["x-budget-warning"].partition(";")[0] for one in (plain, keyed)]
    assert warned == ["client-day-tokens"] * 2


async def test_the_official_client_sends_a_key_as_an_extra_header(
    sites: Sites, scripted_model: ScriptedModel
) -> None:
    client = openai_client(sites.one)
    made = [
        await client.chat.completions.create(**ASKED, extra_headers={"Idempotency-Key": "k"})
        for _ in range(2)
    ]
    await client.close()
    assert made[0] == made[1]
    assert len(scripted_model.generations) == 1


async def test_an_owner_that_died_is_succeeded_by_one_of_those_who_ask(
    sites: Sites, scripted_model: ScriptedModel, mongo_uri: str, mongo_db_name: str
) -> None:
    class Earlier(SystemClock):
        def now(self) -> datetime:
            return super().now() - timedelta(minutes=1)

    mongo = Mongo(mongo_uri, mongo_db_name, clock=SystemClock())
    dead = IdempotencyKeys(lambda: mongo, clock=Earlier())
    asked = canonical("/chat", json.dumps(CHAT).encode())
    record, owned = await dead.claim("order-66", asked, client="tests")
    one, two = sites.clients()
    async with one, two:
        asking = [at.post("/chat", json=CHAT, headers=KEY) for at in (one, two, one, two)]
        answers = await asyncio.gather(*asking)
    await dead.answered(record, KeptAnswer(200, {}, b"a zombie's"))
    found = await dead.look(record)
    await mongo.close()
    assert owned
    assert len({answer.text for answer in answers}) == 1
    assert len(scripted_model.generations) == 1
    assert found is not None
    assert found.answer is not None
    assert found.answer.body == answers[0].content


def without_comments(text: str) -> str:
    return "".join(line for line in text.splitlines(True) if not line.startswith(":"))

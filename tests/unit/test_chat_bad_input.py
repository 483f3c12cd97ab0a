"""Bad input: each a problem document with the right status, and nothing half-done behind it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lambent.clock import SystemClock
from lambent.mongo import Mongo
from local.services import ScriptedModel
from tests.unit.chat_site import CHAT, ChatSite, chat_site

JSON = {"content-type": "application/json"}
USER = {"role": "user", "content": "x"}


@pytest.fixture
async def site(
    postgres_dsn: str, scripted_model: ScriptedModel, mongo_uri: str, mongo_db_name: str
) -> AsyncIterator[ChatSite]:
    mongo = Mongo(mongo_uri, mongo_db_name, clock=SystemClock())
    async with chat_site(postgres_dsn, scripted_model.host, mongo=mongo) as site:
        yield site
    await mongo.close()


def body_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"]
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    return body


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b'{"input": "x"', "line 1 column 13"),
        (b'{"input":\n "x",}', "line 2"),
        (b'{"input": "\xff\xfe"}', "UTF-8"),
        (b'{"input": "x", "options": {"temperature": NaN}}', "no JSON"),
        (b'{"input": "x", "options": {"seed": Infinity}}', "no JSON"),
        (b'{"input": "\\ud800"}', "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b'{"input": ' + b'{"a":' * 5000, "no JSON"),
        (b'{"options": {"seed": 1' + b"0" * 10_000 + b"}}", "no JSON"),
    ],
)
async def test_what_is_no_json_is_400_and_says_where(
    site: ChatSite, content: bytes, says: str
) -> None:
    async with site.client() as client:
        answer = await client.post("/chat", content=content, headers=JSON)
    assert says in body_of(answer, 400)["detail"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], "body"),
        ("text", "body"),
        ({}, "body"),
        ({"input": "x", "messages": [USER]}, "body"),
        ({"input": ""}, "input"),
        ({"input": " \n"}, "input"),
        ({"input": 7}, "input"),
        ({"input": None, "messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages.0.content"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [USER, {"role": "assistant", "content": "x"}]}, "body"),
        ({"input": "x", "inputs": 1}, "inputs"),
        ({"input": "x", "agent": ""}, "agent"),
        ({"input": "x", "model": "../../etc"}, "model"),
        ({"input": "x", "model": "a b"}, "model"),
        ({"input": "x", "options": {"heat": 1}}, "options.heat"),
        ({"input": "x", "options": {"temperature": -1}}, "options.temperature"),
        ({"input": "x", "options": {"seed": 10**30}}, "options.seed"),
        ({"input": "x", "options": {"num_ctx": 8193}}, "options.num_ctx"),
        ({"input": "x", "options": {"stop": "."}}, "options.stop"),
        ({"messages": [{**USER, "images": ["data:image/png;base64,x"]}]}, "messages.0.images.0"),
    ],
)
async def test_a_value_that_makes_no_sense_is_422_and_named(
    site: ChatSite, body: object, field: str
) -> None:
    async with site.client() as client:
        answer = await client.post("/chat/stream", json=body)
    assert field in [one["field"] for one in body_of(answer, 422)["errors"]]


async def test_what_was_sent_is_not_repeated_in_the_answer(site: ChatSite) -> None:
    async with site.client() as client:
        answer = await client.post("/chat", json={"input": ["my-password"]})
    assert "my-password" not in answer.text


async def test_a_bad_body_without_a_good_key_is_401(site: ChatSite) -> None:
    async with site.client("nonsense") as client:
        body_of(await client.post("/chat", content=b"{", headers=JSON), 401)


async def test_a_bad_body_counts_against_the_limit(site: ChatSite) -> None:
    async with site.client(await site.new_key(limit=1)) as client:
        body_of(await client.post("/chat", content=b"{", headers=JSON), 400)
        body_of(await client.post("/chat", content=b"{", headers=JSON), 429)


async def test_an_unknown_conversation_and_an_unknown_model_are_404(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    async with site.client() as client:
        lost = await client.post("/chat/stream", json={**CHAT, "conversation": "c1"})
        assert body_of(lost, 404)["type"].endswith(":not_found")
        assert scripted_model.generations == []
        strange = await client.post("/chat/stream", json={**CHAT, "model": "nope"})
        assert body_of(strange, 404)["type"].endswith(":model_not_found")
        assert "nope" in strange.json()["detail"]


@pytest.mark.parametrize("announced", [True, False])
async def test_more_than_six_megabytes_are_413_announced_or_not(
    site: ChatSite, scripted_model: ScriptedModel, announced: bool
) -> None:
    content = json.dumps({"input": "x" * (6 * 1024 * 1024)}).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 65536):
            yield content[start : start + 65536]

    async with site.client() as client:
        sent = content if announced else pieces()
        body_of(await client.post("/chat", content=sent, headers=JSON), 413)
        assert (await client.post("/chat", json=CHAT)).status_code == 200
    assert len(scripted_model.generations) == 1


async def test_a_message_of_a_million_characters_is_answered(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    async with site.client() as client:
        assert (await client.post("/chat", json={"input": "ä🎉" * 500_000})).status_code == 200
    assert scripted_model.generations[0].json["messages"][-1]["content"] == "ä🎉" * 500_000


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=UTF-8", 200),
        ("application/vnd.api+json", 200),
        ("application/json; charset=latin-1", 415),
        ("application/x-www-form-urlencoded", 415),
        ("text/plain", 415),
        ("x" * 5000, 415),
    ],
)
async def test_only_json_is_read(site: ChatSite, content_type: str, status: int) -> None:
    headers = {"content-type": content_type}
    content = json.dumps(CHAT).encode()
    async with site.client() as client:
        answer = await client.post("/chat", content=content, headers=headers)
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/chat", 405),
        ("PUT", "/chat/stream", 405),
        ("DELETE", "/agents", 405),
        ("POST", "/health", 405),
        ("GET", "/chat/", 404),
        ("GET", "/nothing", 404),
        ("POST", "/chat/stream/x", 404),
    ],
)
async def test_a_wrong_method_or_path_says_so(
    site: ChatSite, method: str, path: str, status: int
) -> None:
    async with site.client() as client:
        answer = await client.request(method, path)
    body_of(answer, status)
    assert ("allow" in answer.headers) == (status == 405)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
message = st.fixed_dictionaries({"role": st.just("user"), "content": st.text(max_size=9)})
likely = st.fixed_dictionaries(
    {},
    optional={
        "agent": st.just("chat") | anything,
        "input": st.text(max_size=30) | anything,
        "messages": st.lists(message | anything, max_size=3),
        "model": st.sampled_from(["nope", "a:b"]) | anything,
        "options": st.dictionaries(st.sampled_from(["seed", "top_p", "stop", "x"]), anything),
    },
)


@hypothesis_settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(body=likely | anything, cut=st.integers(0, 40), noise=st.binary(max_size=3))
async def test_any_bytes_get_an_answer_or_a_problem_and_leave_no_slot(
    site: ChatSite, scripted_model: ScriptedModel, body: Any, cut: int, noise: bytes
) -> None:
    whole = json.dumps(body).encode()
    content = whole if cut > 20 else whole[: len(whole) - cut] + noise
    before = len(scripted_model.generations)
    async with site.client() as client:
        answer = await client.post("/chat", content=content, headers=JSON)
    if answer.status_code == 200:
        assert len(scripted_model.generations) == before + 1
    else:
        assert answer.status_code in {400, 404, 422, 501}
        body_of(answer, answer.status_code)
        assert len(scripted_model.generations) - before == (answer.status_code == 404)
    await site.until_no_slot_is_taken()

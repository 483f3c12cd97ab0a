"""Errors under /v1: OpenAI's shape for each, whatever is sent, and the client's own exceptions."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai as package
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from openai.types.embedding_create_params import EmbeddingCreateParams
from openai.types.responses.response_create_params import ResponseCreateParamsBase

from lambent.agents.agent import Agent, Chunk, agent
from lambent.agents.turn import Turn
from lambent.http.openai_embeddings import EmbeddingBody
from lambent.http.openai_fields import (
    IDLE_CHAT,
    IDLE_EMBEDDINGS,
    IDLE_INCLUDE,
    IDLE_ITEM,
    IDLE_RESPONSES,
    IDLE_WITHIN,
    REFUSED_CHAT,
    REFUSED_RESPONSES,
)
from lambent.http.openai_requests import CompletionBody
from lambent.http.openai_response_requests import ResponseBody
from local.services import Reply, ScriptedModel
from local.services.script import Fault
from tests.unit.chat_site import ChatSite, chat_site, frames
from tests.unit.openai_site import ASKED, MODEL, WEATHER, WHY, openai_client

COMPLETIONS = "/v1/chat/completions"


@agent("broken", description="Raises before it has said a word.")
class Broken(Agent):
    async def generate_stream(self, turn: Turn) -> AsyncIterator[Chunk]:
        raise ZeroDivisionError("a secret of the author")
        yield Chunk()


@pytest.fixture
async def site(postgres_dsn: str, scripted_model: ScriptedModel) -> AsyncIterator[ChatSite]:
    made = chat_site(postgres_dsn, scripted_model.host, agents=[Broken], slot_wait_s=0.3)
    async with made as site:
        yield site


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error of a refusal, whose shape and headers are checked."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    assert answer.headers["openai-processing-ms"]
    body: dict[str, dict[str, Any]] = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    return body["error"]


async def test_a_bad_key_is_an_authentication_error(site: ChatSite) -> None:
    for key in ("sk-what-others-have", "lam_none_none"):
        async with openai_client(site, key) as client:
            with pytest.raises(package.AuthenticationError) as caught:
                await client.chat.completions.create(model=MODEL, messages=WHY)
            assert caught.value.code == "invalid_api_key"
            with pytest.raises(package.AuthenticationError):
                await client.models.list()


async def test_a_limit_reached_is_a_rate_limit_error(site: ChatSite) -> None:
    async with openai_client(site, await site.new_key(limit=1)) as client:
        await client.models.list()
        with pytest.raises(package.RateLimitError) as caught:
            await client.chat.completions.create(model=MODEL, messages=WHY)
    assert caught.value.code == "rate_limit_exceeded"
    headers = caught.value.response.headers
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert int(headers["retry-after"]) >= 1


@pytest.mark.parametrize("model", ["nope", "agent:nope", "agent:"])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_unknown_model_or_agent_is_not_found(
    site: ChatSite, model: str, stream: bool
) -> None:
    async with openai_client(site) as client:
        with pytest.raises(package.NotFoundError) as caught:
            await client.chat.completions.create(model=model, messages=WHY, stream=stream)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


async def test_a_failing_model_server_is_503_with_retry_after(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    scripted_model.default = Reply.failure(500, "out of memory")
    async with site.client() as client:
        answer = await client.post(COMPLETIONS, json=ASKED)
    assert error_of(answer, 503)["code"] == "model_unavailable"
    assert int(answer.headers["retry-after"]) >= 1


async def test_what_the_model_server_refuses_is_400(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    said = f'"{MODEL}" does not support tools'
    scripted_model.default = Reply.failure(400, said)
    async with openai_client(site) as client:
        with pytest.raises(package.BadRequestError, match="does not support tools"):
            await client.chat.completions.create(model=MODEL, messages=WHY, tools=[WEATHER])


async def test_an_error_within_a_stream_raises_in_the_client(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    broken = Reply.text("Half an").but(fault=Fault.ERROR_LINE, delay_s=0.05)
    scripted_model.default = broken
    async with openai_client(site) as client:
        stream = await client.chat.completions.create(model=MODEL, messages=WHY, stream=True)
        with pytest.raises(package.APIError, match="The model server failed"):
            async for _ in stream:
                pass
    async with site.client() as plain:
        text = (await plain.post(COMPLETIONS, json={**ASKED, "stream": True})).text
    assert set(frames(text)[-1]) == {"error"}
    assert "[DONE]" not in text
    assert "event:" not in text


async def test_an_agent_that_fails_is_500_without_its_secrets(site: ChatSite) -> None:
    async with site.client() as client:
        answer = await client.post(COMPLETIONS, json={**ASKED, "model": "agent:broken"})
    error = error_of(answer, 500)
    assert (error["type"], error["code"]) == ("server_error", "agent_failed")
    assert "secret" not in answer.text
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1", 404),
        ("POST", "/v1/assistants", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models/smollm2:135m", 405),
    ],
)
async def test_other_paths_and_methods_are_told_in_the_same_shape(
    site: ChatSite, method: str, path: str, status: int
) -> None:
    async with site.client() as client:
        answer = await client.request(method, path)
    assert error_of(answer, status)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("changed", "param", "code"),
    [
        ({"model": None}, "model", "missing_required_parameter"),
        ({"messages": None}, "messages", "missing_required_parameter"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "king"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_value"),
        ({"stop": [5]}, "stop[0]", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"reasoning_effort": "utmost"}, "reasoning_effort", "invalid_value"),
        ({"invented": 1}, "invented", "unknown_parameter"),
        ({"num_ctx": 8193}, "num_ctx", "invalid_value"),
        ({"n": 2}, "n", "unsupported_value"),
        ({"logprobs": True}, "logprobs", "unsupported_value"),
        ({"store": True}, "store", "unsupported_value"),
        ({"modalities": ["audio"]}, "modalities", "unsupported_value"),
        ({"functions": []}, "functions", "unsupported_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema",
         "missing_required_parameter"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", "invalid_value"),
    ],
)  # fmt: skip
async def test_a_bad_field_is_named_in_param(
    site: ChatSite, changed: dict[str, Any], param: str, code: str
) -> None:
    async with site.client() as client:
        answer = await client.post(COMPLETIONS, json={**ASKED, **changed})
    error = error_of(answer, 400)
    assert (error["param"], error["code"]) == (param, code)
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("part", "param", "code"),
    [
        ({"type": "image_url", "image_url": {"url": "https://x/a.png"}},
         ".image_url.url", "unsupported_value"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,???"}},
         ".image_url.url", "invalid_value"),
        ({"type": "image_url"}, ".image_url", "missing_required_parameter"),
        ({"type": "input_audio", "input_audio": {}}, ".type", "unsupported_value"),
        ({"type": "text"}, ".text", "missing_required_parameter"),
        ("words", "", "invalid_value"),
    ],
)  # fmt: skip
async def test_a_bad_part_is_named_by_its_place(
    site: ChatSite, part: Any, param: str, code: str
) -> None:
    messages = [*WHY, {"role": "user", "content": [{"type": "text", "text": "x"}, part]}]
    async with site.client() as client:
        answer = await client.post(COMPLETIONS, json={**ASKED, "messages": messages})
    error = error_of(answer, 400)
    assert (error["param"], error["code"]) == (f"messages[1].content[1]{param}", code)


async def test_a_bad_body_still_has_to_bring_a_key(site: ChatSite) -> None:
    async with site.client("sk-none") as client:
        answer = await client.post(COMPLETIONS, content=b"{")
    assert error_of(answer, 401)["code"] == "invalid_api_key"


def test_every_parameter_of_the_official_client_has_its_place() -> None:
    chat = set(CompletionBody.model_fields) | set(IDLE_CHAT) | set(REFUSED_CHAT)
    assert set(CompletionCreateParamsBase.__annotations__) - chat == set()
    responses = set(ResponseBody.model_fields) | set(IDLE_RESPONSES) | set(REFUSED_RESPONSES)
    assert set(ResponseCreateParamsBase.__annotations__) - responses == set()
    embeddings = set(EmbeddingBody.model_fields) | set(IDLE_EMBEDDINGS)
    assert set(EmbeddingCreateParams.__annotations__) - embeddings == set()


def test_the_readme_lists_what_has_no_effect_and_nothing_else() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    listed = readme.partition("Accepted without effect: ")[2].partition("Refused, with")[0]
    idle = {*IDLE_CHAT, *IDLE_RESPONSES, *IDLE_EMBEDDINGS, IDLE_ITEM, IDLE_INCLUDE}
    within = {name for fields in IDLE_WITHIN.values() for name in fields}
    # Where the others stand, and two that have an effect now and then.
    around = {"include", "strict", "tools"}
    assert set(re.findall(r"`(.+?)`", listed)) == idle | within | around


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8) | st.sampled_from(["user", "tool", "text", "function", "required"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["type", "role", "content", "function", "name", "text", "id", "tool_calls"])
        | st.text(max_size=4), inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
FIELDS = st.sampled_from(
    sorted(
        {*CompletionCreateParamsBase.__annotations__, *ResponseCreateParamsBase.__annotations__}
        - {"previous_response_id", "store"}  # they ask the store, which this site does not have
        | {"stream"}
    )
)
CHANGES = st.dictionaries(FIELDS | st.text(max_size=5), anything, max_size=6)
GOOD = {
    COMPLETIONS: ASKED,
    "/v1/embeddings": {"model": MODEL, "input": "x"},
    "/v1/responses": {"model": MODEL, "input": "x", "store": False},
}


@hypothesis_settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(path=st.sampled_from(list(GOOD)), changed=CHANGES | anything)
async def test_any_body_gets_an_answer_or_openais_error(
    site: ChatSite, path: str, changed: Any
) -> None:
    body = {**GOOD[path], **changed} if isinstance(changed, dict) else changed
    content = json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    async with site.client() as client:
        answer = await client.post(path, content=content, headers=headers)
    if answer.status_code != 200:
        assert answer.status_code in {400, 404}
        assert error_of(answer, answer.status_code)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/v1/chat/completions", '"response_format": {"type": "json_schema", "json_schema": '
         '{"name": "a", "schema": {"maximum": 1e400}}}'),
        ("/v1/responses", '"input": "x", "text": {"format": {"type": "json_schema", "name": "a", '
         '"schema": {"maximum": -1' + "0" * 400 + '.0}}}'),
        ("/v1/chat/completions", '"messages": [{"role": "assistant", "tool_calls": [{"id": "1", '
         '"function": {"name": "f", "arguments": "{\\"x\\": NaN}"}}]}]'),
        ("/v1/chat/completions", '"n": true'),
    ],
)  # fmt: skip
async def test_a_number_that_json_does_not_have_reaches_nobody(
    site: ChatSite, scripted_model: ScriptedModel, path: str, more: str
) -> None:
    known = '"messages": [{"role": "user", "content": "x"}], '
    body = f'{{"model": "{MODEL}", {known if path == COMPLETIONS else ""}{more}}}'
    async with site.client() as client:
        error_of(await client.post(path, content=body), 400)
    assert scripted_model.generations == []


async def test_a_client_with_a_bad_schema_is_told_and_closes_the_host_to_nobody(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    # As Ollama does it: a good status, and then a line with the error.
    bad = Reply(fault=Fault.ERROR_LINE, error="invalid JSON schema in format")
    scripted_model.when(lambda made: "format" in made.json, bad)
    schema = {"name": "sky", "schema": {"type": "nonsense"}}
    wanted = {**ASKED, "response_format": {"type": "json_schema", "json_schema": schema}}
    async with site.client() as client:
        for _ in range(6):
            refused = await client.post(COMPLETIONS, json=wanted)
            assert "invalid JSON schema" in error_of(refused, 400)["message"]
        assert (await client.post(COMPLETIONS, json=ASKED)).status_code == 200


@pytest.mark.parametrize("at", ["part", "image", "input"])
async def test_no_wish_within_a_message_is_lost_silently(site: ChatSite, at: str) -> None:
    data = "data:image/png;base64,iVBORw0KGgo="
    text = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}
    image: dict[str, Any] = {"type": "image_url", "image_url": {"url": data, "detail": "low"}}
    shown: dict[str, Any] = {"type": "input_image", "image_url": data, "detail": "low"}
    wished = {"part": text, "image": image["image_url"], "input": shown}[at]
    messages, said = ([{"role": "user", "content": parts}] for parts in ([text, image], [shown]))

    async def ask(client: httpx.AsyncClient) -> httpx.Response:
        if at == "input":
            body = {"model": MODEL, "input": said, "store": False}
            return await client.post("/v1/responses", json=body)
        return await client.post(COMPLETIONS, json={**ASKED, "messages": messages})

    async with site.client() as client:
        assert (await ask(client)).status_code == 200
        wished["crop"] = "centre"
        error = error_of(await ask(client), 400)
    assert (error["code"], error["param"].endswith(".crop")) == ("unknown_parameter", True)

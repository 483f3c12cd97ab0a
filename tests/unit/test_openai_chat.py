"""The official client against /v1/chat/completions: what it asks reaches the model as meant."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI
from openai.types.chat import ChatCompletionChunk

from lambent.agents.agent import Chunk, Source
from lambent.chat.values import Finished
from lambent.http.openai_answers import ChunkEncoder, Naming
from lambent.http.openai_tools import ToolPlan
from lambent.models.values import Usage
from local.services import Reply, ScriptedModel
from tests.unit.chat_site import ChatSite, chat_site, frames
from tests.unit.openai_site import ASKED, MODEL, WHY, generation, openai_client

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJg"
)
# What Ollama keeps in sight; 8192 tokens are the most that a request may ask for, by default.
WINDOW = {"num_ctx": 8192, "num_keep": 4, "repeat_last_n": 64}


@pytest.fixture
async def site(postgres_dsn: str, scripted_model: ScriptedModel) -> AsyncIterator[ChatSite]:
    async with chat_site(postgres_dsn, scripted_model.host, keep_alive_s=0.2) as site:
        yield site


@pytest.fixture
async def openai(site: ChatSite) -> AsyncIterator[AsyncOpenAI]:
    async with openai_client(site) as client:
        yield client


async def streamed(openai: AsyncOpenAI, **asked: Any) -> list[ChatCompletionChunk]:
    body = {"model": MODEL, "messages": WHY, **asked}
    return [chunk async for chunk in await openai.chat.completions.create(stream=True, **body)]


async def test_the_client_streams_a_completion(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.text('The "sky" scatters\nblue. 天'))
    chunks = await streamed(openai)
    text = "".join(one.choices[0].delta.content or "" for one in chunks)
    assert text == 'The "sky" scatters\nblue. 天'
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [one.choices[0].finish_reason for one in chunks][-2:] == [None, "stop"]
    assert {(one.model, one.object) for one in chunks} == {(MODEL, "chat.completion.chunk")}
    assert len({one.id for one in chunks}) == 1
    assert all(one.usage is None for one in chunks)


async def test_the_client_gets_a_whole_completion(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.text("The sky scatters blue."))
    answer = await openai.chat.completions.create(model=MODEL, messages=WHY)
    assert answer.choices[0].message.content == "The sky scatters blue."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 7 + 4
    # The model itself is asked: no agent's prompt goes before the client's messages.
    assert generation(scripted_model)["messages"] == WHY


async def test_the_synchronous_client_works_from_a_thread(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    import asyncio

    def ask() -> str:
        with OpenAI(base_url=f"{site.url}/v1", api_key=site.key) as client:
            stream = client.chat.completions.create(model=MODEL, messages=WHY, stream=True)
            return "".join(one.choices[0].delta.content or "" for one in stream)

    assert await asyncio.to_thread(ask) == "Hello from the script."


async def test_usage_is_streamed_where_it_is_asked_for(openai: AsyncOpenAI) -> None:
    chunks = await streamed(openai, stream_options={"include_usage": True})
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 4
    assert all(one.usage is None for one in chunks[:-1])


async def test_parameters_reach_the_model_under_its_own_names(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    await openai.chat.completions.create(
        model="hf.co/team/some-model:Q4_K_M", messages=WHY,
        temperature=0.5, top_p=0.9, frequency_penalty=1, presence_penalty=-1, seed=2**40 + 5,
        stop="END", max_completion_tokens=9, n=1, reasoning_effort="minimal", logprobs=False,
        user="me", metadata={"a": "b"}, store=False, service_tier="auto",
        extra_body={"top_k": 7, "min_p": 0.1, "repeat_penalty": 1.1, **WINDOW},
    )  # fmt: skip
    made = generation(scripted_model)
    assert made["model"] == "hf.co/team/some-model:Q4_K_M"
    assert made["think"] == "low"
    assert made["options"] == {
        "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "repeat_penalty": 1.1,
        "frequency_penalty": 1, "presence_penalty": -1, "seed": 5, "num_predict": 9,
        "stop": ["END"], **WINDOW,
    }  # fmt: skip


async def test_an_answer_at_its_limit_ends_with_length(openai: AsyncOpenAI) -> None:
    answer = await openai.chat.completions.create(model=MODEL, messages=WHY, max_tokens=2)
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.content == "Hello from"


async def test_a_prompt_is_not_to_be_cut_by_the_model_server(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    too_long = "the input length exceeds the context length"
    scripted_model.script(Reply.failure(400, too_long), Reply.failure(500, too_long))
    for _ in range(2):
        with pytest.raises(BadRequestError, match="more than the model can read") as caught:
            await openai.chat.completions.create(**ASKED)
        assert caught.value.code == "context_length_exceeded"
    await openai.chat.completions.create(**{**ASKED, "model": "agent:chat"})
    asked = [one.json.get("truncate") for one in scripted_model.generations]
    assert asked == [False, False, None]  # an agent may tell its model as much as it likes


async def test_roles_and_parts_become_the_models_messages(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    messages: list[Any] = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "name": "ann", "content": [
            {"type": "text", "text": "What"}, {"type": "text", "text": "is this?"},
            {"type": "image_url",
             "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "low"}},
        ]},
        {"role": "assistant", "content": "A dot.", "reasoning_content": "Hm."},
        {"role": "user", "content": ""},
    ]  # fmt: skip
    await openai.chat.completions.create(model=MODEL, messages=messages)
    assert generation(scripted_model)["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What\nis this?", "images": [PIXEL]},
        {"role": "assistant", "content": "A dot.", "thinking": "Hm."},
        {"role": "user", "content": ""},
    ]


async def test_thinking_is_told_apart_from_the_answer(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    scripted_model.default = Reply.text("42", thinking=("Let me ", "see."))
    chunks = await streamed(openai, reasoning_effort="none")
    thoughts = [(one.choices[0].delta.model_extra or {}).get("reasoning_content") for one in chunks]
    assert "".join(filter(None, thoughts)) == "Let me see."
    answer = await openai.chat.completions.create(model=MODEL, messages=WHY)
    assert answer.choices[0].message.content == "42"
    assert (answer.choices[0].message.model_extra or {})["reasoning_content"] == "Let me see."
    assert scripted_model.generations[0].json["think"] is False
    assert "think" not in scripted_model.generations[1].json


async def test_an_agent_is_a_model_named_agent_colon(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    chunks = await streamed(openai, model="agent:chat", reasoning_effort="high")
    assert {one.model for one in chunks} == {"agent:chat"}
    made = generation(scripted_model)
    assert (made["model"], made["think"]) == (MODEL, "high")
    assert made["messages"][0]["role"] == "system"  # the agent's own prompt


async def test_answers_carry_the_headers_that_the_client_reads(openai: AsyncOpenAI) -> None:
    raw = await openai.chat.completions.with_raw_response.create(model=MODEL, messages=WHY)
    parsed = raw.parse()
    assert raw.headers["x-request-id"] == parsed._request_id
    assert int(raw.headers["openai-processing-ms"]) >= 1
    assert raw.headers["x-ratelimit-limit-requests"] == "100000"
    assert raw.headers["x-ratelimit-remaining-requests"].isdecimal()
    assert raw.headers["x-ratelimit-reset-requests"].endswith("s")
    assert raw.headers["ratelimit-policy"]


async def test_a_silent_stream_is_kept_open_by_comments_only(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.text("Late.", first_delay_s=0.7))
    async with site.client() as client:
        answer = await client.post("/v1/chat/completions", json={**ASKED, "stream": True})
    lines = answer.text.splitlines()
    assert ": keep-alive" in lines
    assert not [line for line in lines if line.startswith("event:")]
    assert frames(answer.text)[-1] == "[DONE]"


async def test_the_place_in_the_queue_is_a_comment(
    postgres_dsn: str, scripted_model: ScriptedModel
) -> None:
    import asyncio

    scripted_model.default = Reply.many(3, first_delay_s=0.8)
    fast: Any = {"keep_alive_s": 0.1, "ollama_max_inflight": 1}
    async with chat_site(postgres_dsn, scripted_model.host, **fast) as site, site.client() as c:
        asked = {**ASKED, "stream": True}
        posts = [c.post("/v1/chat/completions", json=asked) for _ in range(2)]
        texts = [(await post).text for post in asyncio.as_completed(posts)]
    assert ": queued 1, about 1 s\n\n" in texts[1]
    assert "event:" not in texts[1]
    assert texts[1].endswith("data: [DONE]\n\n")


SKY = Source("Sky", "https://x/")


@pytest.mark.parametrize(
    "told",
    [[Chunk(delta="Blue."), Chunk(sources=(SKY,))], [Chunk(delta="Blue.", sources=(SKY,))]],
    ids=["after the text", "with the text"],
)
async def test_sources_of_an_agent_become_annotations(told: list[Chunk]) -> None:
    encoder = ChunkEncoder(Naming("x", "agent:news", 0), ToolPlan(), include_usage=False)
    data = (await encoder.encode([*told, Finished("stop", Usage(), ())])).decode()
    chunks = [ChatCompletionChunk.model_validate(one) for one in frames(data)[:-1]]
    assert chunks[1].choices[0].delta.content == "Blue."
    cited = json.loads(chunks[2].model_dump_json())["choices"][0]["delta"]["annotations"]
    assert cited[0]["url_citation"] == {
        "start_index": 5, "end_index": 5, "title": "Sky", "url": "https://x/",
    }  # fmt: skip

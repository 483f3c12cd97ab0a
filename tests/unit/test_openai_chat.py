"""The official client against the chat function's /v1/chat/completions, and what it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from openai import AsyncOpenAI

from local.services import Reply, ScriptedModel
from tests.unit.chat_site import ChatSite, chat_site

MODEL = "smollm2:135m"


@pytest.fixture
async def site(postgres_dsn: str, scripted_model: ScriptedModel) -> AsyncIterator[ChatSite]:
    async with chat_site(postgres_dsn, scripted_model.host) as site:
        yield site


@pytest.fixture
async def openai(site: ChatSite) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{site.url}/v1", api_key=site.key, max_retries=0) as client:
        yield client


async def test_the_client_streams_a_completion(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.text("The sky scatters blue."))
    stream = await openai.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Why?"}], stream=True
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == "The sky scatters blue."
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert {one.model for one in chunks} == {MODEL}
    assert len({one.id for one in chunks}) == 1


async def test_the_client_gets_a_whole_completion(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.text("The sky scatters blue."))
    answer = await openai.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Why?"}]
    )
    assert answer.choices[0].message.content == "The sky scatters blue."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 7 + 4
    assert [m["content"] for m in scripted_model.generations[0].json["messages"]] == ["Why?"]

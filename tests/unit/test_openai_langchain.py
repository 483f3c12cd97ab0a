"""LangChain's OpenAI client, unmodified, against the chat function."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal

import httpx
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, SecretStr

from local.services import Reply, ScriptedModel
from tests.unit.chat_site import ChatSite, chat_site
from tests.unit.openai_site import MODEL, generation

ASKED = [SystemMessage("Be brief."), HumanMessage("Why is the sky blue?")]


class Sky(BaseModel):
    """What is known of the sky."""

    colour: Literal["blue", "grey"]


@pytest.fixture
async def site(postgres_dsn: str, scripted_model: ScriptedModel) -> AsyncIterator[ChatSite]:
    async with chat_site(postgres_dsn, scripted_model.host) as site:
        yield site


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """LangChain's clients never close the connections of their own."""
    async with httpx.AsyncClient(timeout=20) as client:
        yield client


@pytest.fixture
def chat(site: ChatSite, http: httpx.AsyncClient) -> ChatOpenAI:
    return ChatOpenAI(
        model=MODEL, base_url=f"{site.url}/v1", api_key=SecretStr(site.key), max_retries=0,
        http_async_client=http,
    )  # fmt: skip


async def test_it_answers_whole_and_streamed(chat: ChatOpenAI) -> None:
    answer = await chat.ainvoke(ASKED)
    assert answer.content == "Hello from the script."
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["total_tokens"] == 11
    pieces = [piece async for piece in chat.astream(ASKED)]
    assert "".join(str(piece.content) for piece in pieces) == "Hello from the script."


async def test_tools_go_there_and_back(chat: ChatOpenAI, scripted_model: ScriptedModel) -> None:
    def weather(city: str) -> str:
        """Tells the weather of a city."""
        return f"Rain in {city}"

    scripted_model.script(Reply.calls(("weather", {"city": "Bonn"})), Reply.text("Take a coat."))
    bound = chat.bind_tools([weather])
    answer = await bound.ainvoke(ASKED)
    assert isinstance(answer, AIMessage)
    (call,) = answer.tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "Bonn"})
    result = ToolMessage(weather(**call["args"]), tool_call_id=call["id"])
    assert (await bound.ainvoke([*ASKED, answer, result])).content == "Take a coat."
    assert scripted_model.generations[1].json["messages"][-1]["tool_name"] == "weather"


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
async def test_structured_output_comes_as_a_pydantic_object(
    chat: ChatOpenAI, scripted_model: ScriptedModel, method: Any
) -> None:
    scripted_model.default = Reply.text('{"colour": "blue"}')
    assert await chat.with_structured_output(Sky, method=method).ainvoke(ASKED) == Sky(
        colour="blue"
    )
    assert generation(scripted_model)["format"]


async def test_embeddings_are_made_of_texts(site: ChatSite, http: httpx.AsyncClient) -> None:
    embeddings = OpenAIEmbeddings(
        model=MODEL, base_url=f"{site.url}/v1", api_key=SecretStr(site.key),
        check_embedding_ctx_length=False, http_async_client=http,
    )  # fmt: skip
    vectors = await embeddings.aembed_documents(["sky", "grass"])
    assert [len(one) for one in vectors] == [8, 8]


async def test_it_speaks_the_responses_api_too(
    site: ChatSite, http: httpx.AsyncClient, scripted_model: ScriptedModel
) -> None:
    chat = ChatOpenAI(
        model=MODEL, base_url=f"{site.url}/v1", api_key=SecretStr(site.key), max_retries=0,
        http_async_client=http, use_responses_api=True, store=False,
    )  # fmt: skip
    assert (await chat.ainvoke(ASKED)).text == "Hello from the script."
    pieces = [piece async for piece in chat.astream(ASKED)]
    assert "".join(piece.text for piece in pieces) == "Hello from the script."
    scripted_model.script(Reply.text('{"colour": "blue"}'))
    structured = chat.with_structured_output(Sky, method="json_schema")
    assert await structured.ainvoke(ASKED) == Sky(colour="blue")

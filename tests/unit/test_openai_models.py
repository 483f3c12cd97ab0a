"""Models and embeddings through the official client."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError

from local.services import ScriptedModel
from tests.unit.chat_site import ChatSite, chat_site
from tests.unit.openai_site import MODEL, openai_client


@pytest.fixture
async def site(postgres_dsn: str, scripted_model: ScriptedModel) -> AsyncIterator[ChatSite]:
    async with chat_site(postgres_dsn, scripted_model.host) as site:
        yield site


@pytest.fixture
async def openai(site: ChatSite) -> AsyncIterator[AsyncOpenAI]:
    async with openai_client(site) as client:
        yield client


async def test_models_are_listed_with_the_agents(openai: AsyncOpenAI) -> None:
    listed = {one.id: one async for one in openai.models.list()}
    assert set(listed) == {MODEL, "agent:chat", "agent:news"}
    assert listed[MODEL].owned_by == "ollama"
    assert listed[MODEL].created > 1_700_000_000


@pytest.mark.parametrize("name", [MODEL, f"library/{MODEL.upper()}", "agent:news"])
async def test_one_model_is_found_by_its_name(openai: AsyncOpenAI, name: str) -> None:
    assert (await openai.models.retrieve(name)).id == name


@pytest.mark.parametrize("name", ["hf.co/team/some-model:Q4", "agent:nope", "x/../y", "天 ?"])
async def test_a_name_with_slashes_and_colons_is_only_unknown(
    openai: AsyncOpenAI, name: str
) -> None:
    with pytest.raises(NotFoundError) as caught:
        await openai.models.retrieve(name)
    assert caught.value.code == "model_not_found"


async def test_embeddings_come_in_base64_as_the_client_asks(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    made = await openai.embeddings.create(model=MODEL, input=["sky", "grass"])
    assert [one.index for one in made.data] == [0, 1]
    assert (made.model, made.usage.prompt_tokens) == (MODEL, 2)
    plain = await openai.embeddings.create(model=MODEL, input="sky", encoding_format="float")
    assert made.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)
    assert len(plain.data[0].embedding) == 8
    assert scripted_model.requests[0].json == {
        "model": MODEL, "input": ["sky", "grass"], "truncate": False,
    }  # fmt: skip


async def test_an_input_beyond_the_models_window_is_refused_and_not_cut(
    openai: AsyncOpenAI,
) -> None:
    with pytest.raises(BadRequestError, match="more than the model can read") as caught:
        await openai.embeddings.create(model=MODEL, input=["sky", "grass " * 5000])
    assert caught.value.code == "context_length_exceeded"


async def test_fewer_dimensions_are_the_first_ones_at_length_one(openai: AsyncOpenAI) -> None:
    made = await openai.embeddings.create(model=MODEL, input="sky", dimensions=3)
    vector = made.data[0].embedding
    assert len(vector) == 3
    assert math.hypot(*vector) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"input": [1, 2, 3]}, "input"),
        ({"input": [[1, 2], [3]]}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": "a", "dimensions": 9}, "dimensions"),
        ({"input": "a", "model": "agent:chat"}, "model"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ],
)
async def test_what_cannot_be_embedded_is_refused_by_name(
    openai: AsyncOpenAI, asked: dict[str, Any], param: str
) -> None:
    body: Any = {"model": MODEL, **asked}
    with pytest.raises(BadRequestError) as caught:
        await openai.embeddings.create(**body)
    assert caught.value.param == param


async def test_an_embedding_takes_a_slot_and_gives_it_back(
    site: ChatSite, openai: AsyncOpenAI
) -> None:
    with pytest.raises(NotFoundError):
        await openai.embeddings.create(model="nope", input="x")
    await openai.embeddings.create(model=MODEL, input="x")
    assert await site.slots_taken() == 0

"""The official client, unmodified, against the whole local stack: function, runtime and front."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai as package
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from local.services import Reply, ScriptedModel
from tests.functions.stack import Stack

WHY: Any = [{"role": "user", "content": "Why is the sky blue?"}]
MODEL = "smollm2:135m"
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Bonn", "Ulm"]}},
            "required": ["city"],
        },
    },
}


class Sky(BaseModel):
    """What is known of the sky."""

    colour: str


@pytest.fixture
def real(real_stack: Stack) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{real_stack.url}/v1", api_key=real_stack.new_key()) as client:
        yield client


@pytest.fixture
def scripted(scripted_stack: Stack) -> Iterator[OpenAI]:
    key = scripted_stack.new_key()
    with OpenAI(base_url=f"{scripted_stack.url}/v1", api_key=key, max_retries=0) as client:
        yield client


def test_a_real_model_streams_its_answer_with_its_usage(real: OpenAI) -> None:
    chunks = list(
        real.chat.completions.create(
            model=MODEL, messages=WHY, max_tokens=12, seed=1, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    assert "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
    assert chunks[-1].usage is not None
    assert 0 < chunks[-1].usage.completion_tokens <= 12


async def test_the_asynchronous_client_talks_to_an_agent(real_stack: Stack) -> None:
    url, key = f"{real_stack.url}/v1", real_stack.new_key()
    async with AsyncOpenAI(base_url=url, api_key=key) as client:
        answer = await client.chat.completions.create(
            model="agent:chat", messages=WHY, max_tokens=8
        )
    assert answer.choices[0].message.content
    assert answer.model == "agent:chat"


def test_a_real_model_is_held_to_a_schema(real: OpenAI) -> None:
    class Coat(BaseModel):
        needed: bool

    answer = real.chat.completions.parse(
        model=MODEL, messages=WHY, response_format=Coat, max_tokens=60, temperature=0, seed=1
    )
    assert isinstance(answer.choices[0].message.parsed, Coat)


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}]
)
def test_a_real_model_without_tools_is_made_to_call_one(real: OpenAI, choice: Any) -> None:
    answer = real.chat.completions.create(
        model=MODEL, messages=WHY, tools=[WEATHER], tool_choice=choice, max_tokens=60, seed=1
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert json.loads(call.function.arguments)["city"] in {"Bonn", "Ulm"}


def test_a_real_model_makes_embeddings(real: OpenAI) -> None:
    made = real.embeddings.create(model=MODEL, input=["The sky", "The grass"])
    sizes = {len(one.embedding) for one in made.data}
    assert len(made.data) == 2
    assert len(sizes) == 1
    assert made.data[0].embedding != made.data[1].embedding


def test_a_real_model_goes_on_from_its_response(real: OpenAI) -> None:
    first = real.responses.create(model=MODEL, input="Why is the sky blue?", max_output_tokens=8)
    *_, last = real.responses.create(
        model=MODEL, input="Go on.", previous_response_id=first.id, max_output_tokens=8, stream=True
    )
    # Whether it came to its end or to its limit is up to the model.
    assert last.type == "response.completed" or last.type == "response.incomplete"
    second = last.response
    assert second.output_text
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens
    assert real.responses.retrieve(second.id).output_text == second.output_text


def test_models_and_agents_are_listed_and_found(real: OpenAI) -> None:
    names = {one.id for one in real.models.list()}
    assert {MODEL, "agent:chat", "agent:news"} <= names
    assert real.models.retrieve(MODEL).id == MODEL
    with pytest.raises(package.NotFoundError):
        real.models.retrieve("hf.co/team/none:q4")


def test_tool_calls_stream_through_the_function(scripted: OpenAI, script: ScriptedModel) -> None:
    script.script(Reply.calls(("weather", {"city": "Bonn"})))
    with scripted.chat.completions.stream(model=MODEL, messages=WHY, tools=[WEATHER]) as stream:
        (call,) = stream.get_final_completion().choices[0].message.tool_calls or []
    assert json.loads(call.function.arguments) == {"city": "Bonn"}


def test_structured_output_is_parsed(scripted: OpenAI, script: ScriptedModel) -> None:
    script.script(Reply.text('{"colour": "blue"}'))
    answer = scripted.chat.completions.parse(model=MODEL, messages=WHY, response_format=Sky)
    assert answer.choices[0].message.parsed == Sky(colour="blue")


def test_errors_are_the_clients_own(scripted: OpenAI) -> None:
    with pytest.raises(package.NotFoundError) as caught:
        scripted.chat.completions.create(model="nope", messages=WHY, stream=True)
    assert caught.value.code == "model_not_found"
    assert caught.value.request_id
    stranger = scripted.with_options(api_key="sk-none")
    with pytest.raises(package.AuthenticationError):
        stranger.models.list()

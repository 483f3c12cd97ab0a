"""The official client against /v1/responses: answers, events, tools, and going on from one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError
from openai.types.responses import Response, ResponseFunctionToolCall
from pydantic import BaseModel

from lambent.chat.responses import MOST_TURNS, Kept, ResponseStore
from lambent.clock import SystemClock
from lambent.models.values import Message, Role
from lambent.mongo import Mongo
from local.services import Reply, ScriptedModel
from local.services.script import Fault
from tests.unit.chat_site import ChatSite, chat_site
from tests.unit.openai_site import MODEL, generation, openai_client

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "Tells the weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
WEATHER_STRICT: Any = {**WEATHER, "strict": True}


class Sky(BaseModel):
    colour: Literal["blue", "grey"]


@pytest.fixture
async def site(
    postgres_dsn: str, scripted_model: ScriptedModel, mongo_uri: str, mongo_db_name: str
) -> AsyncIterator[ChatSite]:
    mongo = Mongo(mongo_uri, mongo_db_name, clock=SystemClock())
    async with chat_site(postgres_dsn, scripted_model.host, mongo=mongo) as site:
        yield site
    await mongo.close()


@pytest.fixture
async def store(mongo_uri: str, mongo_db_name: str) -> AsyncIterator[ResponseStore]:
    mongo = Mongo(mongo_uri, mongo_db_name, clock=SystemClock())
    yield ResponseStore(lambda: mongo, clock=SystemClock())
    await mongo.close()


@pytest.fixture
async def openai(site: ChatSite) -> AsyncIterator[AsyncOpenAI]:
    async with openai_client(site) as client:
        yield client


def told(model: ScriptedModel) -> list[tuple[str, str]]:
    """What the last generation was given."""
    return [(one["role"], one["content"]) for one in model.generations[-1].json["messages"]]


async def test_the_client_gets_a_whole_response(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    answer = await openai.responses.create(
        model=MODEL, input="Why?", instructions="Be brief.", max_output_tokens=3,
        reasoning={"effort": "low"}, metadata={"a": "b"},
    )  # fmt: skip
    assert (answer.output_text, answer.status) == ("Hello from the", "incomplete")
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (7, 3)
    assert (answer.instructions, answer.metadata) == ("Be brief.", {"a": "b"})
    assert told(scripted_model) == [("system", "Be brief."), ("user", "Why?")]
    assert generation(scripted_model)["think"] == "low"
    Response.model_validate(answer.model_dump(), strict=True)


async def test_a_stream_tells_typed_events_in_order(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.text("All blue.", thinking=("Hm.",)))
    stream = await openai.responses.create(model=MODEL, input="Why?", stream=True)
    events = [event async for event in stream]
    assert [one.sequence_number for one in events] == list(range(len(events)))
    assert [one.type.removeprefix("response.") for one in events] == [
        "created", "in_progress",
        "output_item.added", "content_part.added", "reasoning_text.delta",
        "reasoning_text.done", "content_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "All blue."
    assert [one.type for one in last.response.output] == ["reasoning", "message"]


async def test_a_later_request_goes_on_from_a_response(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.text("Blue."), Reply.text("Rayleigh."), Reply.text("1871."))
    first = await openai.responses.create(model=MODEL, input="Colour?", instructions="Brief.")
    second = await openai.responses.create(
        model=MODEL, input="Who says so?", previous_response_id=first.id
    )
    third = await openai.responses.create(
        model=MODEL, input="When?", previous_response_id=second.id
    )
    assert third.previous_response_id == second.id
    # Instructions hold for their own turn only.
    assert told(scripted_model) == [
        ("user", "Colour?"), ("assistant", "Blue."), ("user", "Who says so?"),
        ("assistant", "Rayleigh."), ("user", "When?"),
    ]  # fmt: skip


async def test_a_conversation_that_is_too_long_is_refused_and_never_cut(
    openai: AsyncOpenAI, scripted_model: ScriptedModel, store: ResponseStore
) -> None:
    ids = [f"resp_{number}" for number in range(MOST_TURNS)]
    said = (Message(role=Role.user, content="x"),)
    for at, id in enumerate(ids):
        chain = tuple(ids[:at])
        await store.keep(Kept(id=id, client="tests", chain=chain, messages=said, body={}))
    last = await openai.responses.create(model=MODEL, input="Go on", previous_response_id=ids[-2])
    assert len(told(scripted_model)) == MOST_TURNS
    beyond = await openai.responses.create(model=MODEL, input="On", previous_response_id=last.id)
    with pytest.raises(BadRequestError, match="begin a new one") as caught:
        await openai.responses.create(model=MODEL, input="On", previous_response_id=beyond.id)
    assert (caught.value.param, len(scripted_model.generations)) == ("previous_response_id", 2)


async def test_a_prompt_is_not_to_be_cut_by_the_model_server(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.failure(400, "the input length exceeds the context length"))
    with pytest.raises(BadRequestError) as caught:
        await openai.responses.create(model=MODEL, input="Hi", truncation="disabled")
    assert caught.value.code == "context_length_exceeded"
    assert scripted_model.generations[0].json["truncate"] is False


async def test_a_tool_is_called_and_answered_across_responses(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.calls(("weather", {"city": "Bonn"})), Reply.text("Take a coat."))
    first = await openai.responses.create(model=MODEL, input="Coat?", tools=[WEATHER])
    (call,) = first.output
    assert isinstance(call, ResponseFunctionToolCall)
    assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Bonn"})
    second = await openai.responses.create(
        model=MODEL, tools=[WEATHER], previous_response_id=first.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "Rain"}],
    )  # fmt: skip
    assert second.output_text == "Take a coat."
    assert scripted_model.generations[1].json["messages"][-1]["tool_name"] == "weather"


async def test_schemas_that_say_nothing_are_kept_all_the_same(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    scripted_model.default = Reply.text("{}")
    ping: Any = {"type": "function", "name": "ping", "parameters": {}, "strict": False}
    made = await openai.responses.create(
        model=MODEL, input="Ping.", tools=[ping], tool_choice="required"
    )
    assert isinstance(made.output[0], ResponseFunctionToolCall)
    form: Any = {"type": "json_schema", "name": "any", "schema": {}}
    await openai.responses.create(model=MODEL, input="Hi", text={"format": form})
    assert [one.json.get("format") for one in scripted_model.generations] == [
        {"type": "object", "properties": {}}, {},
    ]  # fmt: skip


async def test_a_whole_conversation_may_come_as_items(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    items: list[Any] = [
        {"role": "developer", "content": "Brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "Coat?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
         "content": [{"type": "output_text", "text": "I look.", "annotations": []}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "Rain"},
    ]  # fmt: skip
    await openai.responses.create(model=MODEL, input=items, store=False)
    messages = generation(scripted_model)["messages"]
    assert [one["role"] for one in messages] == ["system", "user", "assistant", "tool"]
    assert messages[2]["tool_calls"][0]["function"]["name"] == "weather"


async def test_calls_stream_as_arguments(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply(frames=('{"city"', ': "Bonn"}')))
    stream = await openai.responses.create(
        model=MODEL, input="Coat?", stream=True, tools=[WEATHER],
        tool_choice={"type": "function", "name": "weather"},
    )  # fmt: skip
    events = [event async for event in stream]
    deltas = [one.delta for one in events if one.type == "response.function_call_arguments.delta"]
    done = [one for one in events if one.type == "response.function_call_arguments.done"]
    assert json.loads("".join(deltas)) == json.loads(done[0].arguments) == {"city": "Bonn"}
    assert events[-1].type == "response.completed"


async def test_a_pydantic_model_is_parsed(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.text('{"colour": "blue"}'))
    answer = await openai.responses.parse(model=MODEL, input="Colour?", text_format=Sky)
    assert answer.output_parsed == Sky(colour="blue")
    assert generation(scripted_model)["format"]["required"] == ["colour"]


@pytest.mark.parametrize("kind", ["text", "tool"])
async def test_what_was_parsed_goes_back_as_it_is_and_as_a_dict(
    openai: AsyncOpenAI, scripted_model: ScriptedModel, kind: str
) -> None:
    asked: dict[str, Any] = {"text": {"text_format": Sky}, "tool": {"tools": [WEATHER_STRICT]}}[
        kind
    ]
    reply = Reply.calls(("weather", {})) if kind == "tool" else Reply.text('{"colour": "blue"}')
    scripted_model.script(reply)
    first = await openai.responses.parse(model=MODEL, input="Colour?", **asked)
    rest: list[Any] = [{"role": "user", "content": "Sure?"}]
    if kind == "tool":
        call_id = first.output[0].call_id  # type: ignore[union-attr]
        rest = [{"type": "function_call_output", "call_id": call_id, "output": "Rain"}]
    for back in (list(first.output), [one.model_dump() for one in first.output]):
        body: Any = {"model": MODEL, "input": [*back, *rest], "store": False}
        assert (await openai.responses.create(**body)).status == "completed"


async def test_a_stream_that_breaks_ends_as_failed(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.text("Half an").but(fault=Fault.ERROR_LINE, delay_s=0.05))
    stream = await openai.responses.create(model=MODEL, input="Why?", stream=True)
    events = [event async for event in stream]
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    with pytest.raises(NotFoundError):
        await openai.responses.retrieve(last.response.id)


async def test_a_response_is_its_clients_alone(site: ChatSite, openai: AsyncOpenAI) -> None:
    mine = await openai.responses.create(model=MODEL, input="Secret?")
    assert (await openai.responses.retrieve(mine.id)).output_text == mine.output_text
    async with openai_client(site, await site.new_key()) as stranger:
        with pytest.raises(BadRequestError) as caught:
            await stranger.responses.create(
                model=MODEL, input="?", previous_response_id=mine.id, stream=True
            )
        assert caught.value.code == "previous_response_not_found"
        with pytest.raises(NotFoundError):
            await stranger.responses.retrieve(mine.id)
        with pytest.raises(NotFoundError):
            await stranger.responses.delete(mine.id)
    await openai.responses.delete(mine.id)
    with pytest.raises(NotFoundError):
        await openai.responses.retrieve(mine.id)
    assert await site.slots_taken() == 0


async def test_a_kept_response_is_told_whole_and_no_wish_is_lost(openai: AsyncOpenAI) -> None:
    made = await openai.responses.create(model=MODEL, input="Why?")
    assert (await openai.responses.retrieve(made.id, stream=False)).output_text
    with pytest.raises(BadRequestError) as caught:
        await openai.responses.retrieve(made.id, stream=True)
    assert (caught.value.param, caught.value.code) == ("stream", "unsupported_value")


@pytest.mark.parametrize("letter", ["é", "\U0001f600"])
async def test_what_may_be_sent_may_be_kept_in_any_script(
    openai: AsyncOpenAI, scripted_model: ScriptedModel, letter: str
) -> None:
    # As ASCII with six bytes a letter this would be more than one document of MongoDB holds.
    long = letter * (5_600_000 // len(letter.encode()))
    made = await openai.responses.create(
        model=MODEL, input=long[:1_900_000], instructions=long[1_900_000:]
    )
    assert made.store is True  # type: ignore[attr-defined]
    await openai.responses.create(model=MODEL, input="More", previous_response_id=made.id)
    assert told(scripted_model)[0] == ("user", long[:1_900_000])


async def test_tools_that_are_offered_to_an_agent_are_left_alone(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    answer = await openai.responses.create(model="agent:chat", input="Why?", tools=[WEATHER])
    assert answer.output_text == "Hello from the script."
    (made,) = scripted_model.generations
    assert "tools" not in made.json


async def test_what_shall_not_be_stored_is_not(openai: AsyncOpenAI) -> None:
    answer = await openai.responses.create(model="agent:chat", input="Why?", store=False)
    assert answer.output_text == "Hello from the script."
    with pytest.raises(NotFoundError):
        await openai.responses.retrieve(answer.id)


IMAGE: Any = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}
CALL: Any = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"}
SHOWN: Any = {"type": "function_call_output", "call_id": "c1", "output": [IMAGE]}


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"background": True}, "background"),
        ({"input": [CALL, SHOWN]}, "input[1].output"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": ""}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]},
         "input[0].content[0].type"),
        ({"model": "agent:chat", "tools": [WEATHER], "tool_choice": "required"}, "tool_choice"),
        ({"previous_response_id": "resp_none"}, "previous_response_id"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"text": {"verbosity": []}}, "text.verbosity"),
    ],
)  # fmt: skip
async def test_what_cannot_be_kept_is_refused_by_name(
    openai: AsyncOpenAI, asked: dict[str, Any], param: str
) -> None:
    body: Any = {"model": MODEL, "input": "x", **asked}
    with pytest.raises(BadRequestError) as caught:
        await openai.responses.create(**body)
    assert caught.value.param == param

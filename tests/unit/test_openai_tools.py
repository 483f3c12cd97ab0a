"""Tools and structured output through the official client: offered, forced, and told back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
from openai import AsyncOpenAI, BadRequestError, InternalServerError, pydantic_function_tool
from openai.types.chat import ChatCompletionMessageFunctionToolCall as Call
from pydantic import BaseModel

from local.services import Reply, ScriptedModel
from tests.unit.chat_site import ChatSite, chat_site
from tests.unit.openai_site import MODEL, TIME, WEATHER, WHY, generation, openai_client

NAMED: Any = {"type": "function", "function": {"name": "weather"}}


class Sky(BaseModel):
    colour: Literal["blue", "grey"]
    why: str


SKY: Any = pydantic_function_tool(Sky)


@pytest.fixture
async def site(postgres_dsn: str, scripted_model: ScriptedModel) -> AsyncIterator[ChatSite]:
    async with chat_site(postgres_dsn, scripted_model.host) as site:
        yield site


@pytest.fixture
async def openai(site: ChatSite) -> AsyncIterator[AsyncOpenAI]:
    async with openai_client(site) as client:
        yield client


async def called(openai: AsyncOpenAI, **asked: Any) -> tuple[list[tuple[str, Any]], str]:
    """The calls of a whole answer, and its finish reason."""
    answer = await openai.chat.completions.create(model=MODEL, messages=WHY, **asked)
    calls = answer.choices[0].message.tool_calls or []
    assert all(isinstance(one, Call) and one.id for one in calls)
    told = [(one.function.name, json.loads(one.function.arguments)) for one in calls]
    return told, answer.choices[0].finish_reason


async def joined(openai: AsyncOpenAI, **asked: Any) -> tuple[list[Any], list[str], str]:
    """The calls of a stream put together by index: [name, id, arguments]; texts; the reason."""
    calls: list[Any] = []
    texts, reason = [], ""
    body = {"model": MODEL, "messages": WHY, **asked}
    async for chunk in await openai.chat.completions.create(stream=True, **body):
        delta = chunk.choices[0].delta
        texts.append(delta.content or "")
        reason = chunk.choices[0].finish_reason or reason
        for one in delta.tool_calls or []:
            assert one.function
            if one.index == len(calls):
                calls.append([one.function.name, one.id, ""])
            calls[one.index][2] += one.function.arguments or ""
    return calls, texts, reason


async def test_tools_are_offered_and_their_calls_told(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.calls(("weather", {"city": "Bonn"}), ("time", {})))
    calls, reason = await called(openai, tools=[WEATHER, TIME], tool_choice="auto")
    assert calls == [("weather", {"city": "Bonn"}), ("time", {})]
    assert reason == "tool_calls"
    assert [one["function"]["name"] for one in generation(scripted_model)["tools"]] == [
        "weather", "time",
    ]  # fmt: skip


async def test_calls_in_a_stream_have_index_and_id(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.calls(("weather", {"city": "Bonn"}), ("weather", {"city": "Köln"})))
    calls, texts, reason = await joined(openai, tools=[WEATHER])
    assert [(one[0], json.loads(one[2])["city"]) for one in calls] == [
        ("weather", "Bonn"), ("weather", "Köln"),
    ]  # fmt: skip
    assert len({one[1] for one in calls}) == 2
    assert all(one[1].startswith("call_") for one in calls)
    assert ("".join(texts), reason) == ("", "tool_calls")


async def test_one_call_at_a_time_where_parallel_calls_are_off(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.calls(("weather", {"city": "Bonn"}), ("weather", {"city": "Ulm"})))
    calls, _ = await called(openai, tools=[WEATHER], parallel_tool_calls=False)
    assert calls == [("weather", {"city": "Bonn"})]


async def test_tool_choice_none_keeps_the_tools_from_the_model(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    assert await called(openai, tools=[WEATHER], tool_choice="none") == ([], "stop")
    assert "tools" not in generation(scripted_model)


@pytest.mark.parametrize(("choice", "ends"), [(NAMED, "stop"), ("required", "tool_calls")])
async def test_a_forced_tool_is_called_through_structured_output(
    openai: AsyncOpenAI, scripted_model: ScriptedModel, choice: Any, ends: str
) -> None:
    scripted_model.script(Reply(frames=('{"city"', ': "Bo', 'nn"}')))
    calls, texts, reason = await joined(openai, tools=[WEATHER], tool_choice=choice)
    assert [(name, json.loads(arguments)) for name, _, arguments in calls] == [
        ("weather", {"city": "Bonn"})
    ]
    assert ("".join(texts), reason) == ("", ends)
    made = generation(scripted_model)
    assert made["format"] == WEATHER["function"]["parameters"]
    assert "tools" not in made
    assert "Tells the weather of a city." in made["messages"][0]["content"]


async def test_a_forced_tool_without_parameters_is_called_all_the_same(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    tool: Any = {"type": "function", "function": {"name": "ping", "parameters": {}}}
    scripted_model.script(Reply.text("{}"))
    calls, reason = await called(openai, tools=[tool], tool_choice="required")
    assert (calls, reason) == ([("ping", {})], "tool_calls")
    assert generation(scripted_model)["format"] == {"type": "object", "properties": {}}


async def test_any_of_several_tools_can_be_required(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    said = '{"name": "weather", "arguments": {"city": "Bonn"}}'
    scripted_model.default = Reply.text(said)
    wanted: Any = {"tools": [WEATHER, TIME], "tool_choice": "required"}
    assert await called(openai, **wanted) == ([("weather", {"city": "Bonn"})], "tool_calls")
    calls, texts, reason = await joined(openai, **wanted)
    assert (json.loads(calls[0][2]), "".join(texts), reason) == ({"city": "Bonn"}, "", "tool_calls")
    form = scripted_model.generations[0].json["format"]
    assert [one["properties"]["name"]["const"] for one in form["anyOf"]] == ["weather", "time"]
    assert form["$defs"]["tool_1"]["$ref"] == "#/$defs/tool_1/$defs/T"


async def test_allowed_tools_limit_what_is_offered(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    allowed: Any = {
        "type": "allowed_tools",
        "allowed_tools": {
            "mode": "auto", "tools": [{"type": "function", "function": {"name": "time"}}],
        },
    }  # fmt: skip
    await called(openai, tools=[WEATHER, TIME], tool_choice=allowed)
    assert [one["function"]["name"] for one in generation(scripted_model)["tools"]] == ["time"]


async def test_a_model_that_does_not_call_as_it_must_is_an_error(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    with pytest.raises(InternalServerError, match="did not call a tool"):
        await called(openai, tools=[WEATHER, TIME], tool_choice="required")


async def test_results_of_tools_go_back_under_the_tools_name(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    function = {"name": "weather", "arguments": '{"city": "Bonn"}'}
    messages: list[Any] = [
        *WHY,
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "call_1", "type": "function", "function": function},
        ]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "Rain"}]},
    ]  # fmt: skip
    await openai.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER])
    assert generation(scripted_model)["messages"][1:] == [
        {"role": "assistant", "content": "", "tool_calls": [
            {"id": "call_1", "function": {"name": "weather", "arguments": {"city": "Bonn"}}},
        ]},
        {"role": "tool", "content": "Rain", "tool_name": "weather", "tool_call_id": "call_1"},
    ]  # fmt: skip


async def test_a_pydantic_model_is_parsed_from_structured_output(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    scripted_model.default = Reply.text('{"colour": "blue", "why": "scatter"}')
    answer = await openai.chat.completions.parse(model=MODEL, messages=WHY, response_format=Sky)
    assert answer.choices[0].message.parsed == Sky(colour="blue", why="scatter")
    assert generation(scripted_model)["format"]["required"] == ["colour", "why"]
    stream = openai.chat.completions.stream(model=MODEL, messages=WHY, response_format=Sky)
    async with stream as events:
        final = await events.get_final_completion()
    assert final.choices[0].message.parsed == Sky(colour="blue", why="scatter")


# The client's own complaint about what it has put into its own message.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
@pytest.mark.parametrize("kind", ["text", "tool"])
async def test_a_parsed_message_goes_back_as_it_is_and_as_a_dict(
    openai: AsyncOpenAI, scripted_model: ScriptedModel, kind: str
) -> None:
    value = {"colour": "blue", "why": "scatter"}
    reply = Reply.calls(("Sky", value)) if kind == "tool" else Reply.text(json.dumps(value))
    scripted_model.script(reply)
    wished: Any = {"text": {"response_format": Sky}, "tool": {"tools": [SKY]}}[kind]
    answer = await openai.chat.completions.parse(model=MODEL, messages=WHY, **wished)
    said = answer.choices[0].message
    rest: Any = {"role": "user", "content": "Sure?"}
    if kind == "tool":
        assert said.tool_calls
        rest = {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": "Yes."}
    for back in (said, said.model_dump()):
        messages: Any = [*WHY, back, rest]
        await openai.chat.completions.create(model=MODEL, messages=messages)
        assert len(scripted_model.generations[-1].json["messages"]) == 3


async def test_a_schema_that_lets_everything_through_still_asks_for_json(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "any", "schema": {}}}
    await openai.chat.completions.create(model=MODEL, messages=WHY, response_format=form)
    assert generation(scripted_model)["format"] == {}


async def test_json_mode_asks_for_json(openai: AsyncOpenAI, scripted_model: ScriptedModel) -> None:
    form: Any = {"type": "json_object"}
    await openai.chat.completions.create(model=MODEL, messages=WHY, response_format=form)
    assert generation(scripted_model)["format"] == "json"


async def test_a_pydantic_tool_is_parsed(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.calls(("Sky", {"colour": "grey", "why": "rain"})))
    answer = await openai.chat.completions.parse(model=MODEL, messages=WHY, tools=[SKY])
    assert answer.choices[0].message.tool_calls
    parsed = answer.choices[0].message.tool_calls[0].function.parsed_arguments
    assert parsed == Sky(colour="grey", why="rain")


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [WEATHER], "response_format": {"type": "json_object"}}, "response_format"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"model": "agent:chat", "response_format":
          {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}}, "response_format"),
        ({"tools": [TIME], "tool_choice": NAMED}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "custom"}}, "tool_choice.type"),
        ({"model": "agent:chat", "tools": [WEATHER], "tool_choice": "required"}, "tool_choice"),
        ({"messages": [{"role": "tool", "tool_call_id": "x", "content": "y"}]},
         "messages[0].tool_call_id"),
    ],
)  # fmt: skip
async def test_what_cannot_be_kept_is_refused_by_name(
    openai: AsyncOpenAI, asked: dict[str, Any], param: str
) -> None:
    body: Any = {"model": MODEL, "messages": WHY, **asked}
    with pytest.raises(BadRequestError) as caught:
        await openai.chat.completions.create(**body)
    assert caught.value.param == param


async def test_tools_that_are_offered_to_an_agent_are_left_alone(
    openai: AsyncOpenAI, scripted_model: ScriptedModel
) -> None:
    # Chat clients offer theirs with every question; the agent's own are the ones it calls.
    answer = await openai.chat.completions.create(
        model="agent:chat", messages=WHY, tools=[WEATHER], tool_choice="auto"
    )
    assert answer.choices[0].message.content == "Hello from the script."
    assert "tools" not in generation(scripted_model)

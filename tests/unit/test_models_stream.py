"""A generation through `ModelManager`: what arrives, how it ends, and how it is stopped."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from lambent.clock import SystemClock
from lambent.errors import (
    LambentError,
    ModelBusy,
    ModelRefused,
    ModelTimeout,
    ModelUnavailable,
    PromptTooLong,
    Unavailable,
    UnknownModel,
)
from lambent.models.manager import ModelManager
from lambent.models.values import Message, ModelChunk, ModelRequest, Role, ToolCall
from lambent.settings import Settings
from local.services import ModelServer, ScriptedModel
from local.services.script import Fault, Reply

SECRET = "ollama-key-93"


Make = Callable[..., ModelManager]


@pytest.fixture
async def manager() -> AsyncIterator[Make]:
    made: list[ModelManager] = []

    def make(host: str, **changed: Any) -> ModelManager:
        settings = Settings(
            mongo_uri="mongodb://x", postgres_dsn="postgresql://x", ollama_host=host, **changed
        )
        made.append(ModelManager(settings, clock=SystemClock()))
        return made[-1]

    yield make
    for models in made:
        await models.close()


def asking(text: str = "Hi", **more: Any) -> ModelRequest:
    told = (Message(role=Role.user, content=text),)
    return ModelRequest(model="smollm2:135m", messages=told, **more)


async def collect(models: ModelManager, request: ModelRequest | None = None) -> list[ModelChunk]:
    return [chunk async for chunk in models.generate_stream(request or asking())]


async def test_words_arrive_in_order_and_the_last_chunk_tells_usage_and_reason(
    scripted_model: ScriptedModel, manager: Make
) -> None:
    scripted_model.script(Reply.text("one two three", prompt_tokens=9))
    chunks = await collect(manager(scripted_model.host))
    assert [chunk.content for chunk in chunks] == ["one", " two", " three", ""]
    assert all(chunk.end is None for chunk in chunks[:-1])
    end = chunks[-1].end
    assert end is not None
    assert end.finish_reason == "stop"
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (9, 3)
    assert end.usage.total_tokens == 12
    assert end.usage.total_s > 0


async def test_the_request_reaches_the_server_as_ollama_wants_it(
    scripted_model: ScriptedModel, manager: Make
) -> None:
    call = ToolCall("look", {"at": "sky"}, id="c1")
    told = (
        Message(role=Role.system, content="Be brief."),
        Message(role=Role.user, content="See", images=("aGk=",)),
        Message(role=Role.assistant, content="", tool_calls=(call,)),
        Message(role=Role.tool, content="blue", tool_name="look", tool_call_id="c1"),
    )
    request = ModelRequest(
        model="m", messages=told, tools=({"type": "function"},), format="json",
        options={"seed": 7}, think=False, keep_alive=0,
    )  # fmt: skip
    await collect(manager(scripted_model.host, ollama_api_key=SECRET), request)
    seen = scripted_model.generations[0]
    assert seen.headers["authorization"] == f"Bearer {SECRET}"
    assert seen.json == {
        "model": "m", "stream": True, "format": "json", "options": {"seed": 7}, "think": False,
        "keep_alive": 0, "tools": [{"type": "function"}],
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "See", "images": ["aGk="]},
            {"role": "assistant", "content": "", "tool_calls": [
                {"id": "c1", "function": {"name": "look", "arguments": {"at": "sky"}}}]},
            {"role": "tool", "content": "blue", "tool_name": "look", "tool_call_id": "c1"},
        ],
    }  # fmt: skip


async def test_thoughts_and_tool_calls_come_apart_from_the_text(
    scripted_model: ScriptedModel, manager: Make
) -> None:
    reply = Reply.calls(("look", {"at": "sky"}), thinking=("hm", " ok"))
    scripted_model.script(reply)
    chunks = await collect(manager(scripted_model.host))
    assert "".join(chunk.thinking for chunk in chunks) == "hm ok"
    assert [call for chunk in chunks for call in chunk.tool_calls] == [
        ToolCall("look", {"at": "sky"})
    ]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply.busy(), ModelBusy),
        (Reply.failure(429, "slow down"), ModelBusy),
        (Reply.failure(500, "the runner was killed"), ModelUnavailable),
        (Reply.failure(502, ""), ModelUnavailable),
        (Reply.failure(503, ""), ModelUnavailable),
        (Reply.failure(400, "this model sees no images"), ModelRefused),
        (Reply.failure(404, "model 'gone' not found"), UnknownModel),
        (Reply.failure(401, "unauthorized"), Unavailable),
        (Reply.failure(307, "elsewhere"), ModelRefused),
        (Reply.text("a b", fault=Fault.ERROR_LINE), ModelUnavailable),
        (Reply(fault=Fault.ERROR_LINE, error="invalid JSON schema in format"), ModelRefused),
        (
            Reply(fault=Fault.ERROR_LINE, error="the input exceeds the context length"),
            PromptTooLong,
        ),
        (Reply.failure(500, "Failed to create new sequence: no inputs provided"), ModelRefused),
        (
            Reply.failure(500, "model requires more system memory (22.6 GiB) than is available"),
            ModelBusy,
        ),
        (Reply.text("a b", fault=Fault.BREAK), ModelUnavailable),
        (Reply.text("a b", fault=Fault.MALFORMED), ModelUnavailable),
        (Reply.text("a b", fault=Fault.END_EARLY), ModelUnavailable),
        (Reply(fault=Fault.BREAK), ModelUnavailable),
    ],
)
async def test_each_failure_is_sorted_by_what_it_means(
    scripted_model: ScriptedModel, manager: Make, reply: Reply, expected: type[LambentError]
) -> None:
    scripted_model.script(reply)
    with pytest.raises(LambentError) as caught:
        await collect(manager(scripted_model.host))
    assert type(caught.value) is expected


async def test_what_came_before_a_break_is_not_lost(
    scripted_model: ScriptedModel, manager: Make
) -> None:
    scripted_model.script(Reply.text("one two", fault=Fault.BREAK))
    got: list[str] = []

    async def read() -> None:
        async for chunk in manager(scripted_model.host).generate_stream(asking()):
            got.append(chunk.content)

    with pytest.raises(ModelUnavailable):
        await read()
    assert got == ["one", " two"]


async def test_an_unknown_model_is_named(scripted_model: ScriptedModel, manager: Make) -> None:
    request = ModelRequest(model="nope", messages=asking().messages)
    with pytest.raises(UnknownModel, match="nope"):
        await collect(manager(scripted_model.host), request)


async def test_a_closed_port_is_a_failure_at_once(manager: Make) -> None:
    with pytest.raises(ModelUnavailable, match="cannot be reached"):
        await collect(manager("http://127.0.0.1:9"))


async def test_a_silent_model_fails_after_the_first_token_limit(
    scripted_model: ScriptedModel, manager: Make
) -> None:
    scripted_model.script(Reply.text("late", first_delay_s=30))
    models = manager(scripted_model.host, ollama_first_token_timeout_s=0.1)
    with pytest.raises(ModelTimeout):
        await collect(models)
    await scripted_model.until(lambda: scripted_model.generations[0].hung_up)


async def test_a_model_that_stalls_fails_after_the_next_token_limit(
    scripted_model: ScriptedModel, manager: Make
) -> None:
    scripted_model.script(Reply.text("one two", fault=Fault.HANG))
    models = manager(scripted_model.host, ollama_next_token_timeout_s=0.1)
    with pytest.raises(ModelTimeout):
        await collect(models)
    await scripted_model.until(lambda: scripted_model.generations[0].hung_up)


async def test_a_slow_reader_is_not_a_slow_model(
    scripted_model: ScriptedModel, manager: Make
) -> None:
    scripted_model.script(Reply.many(3, delay_s=0.01))
    models = manager(scripted_model.host, ollama_next_token_timeout_s=0.2)
    count = 0
    async for _ in models.generate_stream(asking()):
        await asyncio.sleep(0.25)
        count += 1
    assert count == 4


async def test_cancelling_the_reader_stops_the_generation_at_once(
    scripted_model: ScriptedModel, manager: Make
) -> None:
    scripted_model.script(Reply.many(1000, delay_s=0.02))
    reading = asyncio.create_task(collect(manager(scripted_model.host)))
    await scripted_model.until(lambda: scripted_model.generations[0:1])
    await asyncio.sleep(0.1)
    left_at_s = time.monotonic()
    reading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reading
    await scripted_model.until(lambda: scripted_model.generations[0].hung_up)
    assert time.monotonic() - left_at_s < 10


async def test_closing_the_iterator_stops_the_generation(
    scripted_model: ScriptedModel, manager: Make
) -> None:
    scripted_model.script(Reply.many(1000, delay_s=0.02))
    stream = manager(scripted_model.host).generate_stream(asking())
    await anext(stream)
    await stream.aclose()
    await scripted_model.until(lambda: scripted_model.generations[0].hung_up)


async def test_the_small_real_model_answers(model_server: ModelServer, manager: Make) -> None:
    request = asking("Say hello.", options={"num_predict": 8, "seed": 1})
    chunks = await collect(manager(model_server.host), request)
    assert "".join(chunk.content for chunk in chunks).strip()
    assert chunks[-1].end is not None
    assert chunks[-1].end.usage.completion_tokens <= 8

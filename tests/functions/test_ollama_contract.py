"""One contract of Ollama's API, generation: ours, a real Ollama and the scripted one keep it."""

import asyncio
import itertools
import json
import time
from datetime import datetime
from typing import Any

import httpx
import pytest

MODEL = "smollm2:135m"
QUESTION = [{"role": "user", "content": "Write a long story about a cat and a dog."}]
REAL = ("lambent", "ollama")
ALL = (*REAL, "scripted")
TIMINGS = {
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def held_by(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("ollama_api", kinds, indirect=True)


async def lines(ollama_api: httpx.AsyncClient, path: str, **body: Any) -> list[dict[str, Any]]:
    async with ollama_api.stream("POST", path, json={"model": MODEL, **body}) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"] == "application/x-ndjson"
        return [json.loads(line) async for line in answer.aiter_lines()]


async def chat(ollama_api: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    whole = {"model": MODEL, "messages": QUESTION, "stream": False, **body}
    answer = await ollama_api.post("/api/chat", json=whole)
    assert answer.status_code == 200, answer.text
    value: dict[str, Any] = answer.json()
    return value


@held_by(*ALL)
async def test_a_chat_streams_lines_and_ends_with_timings(ollama_api: httpx.AsyncClient) -> None:
    said = await lines(ollama_api, "/api/chat", messages=QUESTION, options={"num_predict": 8})
    *pieces, last = said
    assert pieces
    for piece in pieces:
        assert set(piece) == {"model", "created_at", "message", "done"}
        assert piece["done"] is False
        assert piece["message"]["role"] == "assistant"
        assert piece["message"]["content"]
    assert set(last) == {"model", "created_at", "message", "done_reason", "done", *TIMINGS}
    assert last["done"] is True
    assert last["message"] == {"role": "assistant", "content": ""}
    assert {line["model"] for line in said} == {MODEL}
    assert all(isinstance(last[name], int) and last[name] > 0 for name in TIMINGS)


@held_by(*ALL)
async def test_instants_are_utc_and_never_go_back(ollama_api: httpx.AsyncClient) -> None:
    said = await lines(ollama_api, "/api/chat", messages=QUESTION, options={"num_predict": 5})
    assert all(line["created_at"].endswith("Z") for line in said)
    instants = [datetime.fromisoformat(line["created_at"][:26].rstrip("Z")) for line in said]
    assert instants == sorted(instants)


@held_by(*ALL)
async def test_num_predict_ends_an_answer_with_reason_length(ollama_api: httpx.AsyncClient) -> None:
    answer = await chat(ollama_api, options={"num_predict": 4})
    assert answer["done_reason"] == "length"
    assert answer["eval_count"] == 4
    assert answer["message"]["content"]


@held_by(*ALL)
async def test_an_answer_in_one_piece_has_the_fields_of_the_last_line(
    ollama_api: httpx.AsyncClient,
) -> None:
    answer = await chat(ollama_api, options={"num_predict": 4})
    assert set(answer) == {"model", "created_at", "message", "done_reason", "done", *TIMINGS}
    assert set(answer["message"]) == {"role", "content"}


@held_by(*REAL)
async def test_durations_add_up_to_less_than_the_whole(ollama_api: httpx.AsyncClient) -> None:
    answer = await chat(ollama_api, options={"num_predict": 8})
    parts = ("load_duration", "prompt_eval_duration", "eval_duration")
    assert sum(answer[part] for part in parts) <= answer["total_duration"] * 1.05


@held_by(*REAL)
async def test_the_prompt_is_counted_as_the_template_writes_it(
    ollama_api: httpx.AsyncClient,
) -> None:
    hello = [{"role": "user", "content": "hi"}]
    answer = await chat(ollama_api, messages=hello, options={"num_predict": 1})
    assert answer["prompt_eval_count"] == 10


@held_by(*REAL)
async def test_a_stop_sequence_is_not_part_of_the_answer(ollama_api: httpx.AsyncClient) -> None:
    answer = await chat(ollama_api, options={"num_predict": 50, "stop": [" "], "seed": 3})
    assert answer["done_reason"] == "stop"
    assert " " not in answer["message"]["content"]


@held_by(*REAL)
async def test_a_stop_sequence_over_several_tokens_never_shows_its_beginning(
    ollama_api: httpx.AsyncClient,
) -> None:
    options = {"temperature": 0, "seed": 1, "num_predict": 30}
    whole = (await chat(ollama_api, options=options))["message"]["content"]
    stop = whole[12:24]
    cut = options | {"stop": [stop]}
    said = await lines(ollama_api, "/api/chat", messages=QUESTION, options=cut)
    told = "".join(line["message"]["content"] for line in said)
    assert told == whole[: whole.index(stop)]
    assert said[-1]["done_reason"] == "stop"


@held_by(*REAL)
async def test_the_same_seed_says_the_same_twice(ollama_api: httpx.AsyncClient) -> None:
    options = {"seed": 42, "temperature": 0.9, "num_predict": 12}
    first = await chat(ollama_api, options=options)
    again = await chat(ollama_api, options=options)
    assert first["message"] == again["message"]
    others = [await chat(ollama_api, options=options | {"seed": seed}) for seed in (7, 8, 9)]
    assert any(other["message"] != first["message"] for other in others)


@held_by(*REAL)
async def test_format_json_makes_a_json_object(ollama_api: httpx.AsyncClient) -> None:
    ask = [{"role": "user", "content": "Describe a cat as JSON."}]
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "happy": {"type": "boolean"}},
        "required": ["name", "happy"],
    }
    options = {"temperature": 0, "num_predict": 80}
    shaped = await chat(ollama_api, messages=ask, format=schema, options=options)
    value = json.loads(shaped["message"]["content"])
    assert set(value) == {"name", "happy"}
    assert isinstance(value["happy"], bool)
    free = await chat(ollama_api, messages=ask, format="json", options=options)
    assert free["message"]["content"].lstrip().startswith("{")


@held_by(*ALL)
async def test_generate_streams_responses(ollama_api: httpx.AsyncClient) -> None:
    said = await lines(
        ollama_api, "/api/generate", prompt="Tell me a story", options={"num_predict": 4}
    )
    *pieces, last = said
    assert all(set(p) == {"model", "created_at", "response", "done"} for p in pieces)
    assert "".join(piece["response"] for piece in pieces)
    assert last["response"] == ""
    assert last["done_reason"] == "length"
    assert set(last) >= TIMINGS


@held_by(*REAL)
async def test_the_context_of_generate_carries_a_conversation_on(
    ollama_api: httpx.AsyncClient,
) -> None:
    body = {"model": MODEL, "stream": False, "options": {"num_predict": 4}}
    first = (await ollama_api.post("/api/generate", json=body | {"prompt": "hi"})).json()
    assert len(first["context"]) >= first["prompt_eval_count"]
    go_on = body | {"prompt": "hi", "context": first["context"]}
    second = (await ollama_api.post("/api/generate", json=go_on)).json()
    assert second["prompt_eval_count"] >= len(first["context"])
    raw = (await ollama_api.post("/api/generate", json=body | {"prompt": "hi", "raw": True})).json()
    assert raw["prompt_eval_count"] == 1
    assert "context" not in raw


@held_by(*REAL)
async def test_tools_are_taken_and_the_answer_keeps_its_shape(
    ollama_api: httpx.AsyncClient,
) -> None:
    ask = [{"role": "user", "content": "What is the weather in Paris?"}]
    options = {"num_predict": 8, "temperature": 0}
    answer = await chat(ollama_api, messages=ask, tools=[TOOL], options=options)
    assert answer["prompt_eval_count"] > 150
    assert answer["message"]["content"] or answer["message"]["tool_calls"]
    said = await lines(ollama_api, "/api/chat", messages=ask, tools=[TOOL], options=options)
    assert said[-1]["done"] is True


@held_by(*ALL)
async def test_the_first_line_comes_long_before_the_last(ollama_api: httpx.AsyncClient) -> None:
    body = {"model": MODEL, "messages": QUESTION, "options": {"num_predict": 60, "seed": 5}}
    came_at_s = []
    async with ollama_api.stream("POST", "/api/chat", json=body) as answer:
        async for _ in answer.aiter_lines():
            came_at_s.append(time.monotonic())
    assert len(came_at_s) > 10
    gaps = [b - a for a, b in itertools.pairwise(came_at_s)]
    assert sum(gap > 0.001 for gap in gaps) > len(gaps) / 4


@held_by(*REAL)
async def test_a_hang_up_frees_the_only_slot(ollama_api: httpx.AsyncClient) -> None:
    """NUM_PARALLEL is 1: had the long answer gone on, the next would wait for minutes."""
    endless = {"model": MODEL, "messages": QUESTION, "options": {"num_predict": 100_000}}
    async with ollama_api.stream("POST", "/api/chat", json=endless) as answer:
        async for _ in answer.aiter_lines():
            break
    await asyncio.wait_for(chat(ollama_api, options={"num_predict": 1}), timeout=20)


@held_by(*REAL)
async def test_several_at_once_are_all_answered(ollama_api: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(
        *(chat(ollama_api, options={"num_predict": 3}) for _ in range(5))
    )
    assert [answer["done_reason"] for answer in answers] == ["length"] * 5

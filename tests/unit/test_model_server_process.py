"""Our model server as a process: its queue, hang-ups at any moment, whole characters."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from local.services import ModelServer, ServiceError

ASK = {"model": "smollm2:135m", "messages": [{"role": "user", "content": "Tell me a story."}]}
ENDLESS = ASK | {"options": {"num_predict": 100_000}}


@pytest.fixture(scope="module")
def narrow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    """One generation at a time, one more may wait."""
    limits = {"OLLAMA_MAX_QUEUE": "1", "OLLAMA_NUM_PARALLEL": "1"}
    with ModelServer.start(tmp_path_factory.mktemp("narrow"), env=limits) as server:
        yield server


@pytest.fixture
async def http(narrow_server: ModelServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=narrow_server.host, timeout=60) as client:
        yield client


async def state(http: httpx.AsyncClient) -> dict[str, Any]:
    value: dict[str, Any] = (await http.get("/debug/state")).json()
    return value


async def until(http: httpx.AsyncClient, **wanted: int) -> dict[str, Any]:
    for _ in range(500):
        seen = await state(http)
        if wanted.items() <= seen.items():
            return seen
        await asyncio.sleep(0.02)
    raise AssertionError(f"{wanted} did not come, but {seen}")


async def test_a_full_queue_is_503_in_ollamas_words(http: httpx.AsyncClient) -> None:
    async with http.stream("POST", "/api/chat", json=ENDLESS) as talking:
        lines = talking.aiter_lines()  # held: its end would close the connection
        await anext(lines)
        waiting = asyncio.create_task(http.post("/api/chat", json=ENDLESS))
        await until(http, in_flight=1, waiting=1)
        refused = await http.post("/api/chat", json=ASK)
        assert refused.status_code == 503
        said = "server busy, please try again.  maximum pending requests exceeded"
        assert refused.json() == {"error": said}
        waiting.cancel()
        await until(http, in_flight=1, waiting=0)
    await until(http, in_flight=0, waiting=0)


async def test_no_token_is_made_after_a_hang_up(http: httpx.AsyncClient) -> None:
    before = (await state(http))["generated_tokens"]
    async with http.stream("POST", "/api/chat", json=ENDLESS) as talking:
        lines = talking.aiter_lines()
        for _ in range(5):
            await anext(lines)
    stopped = await until(http, in_flight=0)
    assert stopped["generated_tokens"] - before >= 5
    await asyncio.sleep(0.3)
    assert (await state(http))["generated_tokens"] == stopped["generated_tokens"]


async def test_a_hang_up_while_a_long_prompt_is_read_frees_the_slot(
    http: httpx.AsyncClient, narrow_server: ModelServer
) -> None:
    long = ASK | {"messages": [{"role": "user", "content": "cat dog " * 2000}]}
    async with httpx.AsyncClient(base_url=narrow_server.host) as other:
        asked = asyncio.create_task(other.post("/api/chat", json=long, timeout=60))
        await until(http, in_flight=1)
        asked.cancel()
    await until(http, in_flight=0)


async def test_hang_ups_at_any_moment_leave_a_working_server(http: httpx.AsyncClient) -> None:
    chance = random.Random(7)
    for _ in range(25):
        short = ASK | {"options": {"num_predict": 8}, "stream": chance.random() < 0.7}
        asked = asyncio.create_task(http.post("/api/chat", json=short))
        await asyncio.sleep(chance.random() * 0.15)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
    await until(http, in_flight=0, waiting=0)
    answer = await http.post("/api/chat", json=ASK | {"options": {"num_predict": 3}})
    assert json.loads(answer.text.splitlines()[-1])["done"] is True


async def test_characters_of_several_tokens_arrive_whole(http: httpx.AsyncClient) -> None:
    ask = [{"role": "user", "content": "Write three emoji and count to five"}]
    options = {"temperature": 0, "num_predict": 40, "repeat_penalty": 1}
    body = {"model": ASK["model"], "messages": ask, "options": options}
    answer = await http.post("/api/chat", json=body)
    said = [json.loads(line)["message"]["content"] for line in answer.text.splitlines()]
    assert "�" not in "".join(said)
    assert any(ord(letter) > 0x2000 for letter in "".join(said))


async def test_a_message_longer_than_the_context_is_cut_not_refused(
    http: httpx.AsyncClient,
) -> None:
    long = [{"role": "user", "content": "word " * 500}]
    options = {"num_ctx": 64, "num_predict": 2}
    body = ASK | {"messages": long, "options": options, "stream": False}
    assert (await http.post("/api/chat", json=body)).json()["prompt_eval_count"] == 63


async def test_images_are_refused_clearly(http: httpx.AsyncClient) -> None:
    seen = [{"role": "user", "content": "What is it?", "images": ["aGVsbG8="]}]
    answer = await http.post("/api/chat", json=ASK | {"messages": seen})
    assert answer.status_code == 400
    assert answer.json() == {"error": "this model does not support images"}


async def test_a_pull_of_the_model_it_has_succeeds(http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/pull", json={"model": ASK["model"]})
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines[0] == {"status": "pulling manifest"}
    assert lines[1]["total"] == lines[1]["completed"]
    assert lines[-1] == {"status": "success"}


async def test_text_that_is_no_unicode_is_answered(http: httpx.AsyncClient) -> None:
    lone = b'{"model":"smollm2:135m","prompt":"\\ud800","stream":false,"options":{"num_predict":1}}'
    assert (await http.post("/api/generate", content=lone)).status_code == 200
    bad = await http.post("/api/generate", content=b'{"model":"smollm2:135m","prompt":"\xff"}')
    assert bad.status_code == 400


def test_a_wrong_limit_is_said_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"model server: .*duration"):
        ModelServer.start(tmp_path, env={"OLLAMA_KEEP_ALIVE": "banana"})

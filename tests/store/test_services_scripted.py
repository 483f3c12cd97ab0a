"""The scripted Ollama does what its script says, and sees what clients do."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from local.services import Fault, Reply, ScriptedModel
from local.services.process import ROOT

ASK = {"model": "any", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def http(scripted_model: ScriptedModel) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=scripted_model.host) as client:
        yield client


async def told(http: httpx.AsyncClient) -> list[Any]:
    async with http.stream("POST", "/api/chat", json=ASK) as answer:
        return [json.loads(line) async for line in answer.aiter_lines()]


async def test_replies_come_in_order_then_the_default(
    scripted_model: ScriptedModel, http: httpx.AsyncClient
) -> None:
    scripted_model.script(Reply.text("one"), Reply.text("two words"))
    scripted_model.default = Reply.text("always")
    said = ["".join(x["message"]["content"] for x in await told(http)) for _ in range(4)]
    assert said == ["one", "two words", "always", "always"]
    assert [r.json["model"] for r in scripted_model.generations] == ["any"] * 4


async def test_a_rule_goes_before_the_order(
    scripted_model: ScriptedModel, http: httpx.AsyncClient
) -> None:
    scripted_model.script(Reply.text("in order"))
    scripted_model.when(lambda r: r.json.get("stream") is False, Reply.text("by rule"))
    whole = await http.post("/api/chat", json=ASK | {"stream": False})
    assert whole.json()["message"]["content"] == "by rule"
    assert (await told(http))[0]["message"]["content"] == "in"


async def test_thoughts_and_tool_calls_have_lines_of_their_own(
    scripted_model: ScriptedModel, http: httpx.AsyncClient
) -> None:
    scripted_model.script(Reply.calls(("weather", {"city": "Paris"}), thinking=("hm",)))
    thought, called, last = await told(http)
    assert thought["message"]["thinking"] == "hm"
    (call,) = called["message"]["tool_calls"]
    assert call == {"function": {"name": "weather", "arguments": {"city": "Paris"}}}
    assert last["done_reason"] == "stop"


async def test_failures_before_the_stream_have_their_status(
    scripted_model: ScriptedModel, http: httpx.AsyncClient
) -> None:
    scripted_model.script(Reply.busy(), Reply.failure(500, "llama runner process has terminated"))
    busy = await http.post("/api/chat", json=ASK)
    assert (busy.status_code, "server busy" in busy.json()["error"]) == (503, True)
    assert (await http.post("/api/chat", json=ASK)).status_code == 500


async def test_faults_come_after_the_frames(
    scripted_model: ScriptedModel, http: httpx.AsyncClient
) -> None:
    some = Reply.many(3)
    scripted_model.script(*(some.but(fault=fault) for fault in Fault if fault is not Fault.HANG))
    assert list((await told(http))[3]) == ["error"]
    with pytest.raises(httpx.RemoteProtocolError):
        await told(http)
    with pytest.raises(json.JSONDecodeError):
        await told(http)
    assert [line["done"] for line in await told(http)] == [False] * 3


async def test_a_hang_up_is_seen_at_once(
    scripted_model: ScriptedModel, http: httpx.AsyncClient
) -> None:
    scripted_model.script(Reply.many(2, fault=Fault.HANG))
    async with http.stream("POST", "/api/chat", json=ASK) as answer:
        async for _ in answer.aiter_lines():
            break
    left_at_s = time.monotonic()
    (record,) = scripted_model.generations
    await scripted_model.until(lambda: record.hung_up)
    assert record.hung_up_at_s is not None
    assert record.hung_up_at_s - left_at_s < 2
    assert record.frames_sent == 2


async def test_an_answer_that_was_read_to_its_end_is_no_hang_up(
    scripted_model: ScriptedModel, http: httpx.AsyncClient
) -> None:
    await told(http)
    await http.aclose()
    await asyncio.sleep(0.05)
    (record,) = scripted_model.generations
    assert record.ended
    assert not record.hung_up


async def test_it_stops_listening_and_listens_again_on_its_port(
    scripted_model: ScriptedModel, http: httpx.AsyncClient
) -> None:
    assert (await http.get("/")).status_code == 200
    scripted_model.stop_listening()
    with pytest.raises(httpx.ConnectError):
        await http.get("/")
    scripted_model.listen_again()
    assert (await http.get("/")).text == "Ollama is running"


async def test_a_thousand_frames_come_whole(
    scripted_model: ScriptedModel, http: httpx.AsyncClient
) -> None:
    scripted_model.script(Reply.many(1000))
    lines = await told(http)
    assert len(lines) == 1001
    assert lines[-1]["eval_count"] == 1000


def test_it_runs_as_a_process_of_its_own() -> None:
    command = [sys.executable, "-m", "local.services.scripted", "--port", "0", "--frames", "5"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        host = process.stdout.readline().strip()
        answer = httpx.post(f"{host}/api/chat", json=ASK)
        process.terminate()
    assert len(answer.text.splitlines()) == 6

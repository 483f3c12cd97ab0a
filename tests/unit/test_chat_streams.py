"""A chat over HTTP: its frames, its silences, its ends, and what is left behind (nothing)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from local.services import ScriptedModel
from local.services.script import Fault, Reply
from tests.unit.chat_site import CHAT, ChatSite, chat_site, frames, said


@pytest.fixture
async def site(postgres_dsn: str, scripted_model: ScriptedModel) -> AsyncIterator[ChatSite]:
    brisk: dict[str, Any] = {"keep_alive_s": 0.3, "slot_wait_s": 1.0, "ollama_max_inflight": 2}
    async with chat_site(postgres_dsn, scripted_model.host, **brisk) as site:
        yield site


async def test_a_stream_is_numbered_deltas_then_the_end_then_done(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.text("one two", prompt_tokens=9))
    async with site.client() as client:
        answer = await client.post("/chat/stream", json=CHAT)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["x-request-id"]
    assert answer.headers["ratelimit"].startswith('"default";r=')
    assert answer.text.startswith(
        'id: 1\ndata: {"delta": "one"}\n\nid: 2\ndata: {"delta": " two"}\n\nid: 3\ndata: {"fin'
    )
    *_, end, done = frames(answer.text)
    assert done == "[DONE]"
    assert end["finish_reason"] == "stop"
    assert end["usage"]["prompt_tokens"] == 9
    assert end["usage"]["total_tokens"] == 11
    await site.until_no_slot_is_taken()


async def test_the_json_answer_holds_the_whole_text(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.text("all of it", thinking=("hm",), done_reason="length"))
    async with site.client() as client:
        answer = (await client.post("/chat", json=CHAT)).json()
    assert answer["output"] == "all of it"
    assert answer["thinking"] == "hm"
    assert answer["finish_reason"] == "length"
    assert answer["model"] == "smollm2:135m"
    await site.until_no_slot_is_taken()


async def test_frames_arrive_while_the_model_still_generates(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.many(40, delay_s=0.03))
    at: list[float] = []
    async with site.client() as client, client.stream("POST", "/chat/stream", json=CHAT) as got:
        began = time.monotonic()
        async for line in got.aiter_lines():
            if line.startswith("data: {"):
                at.append(time.monotonic() - began)
    assert at[-1] - at[0] >= 0.8 * 40 * 0.03
    assert at[0] <= 0.1 * 40 * 0.03


async def test_the_conversation_and_the_options_reach_the_model(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    said_before = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Ünï 🎉"},
    ]
    asked = {"messages": said_before, "model": "other:7b", "options": {"seed": 3, "top_p": 1}}
    async with site.client() as client:
        assert (await client.post("/chat", json=asked)).status_code == 200
    seen = scripted_model.generations[0].json
    assert seen["messages"][0]["role"] == "system"
    assert seen["messages"][1:] == said_before
    assert seen["model"] == "other:7b"
    assert seen["options"] == {"seed": 3, "top_p": 1}


async def test_a_reader_that_leaves_stops_the_generation_and_frees_the_slot(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.many(5000, delay_s=0.01))
    async with site.client() as client, client.stream("POST", "/chat/stream", json=CHAT) as got:
        await anext(got.aiter_lines())
    await scripted_model.until(lambda: scripted_model.generations[0].hung_up)
    await site.until_no_slot_is_taken()


async def test_a_reader_that_leaves_before_the_first_token_stops_it_too(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.text("late", first_delay_s=30))
    async with site.client() as client:
        asking = asyncio.create_task(client.post("/chat", json=CHAT))
        await scripted_model.until(lambda: scripted_model.generations)
        asking.cancel()
        await asyncio.wait({asking})
    await scripted_model.until(lambda: scripted_model.generations[0].hung_up)
    await site.until_no_slot_is_taken()


async def test_a_silent_model_is_covered_by_comments(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.text("late", first_delay_s=1.0))
    async with site.client() as client, client.stream("POST", "/chat/stream", json=CHAT) as got:
        assert got.status_code == 200
        text = "".join([piece async for piece in got.aiter_text()])
    assert text.startswith(": keep-alive\n\n: keep-alive\n\n")
    assert said(text) == "late"
    assert frames(text)[-1] == "[DONE]"


@pytest.mark.parametrize("path", ["/chat", "/chat/stream"])
@pytest.mark.parametrize(
    ("reply", "status", "code"),
    [
        (Reply.busy(), 503, "model_busy"),
        (Reply.failure(500, "killed"), 503, "model_unavailable"),
        (Reply.failure(400, "no images here"), 400, "model_refused"),
        (Reply.failure(404, "model 'x' not found"), 404, "model_not_found"),
    ],
)
async def test_what_fails_early_has_its_own_status(
    site: ChatSite, scripted_model: ScriptedModel, path: str, reply: Reply, status: int, code: str
) -> None:
    scripted_model.script(reply)
    async with site.client() as client:
        answer = await client.post(path, json=CHAT)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == f"urn:lambent:problem:{code}"
    assert ("retry-after" in answer.headers) == (status == 503)
    assert answer.headers["ratelimit"]
    await site.until_no_slot_is_taken()


async def test_what_fails_late_is_an_error_event_without_done(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.text("one two", fault=Fault.BREAK))
    async with site.client() as client:
        answer = await client.post("/chat/stream", json=CHAT)
    assert answer.status_code == 200
    assert said(answer.text) == "one two"
    assert "id: 3\nevent: error\ndata: " in answer.text
    assert "[DONE]" not in answer.text
    failed = frames(answer.text)[-1]
    assert failed["type"] == "urn:lambent:problem:model_unavailable"
    assert failed["instance"].endswith(answer.headers["x-request-id"])
    await site.until_no_slot_is_taken()


async def test_a_failure_after_the_comments_is_an_error_event(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.failure(500, "killed", first_delay_s=0.5))
    async with site.client() as client:
        answer = await client.post("/chat/stream", json=CHAT)
    assert answer.status_code == 200
    assert answer.text.startswith(": keep-alive\n\nid: 1\nevent: error\n")


async def test_a_turn_waits_for_a_slot_and_gets_it(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    scripted_model.default = Reply.many(10, delay_s=0.05)
    async with site.client() as client:
        answers = await asyncio.gather(*(client.post("/chat/stream", json=CHAT) for _ in range(3)))
    assert all(frames(answer.text)[-1] == "[DONE]" for answer in answers)
    places = [one for answer in answers for one in frames(answer.text) if "position" in one]
    assert {"position": 1, "estimated_wait_s": 1.0} in places
    await site.until_no_slot_is_taken()


async def test_no_slot_in_time_says_the_place_in_the_queue(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    scripted_model.default = Reply.many(500, delay_s=0.02)
    async with site.client() as client:
        holders = [asyncio.create_task(client.post("/chat", json=CHAT)) for _ in range(2)]
        await scripted_model.until(lambda: len(scripted_model.generations) == 2)
        late = await client.post("/chat", json=CHAT)
        for holder in holders:
            holder.cancel()
        await asyncio.wait(holders)
    assert late.status_code == 503
    assert late.json()["type"] == "urn:lambent:problem:no_slot"
    assert (late.json()["position"], late.json()["estimated_wait_s"]) == (1, 1.0)
    assert int(late.headers["retry-after"]) >= 1
    await site.until_no_slot_is_taken()


async def test_a_runtime_that_ends_the_turn_lets_it_say_so_and_cancelling_leaves_no_slot(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    """As before a function's deadline: the disconnect comes first, the cancellation soon after."""
    scripted_model.script(Reply.many(5000, delay_s=0.01))
    sent: list[bytes] = []
    body = [{"type": "http.request", "body": json.dumps(CHAT).encode(), "more_body": False}]
    deadline = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if body:
            return body.pop()
        await deadline.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    key = [(b"authorization", f"Bearer {site.key}".encode())]
    scope = {"type": "http", "method": "POST", "path": "/chat/stream", "headers": key}
    running = asyncio.create_task(site.app(scope, receive, send))
    await scripted_model.until(lambda: b"delta" in b"".join(sent))
    deadline.set()
    await asyncio.sleep(0.05)
    running.cancel()
    await asyncio.wait({running})
    assert b"event: error" in sent[-1]
    assert b"[DONE]" not in b"".join(sent)
    assert await site.slots_taken() == 0

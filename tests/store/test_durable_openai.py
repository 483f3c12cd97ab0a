"""OpenAI's clients and the turns of durable agents: an idempotency key tells one in their words."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from lambent.chat.idempotency import KeyStatus
from lambent.clock import EPOCH
from lambent.engine.model import RUNS
from local.services import ScriptedModel
from local.services.script import Reply
from tests.store.durable_site import Function

KEY = {"idempotency-key": "order-66"}
SAID: Any = [{"role": "user", "content": "Do it."}]
COMPLETION: Any = {"model": "agent:clerk", "messages": SAID, "stream": True}
RESPONSE: Any = {"model": "agent:clerk", "input": "Do it.", "stream": True}
ROUTES = [("/v1/chat/completions", COMPLETION), ("/v1/responses", RESPONSE)]
both_routes = pytest.mark.parametrize(("path", "body"), ROUTES)
WORDS = " ".join(f"word{n}" for n in range(20))


def slow() -> Reply:
    return Reply(frames=tuple(re.findall(r"\s*\S+", WORDS)), delay_s=0.1)


def text_of(told: str) -> str:
    """What a stream in either of OpenAI's dialects says."""
    text = ""
    for data in re.findall(r"^data: ({.*)$", told, re.M):
        match json.loads(data):
            case {"choices": [{"delta": {"content": str(more)}}]}:
                text += more
            case {"type": "response.output_text.delta", "delta": more}:
                text += more
    return text


def without_comments(text: str) -> str:
    return "".join(line for line in text.splitlines(True) if not line.startswith(":"))


def last_id(told: str) -> str:
    return re.findall(r"^id: (\d+)$", told, re.M)[-1]


async def read(lines: AsyncIterator[str], *, until: str) -> str:
    """Whole events up to the first that says so, or to where the stream ends."""
    told = ""
    async for line in lines:
        told += f"{line}\n"
        if not line and until in told:
            break
    return told


@asynccontextmanager
async def asked(
    at: Function, path: str, body: Any, *, after: str | None = None
) -> AsyncIterator[httpx.Response]:
    headers = KEY if after is None else {**KEY, "last-event-id": after}
    async with at.client() as client, client.stream("POST", path, json=body, headers=headers) as a:
        assert a.status_code == 200, await a.aread()
        yield a


async def whole(at: Function, path: str, body: Any, *, after: str | None = None) -> httpx.Response:
    async with asked(at, path, body, after=after) as answer:
        await answer.aread()
        return answer


async def until_key(one: Function, status: KeyStatus) -> None:
    async with asyncio.timeout(30):
        keys = one.parts.mongo.db["idempotency"]
        while not await keys.find_one({"status": status.value}):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def lapse_keys(one: Function) -> None:
    """As if who answers had been dead for a while."""
    await one.parts.mongo.db["idempotency"].update_many({}, {"$set": {"lease_until": EPOCH}})


async def runs(one: Function) -> int:
    return await one.parts.mongo.db[RUNS.collection].count_documents({})


async def test_the_official_client_reads_a_finished_turn_again_in_its_own_types(
    pair: list[Function], scripted_model: ScriptedModel
) -> None:
    scripted_model.default = Reply.calls(("note", {"word": "a"}))
    scripted_model.script(*[Reply.calls(("note", {"word": "a"})), Reply.text(WORDS)] * 2)
    usage: Any = {"stream_options": {"include_usage": True}}
    told: list[list[Any]] = [[], []]
    for at in (pair[0], pair[1], pair[0]):
        async with AsyncOpenAI(
            base_url=f"{at.url}/v1", api_key=at.key, max_retries=0, default_headers=KEY
        ) as client:
            chunks = await client.chat.completions.create(**COMPLETION, **usage)
            told[0].append([chunk.model_dump() async for chunk in chunks])
            key = {"idempotency-key": "order-67"}
            events = await client.responses.create(**RESPONSE, extra_headers=key)
            told[1].append([event.model_dump() async for event in events])
    for first, second, third in told:
        assert first == second == third
    assert told[0][0][-1]["usage"]["completion_tokens"] > 0
    assert told[1][0][-1]["type"] == "response.completed"
    assert told[1][0][-1]["response"]["output"][0]["content"][0]["text"] == WORDS
    assert await runs(pair[0]) == 2


@both_routes
async def test_a_retry_follows_a_live_turn_elsewhere_in_openais_words(
    pair: list[Function], scripted_model: ScriptedModel, path: str, body: Any
) -> None:
    scripted_model.script(slow())
    one, two = pair
    async with asked(one, path, body) as first:
        lines = first.aiter_lines()
        begun = await read(lines, until="word3")
        second = await whole(two, path, body)
        here = await whole(one, path, body, after=last_id(begun))
        rest = await read(lines, until="nothing says so")
    assert second.headers["idempotency-replayed"] == "true"
    assert second.headers["x-stream-id"] == first.headers["x-stream-id"]
    assert "content-location" not in second.headers
    assert text_of(second.text) == WORDS
    assert without_comments(second.text) == without_comments(begun + rest)
    assert without_comments(begun + here.text) == without_comments(second.text)


@both_routes
@pytest.mark.parametrize("lapsed", [False, True], ids=["at once", "once the key's claim lapsed"])
async def test_a_dead_functions_turn_goes_on_behind_the_last_event(
    pair: list[Function], scripted_model: ScriptedModel, path: str, body: Any, lapsed: bool
) -> None:
    scripted_model.default = slow()
    one, two = pair
    async with asked(one, path, body) as first:
        before = await read(first.aiter_lines(), until="word3")
        await one.die()
        if lapsed:
            await lapse_keys(one)
        after = await whole(two, path, body, after=last_id(before))
    numbers = re.findall(r"^id: (\d+)$", before + after.text, re.M)
    assert numbers == [str(n + 1) for n in range(len(numbers))]
    assert text_of(before + after.text).startswith("word0 word1 word2 word3")
    again = await whole(two, path, body)
    assert without_comments(before + after.text) == without_comments(again.text)
    assert await runs(one) == 1


@both_routes
async def test_a_telling_that_breaks_off_is_gone_on_with_behind_its_last_event(
    pair: list[Function], scripted_model: ScriptedModel, path: str, body: Any
) -> None:
    scripted_model.script(slow(), slow())
    one, two = pair
    async with asked(one, path, body) as first:
        lines = first.aiter_lines()
        before = await read(lines, until="word3")
        one.parts.chats.stop()
        before += await read(lines, until="nothing says so")
    await until_key(one, KeyStatus.FAILED)
    again = await whole(two, path, body, after=last_id(before))
    wholly = await whole(one, path, body)
    ends = [number for number in re.findall(r"^id: (\d+)$", wholly.text, re.M)]
    seen = re.findall(r"^id: (\d+)$", before + again.text, re.M)
    assert seen == ends
    assert text_of(before + again.text) == text_of(wholly.text)


@both_routes
async def test_after_a_failure_the_key_tells_a_new_turn_from_its_first_event(
    pair: list[Function], scripted_model: ScriptedModel, path: str, body: Any
) -> None:
    scripted_model.script(Reply.failure(400, "no"), Reply.text("Now."))
    one, two = pair
    async with one.client() as client:
        assert (await client.post(path, json=body, headers=KEY)).status_code == 400
    assert text_of((await whole(two, path, body, after="9")).text) == "Now."


async def test_the_stream_of_such_a_turn_is_read_in_the_platforms_words_wherever_it_is_told(
    pair: list[Function], scripted_model: ScriptedModel
) -> None:
    scripted_model.script(slow())
    async with asked(pair[0], *ROUTES[0]) as first:
        await read(first.aiter_lines(), until="word3")
        told = []
        for at in pair:
            async with at.client() as client:
                told.append(
                    (await client.get(f"/chat/streams/{first.headers['x-stream-id']}")).text
                )
    assert without_comments(told[0]) == without_comments(told[1])
    assert told[0].startswith('id: 1\ndata: {"delta": "word0"}')


@both_routes
async def test_such_a_turn_is_stopped_where_it_is_told(
    pair: list[Function], scripted_model: ScriptedModel, path: str, body: Any
) -> None:
    scripted_model.script(Reply.many(3000, delay_s=0.05))
    async with asked(pair[0], path, body) as told, pair[0].client() as other:
        lines = told.aiter_lines()
        await read(lines, until="delta")
        done = await other.delete(f"/chat/streams/{told.headers['x-stream-id']}")
        assert done.status_code == 202
        rest = await read(lines, until="nothing says so")
    assert "stopped on request" in rest
    assert (await pair[0].until_run("cancelled", "completed", "failed"))["status"] == "cancelled"


async def test_a_response_that_its_client_deleted_does_not_come_back(
    pair: list[Function], scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.text("Once."))
    first = await whole(pair[0], *ROUTES[1])
    (id,) = set(re.findall(r"resp_\w+", first.text))
    async with pair[0].client() as client:
        assert (await client.get(f"/v1/responses/{id}")).status_code == 200
        assert (await client.delete(f"/v1/responses/{id}")).status_code == 200
        again = await whole(pair[1], *ROUTES[1])
        assert text_of(again.text) == "Once."
        assert (await client.get(f"/v1/responses/{id}")).status_code == 404


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_who_succeeds_an_owner_that_died_once_the_response_was_kept_finds_it_kept(
    pair: list[Function], scripted_model: ScriptedModel, stream: bool
) -> None:
    scripted_model.script(Reply.text("Once."))
    body = {**RESPONSE, "stream": stream}
    first = await whole(pair[0], "/v1/responses", body)
    await until_key(pair[0], KeyStatus.ANSWERED)
    # That is what the owner did not come to.
    undone = {"status": "running", "answer": None, "stream": None, "lease_until": EPOCH}
    db = pair[0].parts.mongo.db
    await db["idempotency"].update_many({}, {"$set": undone})
    again = await whole(pair[1], "/v1/responses", body)
    assert without_comments(again.text) == without_comments(first.text)
    assert '"store":true' in again.text
    assert await runs(pair[0]) == 1
    assert await db["responses"].count_documents({}) == 1

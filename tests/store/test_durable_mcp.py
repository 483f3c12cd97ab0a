"""Durable agents with tools of a real MCP server: a call is a step, and a person may be asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from lambent.setting_values import McpServer
from local.services import ScriptedModel
from local.services.script import Reply
from tests.store.durable_site import Function, frames, functions
from tests.store.mcp_process import McpProcess
from tests.store.test_durable_turns import WORDS, going_on, read
from tests.unit.chat_site import said

ASK = {"agent": "keeper", "input": "Do it."}


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[McpProcess]:
    server = McpProcess(tmp_path / "shelf").start()
    yield server
    server.kill()


@pytest.fixture
async def pair(
    postgres_dsn: str, mongo_uri: str, mongo_db_name: str, scripted_model: ScriptedModel,
    shelf: McpProcess,
) -> AsyncIterator[list[Function]]:  # fmt: skip
    async with functions(
        2, postgres_dsn, mongo_uri, mongo_db_name, scripted_model.host,
        agent_modules=("tests.store.mcp_agents",), mcp_servers=(McpServer("shelf", shelf.url),),
    ) as made:  # fmt: skip
        yield made


def outcomes(text: str) -> list[Any]:
    return [one["tool_result"]["content"] for one in frames(text) if "tool_result" in one]


async def test_a_finished_call_is_not_made_again_though_function_and_server_die(
    pair: list[Function], scripted_model: ScriptedModel, shelf: McpProcess
) -> None:
    first, second = pair
    scripted_model.script(Reply.calls(("shelf__note", {"word": "x"})), going_on, going_on)
    async with first.client() as client, client.stream("POST", "/chat/stream", json=ASK) as answer:
        turn = answer.headers["x-stream-id"]
        before = await read(answer.aiter_lines(), until="word9")
        await first.die()
    shelf.kill()
    last = [line[4:] for line in before if line.startswith("id: ")][-1]
    async with second.client() as client:
        headers = {"last-event-id": last}
        after = (await client.get(f"/chat/streams/{turn}", headers=headers)).text
    assert said("\n".join(before)) + said(after) == WORDS
    assert shelf.said("notes") == f"x {turn}/0.0\n"
    offers = [one.json["tools"] for one in scripted_model.generations]
    assert offers[0] == offers[2], "what the turn began with, from its record"
    await second.until_run("completed")


async def test_a_call_that_was_cut_off_is_made_again_under_its_name(
    pair: list[Function], scripted_model: ScriptedModel, shelf: McpProcess
) -> None:
    first, second = pair
    scripted_model.script(
        Reply.calls(("shelf__note", {"word": "x", "wait_s": 2})), Reply.text("Noted.")
    )
    async with first.client() as client, client.stream("POST", "/chat/stream", json=ASK) as answer:
        turn = answer.headers["x-stream-id"]
        async with asyncio.timeout(20):
            while not shelf.said("notes"):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await first.die()
    async with second.client() as client:
        text = (await client.get(f"/chat/streams/{turn}")).text
    assert (outcomes(text), said(text)) == (["noted x"], "Noted.")
    assert shelf.said("notes") == f"x {turn}/0.0\n" * 2


async def test_a_person_is_asked_about_what_the_agent_says(
    pair: list[Function], scripted_model: ScriptedModel, shelf: McpProcess
) -> None:
    place = pair[0]
    scripted_model.script(
        Reply.calls(("shelf__add", {"left": "much"})),
        Reply.calls(("shelf__add", {"left": 4, "right": 5})),
        Reply.text("Nine."),
    )
    async with place.client() as client:
        answer = (await client.post("/chat", json=ASK)).json()
    assert answer["finish_reason"] == "waiting"
    (call,) = answer["waiting"]
    assert (call["name"], call["arguments"]) == ("shelf__add", {"left": 4, "right": 5})
    assert "tools/call" not in shelf.requests(), "neither the bad one, nor the one not approved"
    await place.until_run("waiting")
    # Whoever goes on need not reach the server to know that a person was asked.
    assert (await place.post(call["approve"], {"approve": True})).status_code == 202
    async with place.client() as client:
        text = (await client.get(f"/chat/streams/{answer['id']}")).text
    wrong, sum_ = outcomes(text)
    assert "The arguments are not valid: left: 'much' is not of type 'integer'" in wrong
    assert (sum_, said(text)) == ("9", "Nine.")
    assert shelf.requests().count("tools/call") == 1

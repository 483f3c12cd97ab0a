"""Tools of a real MCP server in chats: what the model is told of them, and what goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lambent.agents.mcp_servers import McpServers, TurnCalls
from lambent.agents.mcp_tools import tool_name
from lambent.agents.tools import ToolFailed
from lambent.clock import SystemClock
from lambent.rotation import RotatingSecret
from lambent.setting_values import McpServer
from local.services import ScriptedModel
from local.services.script import Reply
from tests.store.durable_site import Function, frames, functions
from tests.store.mcp_process import McpProcess
from tests.unit.chat_site import said


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, McpProcess]]:
    """One of each age: they take seconds to start."""
    folder = tmp_path_factory.mktemp("mcp")
    made = {era: McpProcess(folder / era, era=era).start() for era in ("auto", "legacy")}
    yield made
    for one in made.values():
        one.kill()


@pytest.fixture
def shelf(standing: dict[str, McpProcess]) -> McpProcess:
    return standing["auto"].fresh()


@pytest.fixture
def old_shelf(standing: dict[str, McpProcess]) -> McpProcess:
    """One that knows sessions."""
    return standing["legacy"].fresh()


@pytest.fixture
async def place(
    postgres_dsn: str, mongo_uri: str, mongo_db_name: str, scripted_model: ScriptedModel,
    shelf: McpProcess,
) -> AsyncIterator[Function]:  # fmt: skip
    async with functions(
        1, postgres_dsn, mongo_uri, mongo_db_name, scripted_model.host,
        agent_modules=("tests.store.mcp_agents",), mcp_servers=(McpServer("shelf", shelf.url),),
    ) as made:  # fmt: skip
        yield made[0]


async def turn(place: Function, agent: str = "reader") -> str:
    async with place.client() as client:
        answer = await client.post("/chat/stream", json={"agent": agent, "input": "Do it."})
    return answer.text


def results(text: str) -> list[Any]:
    return [one["tool_result"] for one in frames(text) if "tool_result" in one]


def servers(
    server: McpProcess, tokens: str = "", look_up: Callable[[], str | None] | None = None
) -> McpServers:
    clock = SystemClock()
    secret = RotatingSecret("MCP_TOKENS", tokens, clock=clock, look_up=look_up)
    return McpServers([McpServer("shelf", server.url)], secret, clock=clock)


async def test_a_servers_tools_are_offered_and_called(
    place: Function, scripted_model: ScriptedModel, shelf: McpProcess
) -> None:
    scripted_model.script(
        Reply.calls(("shelf__add", {"left": 1, "right": 2}), ("own", {"word": "hi"})),
        Reply.text("3."),
    )
    text = await turn(place)
    assert [(one["content"], one["failed"]) for one in results(text)] == [
        ("3", False),
        ("hi", False),
    ]
    assert said(text) == "3."
    offers = [one["function"] for one in scripted_model.generations[0].json["tools"]]
    assert [one["name"] for one in offers[:2]] == ["own", "shelf__add"]
    assert offers[1]["description"] == "Add two numbers."
    properties = {"left": {"type": "integer"}, "right": {"default": 1, "type": "integer"}}
    parameters = offers[1]["parameters"]
    assert (parameters["properties"], parameters["required"]) == (properties, ["left"])


async def test_what_a_server_has_is_asked_once_for_many_turns(
    place: Function, scripted_model: ScriptedModel, shelf: McpProcess
) -> None:
    scripted_model.default = Reply.text("Hm.")
    await asyncio.gather(*(turn(place) for _ in range(4)))
    await turn(place)
    assert shelf.requests().count("tools/list") == 1
    assert "tools/call" not in shelf.requests()


@pytest.mark.parametrize(
    ("name", "arguments", "told", "failed"),
    [
        ("shelf__weigh", {"thing": "abc"}, '"grams": 3', False),
        ("shelf__fail", {}, "Error executing tool fail", True),
        ("shelf__add", {"left": "x"}, "Input should be a valid integer", True),
        ("shelf__big", {"size": 100_000}, "[cut: 60000 characters more]", False),
        ("shelf__big", {"size": 5_000_000}, "answered with more than 4000000 bytes", True),
        ("shelf__mixed", {}, "[image, image/png, 12 bytes; it is not shown]", False),
        ("shelf__mixed", {}, "[resource plan: file:///plan.pdf]", False),
        ("shelf__mixed", {}, "a memo", False),
        (tool_name("shelf", "files/read.all"), {}, "all", False),
    ],
)
async def test_any_result_is_told_in_words(
    place: Function,
    scripted_model: ScriptedModel,
    name: str,
    arguments: Any,
    told: str,
    failed: bool,
) -> None:
    scripted_model.script(Reply.calls((name, arguments)), Reply.text("So."))
    text = await turn(place)
    (result,) = results(text)
    assert told in result["content"]
    assert (result["failed"], said(text)) == (failed, "So.")
    assert told in scripted_model.generations[1].json["messages"][-1]["content"]


async def test_a_tool_that_hangs_ends_its_call_and_only_what_is_named_is_offered(
    place: Function, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(
        Reply.calls(("shelf__hang", {}), ("shelf__note", {"word": "a"}), ("shelf__add", {})),
        Reply.text("Too slow."),
    )
    text = await turn(place, "hasty")
    hung, noted, unknown = (one["content"] for one in results(text))
    assert hung == "The tool took longer than 0.5 s and was given up."
    assert noted == "noted a"
    assert "There is no tool 'shelf__add'; there are: shelf__hang, shelf__note." in unknown
    assert said(text) == "Too slow."


async def test_without_its_server_a_turn_goes_on(
    place: Function, scripted_model: ScriptedModel, shelf: McpProcess
) -> None:
    shelf.kill()
    scripted_model.default = Reply.text("I cannot.")
    assert said(await turn(place)) == "I cannot."
    told = scripted_model.generations[0].json
    assert [one["function"]["name"] for one in told["tools"]] == ["own"]
    note = "The MCP server shelf: it does not answer (ConnectError)."
    assert note in told["messages"][-1]["content"]


async def test_a_server_that_goes_away_is_a_failed_call(
    place: Function, scripted_model: ScriptedModel, shelf: McpProcess
) -> None:
    scripted_model.script(Reply.text("Hm."), Reply.calls(("shelf__add", {"left": 1})))
    scripted_model.default = Reply.text("It is away.")
    await turn(place)
    shelf.kill()
    text = await turn(place)
    assert results(text)[0]["content"] == "The MCP server shelf: it does not answer (ConnectError)."
    assert said(text) == "It is away."


@pytest.mark.parametrize("kind", ["shelf", "old_shelf"])
async def test_a_server_killed_in_a_call_ends_that_call(
    request: pytest.FixtureRequest, kind: str
) -> None:
    server: McpProcess = request.getfixturevalue(kind)
    calls = TurnCalls(servers(server))
    calling = asyncio.create_task(
        calls.call("shelf", "note", {"word": "late", "wait_s": 30}, id="T/0.0")
    )
    async with asyncio.timeout(15):
        while not server.said("notes"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    server.kill()
    with pytest.raises(ToolFailed, match="Whether the call took effect is not known"):
        await calling
    server.start()
    # Not made again by itself, and the turn's next call finds the server.
    assert await calls.call("shelf", "add", {"left": 1}, id="T/0.1") == "2"
    assert server.said("notes") == "late T/0.0\n"
    await calls.close()


async def test_a_session_that_the_server_forgot_is_opened_anew(old_shelf: McpProcess) -> None:
    calls = TurnCalls(servers(old_shelf))
    told = [await calls.call("shelf", "count", {}, id="T") for _ in range(2)]
    old_shelf.kill()
    old_shelf.start()
    told += await asyncio.gather(*(calls.call("shelf", "count", {}, id="T") for _ in range(3)))
    await calls.close()
    assert told[:2] == ["1", "2"]
    assert sorted(told[2:]) == ["1", "2", "3"]
    assert old_shelf.requests().count("initialize") == 2


async def test_a_session_is_one_turns_alone(old_shelf: McpProcess) -> None:
    there = servers(old_shelf)
    one, other = TurnCalls(there), TurnCalls(there)
    assert [await calls.call("shelf", "count", {}, id="T") for calls in (one, other, one)] == [
        "1",
        "1",
        "2",
    ]
    await one.close()
    await other.close()
    assert old_shelf.requests().count("DELETE") == 2


async def test_a_rotated_token_is_taken_up_and_a_wrong_one_told(shelf: McpProcess) -> None:
    (shelf.folder / "token").write_text("new")
    rotated = TurnCalls(servers(shelf, "shelf=old", lambda: "shelf=new"))
    assert await rotated.call("shelf", "add", {"left": 1}, id="T") == "2"
    await rotated.close()
    wrong = TurnCalls(servers(shelf, "shelf=old"))
    with pytest.raises(ToolFailed, match=r"refuses this platform \(HTTP 401\)"):
        await wrong.call("shelf", "add", {"left": 1}, id="T")
    await wrong.close()


async def test_nobody_is_followed_to_another_place(shelf: McpProcess, tmp_path: Path) -> None:
    elsewhere = McpProcess(tmp_path / "elsewhere").start()
    try:
        (shelf.folder / "moved").write_text(elsewhere.url)
        calls = TurnCalls(servers(shelf, "shelf=secret"))
        with pytest.raises(ToolFailed, match="not followed"):
            await calls.call("shelf", "add", {"left": 1}, id="T")
        await calls.close()
    finally:
        elsewhere.kill()
    assert elsewhere.requests() == []

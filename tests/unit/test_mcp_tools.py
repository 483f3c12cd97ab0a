"""What MCP servers are called, which of their tools are offered, and that others pay nothing."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from lambent.agents.agent import agent
from lambent.agents.mcp_tools import Listing, McpTools, RemoteTool, listed, tool_name, tools_of
from lambent.agents.registry import AgentRegistry
from lambent.agents.tool_agent import ToolAgent
from lambent.agents.tool_calls import fits
from lambent.agents.tools import ToolFailed, tool
from lambent.errors import ConfigError
from lambent.setting_values import McpServer
from lambent.settings import load_settings
from tests.unit.test_settings import REQUIRED

OBJECT: dict[str, Any] = {"type": "object", "properties": {"n": {"type": "integer"}}}


def test_a_name_is_kept_where_models_servers_take_it() -> None:
    assert tool_name("crm", "find_one-2") == "crm__find_one-2"
    assert tool_name("c" * 24, "x" * 38) == f"{'c' * 24}__{'x' * 38}"


@pytest.mark.parametrize("name", ["a/b", "a.b", "a b", "naïve", "x" * 39, "x" * 200, ""])
def test_any_other_name_is_made_one_that_no_second_tool_gets(name: str) -> None:
    made = tool_name("c" * 24, name)
    assert len(made) <= 64
    assert made.isascii()
    assert made != tool_name("c" * 24, f"{name}!")
    assert made == tool_name("c" * 24, name)


def test_what_a_model_cannot_be_told_is_left_out_and_named() -> None:
    found, left_out = listed(
        [
            ("good", "d" * 9000, {**OBJECT, "title": "T"}),
            ("good", "again", OBJECT),
            ("list", "", {"type": "array"}),
            ("odd", "", {"properties": {"any": True, "n": {"type": "integer"}}}),
            ("huge", "", {**OBJECT, "description": "x" * 20_000}),
        ]
    )
    assert [one.name for one in found] == ["good", "odd"]
    assert left_out == ["good", "list", "huge"]
    assert len(found[0].description) == 4000
    assert found[0].parameters == OBJECT
    assert found[1].parameters["properties"] == {"any": {}, "n": {"type": "integer"}}
    many = listed([(f"t{n}", "", OBJECT) for n in range(100)])
    assert [len(part) for part in many] == [64, 36]


class _Calls:
    def __init__(self) -> None:
        self.made: list[str] = []

    async def call(self, server: str, name: str, arguments: Any, *, id: str) -> str:
        self.made.append(name)
        return "done"


async def test_what_a_person_is_to_approve_goes_no_further_with_wrong_arguments() -> None:
    calls = _Calls()
    wanted = McpTools(server="crm", only=("add", "drop"), needs_approval=("drop",))
    listing = Listing(tuple(RemoteTool(name, "", OBJECT) for name in ("add", "drop", "other")))
    add, drop = tools_of(wanted, Listing.of(listing.record()), calls)
    assert (add.needs_approval, drop.needs_approval) == (False, True)
    context: Any = None
    wrong = "n: 'x' is not of type 'integer'"
    with pytest.raises(ToolFailed, match=wrong):
        drop.check({"n": "x"})
    with pytest.raises(ToolFailed, match=wrong):
        await drop.run({"n": "x"}, context)
    assert calls.made == []


def test_a_schema_that_points_elsewhere_is_not_followed() -> None:
    schema = {"type": "object", "properties": {"n": {"$ref": "http://127.0.0.1:9/schema"}}}
    (tool,) = tools_of(
        McpTools(server="crm", needs_approval=True),
        Listing((RemoteTool("add", "", schema),)),
        _Calls(),
    )
    with pytest.raises(ToolFailed, match="cannot be checked"):
        tool.check({"n": 1})


@pytest.mark.parametrize(
    "part",
    [
        {"type": "string", "pattern": r"^\p{L}+$"},
        {"type": "string", "pattern": "(?<year>[0-9]+)"},
        {"type": "date-time"},
        {"$ref": "#/properties/n"},
    ],
)
def test_a_schema_that_cannot_be_checked_ends_the_call_not_the_turn(part: dict[str, Any]) -> None:
    schema = {"type": "object", "properties": {"n": part}}
    (tool,) = tools_of(
        McpTools(server="crm", needs_approval=True),
        Listing((RemoteTool("add", "", schema),)),
        _Calls(),
    )
    assert not fits(tool, {"n": "x"})
    with pytest.raises(ToolFailed, match="cannot be checked"):
        tool.check({"n": "x"})


@tool
async def crm__find() -> str:
    """Find."""
    return ""


def test_an_agent_names_servers_that_there_are() -> None:
    @agent("a", description="", mcp=["crm", "docs"])
    class AAgent(ToolAgent): ...

    @agent("b", description="", mcp=[McpTools(server="crm", needs_approval=True)])
    class BAgent(ToolAgent): ...

    @agent("c", description="", mcp=["crm", McpTools(server="crm")], tools=[crm__find])
    class CAgent(ToolAgent): ...

    with pytest.raises(ConfigError) as caught:
        AgentRegistry([AAgent, BAgent, CAgent], mcp_servers=["crm"])
    told = "; ".join(caught.value.problems)
    for wrong in (
        "names the MCP server 'docs', and MCP_SERVERS does not",
        "is not durable, so nobody can approve tools of crm",
        "names an MCP server twice",
        "has crm__find, names that are the MCP server crm's",
    ):
        assert wrong in told


def test_servers_and_tokens_are_read() -> None:
    settings = load_settings(
        {
            **REQUIRED,
            "MCP_SERVERS": "docs=https://mcp.example.com/mcp?x=1, crm=http://10.0.0.5:8000/mcp",
            "MCP_TOKENS": "crm=abc=, docs=d",
        }
    )
    assert settings.mcp_servers == (
        McpServer("docs", "https://mcp.example.com/mcp?x=1"),
        McpServer("crm", "http://10.0.0.5:8000/mcp"),
    )
    assert "abc" not in repr(settings)


@pytest.mark.parametrize(
    ("servers", "tokens", "told"),
    [
        ("docs", "", "must be name=value pairs"),
        ("Docs=https://h/mcp", "", "must name a server by a-z"),
        ("a__b=https://h/mcp", "", "must name a server by a-z"),
        ("a=https://h/mcp,a=https://i/mcp", "", "names a again"),
        ("a=ftp://h/mcp", "", "must give a an http(s) address"),
        ("a=https://me@h/mcp", "", "must not give a a user name"),
        ("a=https://h/mcp", "b=x", "MCP_TOKENS has a token for b"),
        ("a=http://h.example.com/mcp", "a=x", "must be https:// where the token of a is sent"),
        ("a=https://h/mcp", "hunter2", "must be name=value pairs"),
    ],
)
def test_what_is_wrong_with_servers_is_said(servers: str, tokens: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings({**REQUIRED, "MCP_SERVERS": servers, "MCP_TOKENS": tokens})
    assert told in "; ".join(caught.value.problems)
    assert "hunter2" not in str(caught.value)


def test_who_names_no_server_never_loads_the_package() -> None:
    code = (
        "import sys\n"
        "from lambent.app import Platform\n"
        "from lambent.settings import load_settings\n"
        "import lambent.agents.tool_agent, lambent.agents.durable, lambent.http.chat_app\n"
        f"parts = Platform(load_settings({REQUIRED!r}))\n"
        "parts.chats, parts.durable_chats, parts.engine, parts.mcp\n"
        "heavy = {'mcp', 'httpx2', 'jsonschema', 'cryptography', 'uvicorn'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

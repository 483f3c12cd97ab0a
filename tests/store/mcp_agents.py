"""Agents that take tools of the MCP server `shelf`."""

from __future__ import annotations

from lambent.agents.agent import agent
from lambent.agents.mcp_tools import McpTools
from lambent.agents.tool_agent import ToolAgent
from lambent.agents.tools import tool


@tool
async def own(word: str) -> str:
    """Say a word."""
    return word


@agent("reader", description="Reads.", tools=[own], mcp=["shelf"], rounds=4)
class ReaderAgent(ToolAgent):
    system = "You read."


@agent(
    "hasty",
    description="Does not wait.",
    mcp=[McpTools(server="shelf", only=("hang", "note"), timeout_s=0.5)],
)
class HastyAgent(ToolAgent): ...


@agent(
    "keeper",
    description="Keeps notes.",
    tools=[own],
    mcp=[McpTools(server="shelf", needs_approval=("add",), at_most_once=("hang",), timeout_s=20)],
    durable=True,
)
class KeeperAgent(ToolAgent): ...

"""An agent that takes the tools of the MCP server `shelf`."""

from __future__ import annotations

from lambent.agents.agent import agent
from lambent.agents.tool_agent import ToolAgent


@agent("librarian", description="Keeps notes.", mcp=["shelf"], durable=True)
class LibrarianAgent(ToolAgent): ...

"""An agent with a memory, for the tests."""

from __future__ import annotations

from lambent.agents.agent import agent
from lambent.agents.builtin_tools import recall, remember
from lambent.agents.tool_agent import ToolAgent


@agent("diary", description="Remembers.", tools=[remember, recall])
class DiaryAgent(ToolAgent):
    system = "You keep a diary."

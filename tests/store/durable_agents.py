"""Durable agents for the tests; every call of a tool that takes effect is noted in `MADE`."""

from __future__ import annotations

import asyncio
from typing import Any

from lambent.agents.agent import agent
from lambent.agents.builtin_tools import remember
from lambent.agents.tool_agent import ToolAgent
from lambent.agents.tool_context import ToolContext
from lambent.agents.tools import tool

MADE: list[tuple[str, Any]] = []


@tool
async def note(word: str, context: ToolContext) -> str:
    """Note a word."""
    MADE.append((context.turn, word))
    return f"noted {word}"


@tool(needs_approval=True)
async def pay(amount: int, context: ToolContext) -> str:
    """Pay an amount."""
    MADE.append((context.turn, amount))
    return f"paid {amount}"


@tool(at_most_once=True)
async def stall(context: ToolContext) -> str:
    """Begin, and never come to an end."""
    MADE.append((context.turn, "stall"))
    await asyncio.Event().wait()
    return ""


@tool
async def start(workflow: str, context: ToolContext) -> str:
    """Start a workflow."""
    if context.runs is None:
        return "not allowed"
    return await context.runs.start(workflow, {}, key=f"{context.turn}/{context.call}")


@tool
async def say(type: str, subject: str, context: ToolContext) -> str:
    """Publish an event."""
    done = await context.publish(type, {"approve": True}, subject=subject)
    return "said" if done else "not allowed"


@agent("clerk", description="Notes.", tools=[note, pay, stall, start, say], durable=True, rounds=6)
class ClerkAgent(ToolAgent):
    system = "You are a clerk."


@agent("diarist", description="Remembers.", tools=[remember], durable=True)
class DiaristAgent(ToolAgent):
    system = "You keep a diary."

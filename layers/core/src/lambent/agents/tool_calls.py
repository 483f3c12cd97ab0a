"""Runs the tool calls of a model: whatever a tool does ends its call, never the turn."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from lambent.agents.tool_context import ToolContext
from lambent.agents.tools import Tool
from lambent.errors import LambentError
from lambent.models.values import Message, Role, ToolCall
from lambent.telemetry import log_fields, logger

# More is no help to a model, and would push its question out of its window.
_MOST_CHARACTERS: Final = 40_000
# Of a round's calls: a model may ask for any number of them.
AT_ONCE: Final = 4


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """A tool is being called; `id` names the call within its turn."""

    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolEnded:
    """What a call came to, as the model is told."""

    id: str
    name: str
    content: str
    failed: bool = False


@dataclass(frozen=True, slots=True)
class ApprovalAwaited:
    """A call that goes on only once a person has decided."""

    id: str
    name: str
    arguments: Mapping[str, Any]
    run: str


async def run_tool(tools: Mapping[str, Tool], call: ToolCall, context: ToolContext) -> ToolEnded:
    """The call's result, or in words why there is none; raises nothing but what unwinds."""
    id = context.call
    tool = tools.get(call.name)
    if tool is None:
        known = ", ".join(tools) or "none"
        text = f"There is no tool {call.name[:100]!r}; there are: {known}."
        return ToolEnded(id, call.name[:100], text, failed=True)
    try:
        value = await _within(tool, call.arguments, context)
        return ToolEnded(id, tool.name, as_text(value))
    except TimeoutError:
        text = f"The tool took longer than {tool.timeout_s:g} s and was given up."
        return ToolEnded(id, tool.name, text, failed=True)
    except LambentError as error:
        return ToolEnded(id, tool.name, as_text(error.detail), failed=True)
    except Exception as error:  # an author's code is an edge: it may raise anything
        fields = log_fields(turn=context.turn, tool=tool.name)
        logger().exception("A tool failed", exc_info=error, **fields)
        text = f"The tool failed ({type(error).__name__})."
        return ToolEnded(id, tool.name, text, failed=True)


def fits(tool: Tool, arguments: Mapping[str, Any]) -> bool:
    """Whether the tool would take the arguments: nobody is asked about a call that it would not."""
    try:
        tool.check(arguments)
    except Exception:  # an author's code is an edge; making the call tells what is wrong
        return False
    return True


def as_text(value: Any) -> str:
    """A result as the model reads it: text as it is, anything else as JSON, cut where too long."""
    if isinstance(value, str):
        text = value
    else:
        from pydantic_core import to_json

        text = to_json(value, fallback=str, inf_nan_mode="strings").decode()
    if len(text) <= _MOST_CHARACTERS:
        return text
    return f"{text[:_MOST_CHARACTERS]}\n[cut: {len(text) - _MOST_CHARACTERS} characters more]"


def answer_to(call: ToolCall, ended: ToolEnded) -> Message:
    """The message that tells the model."""
    return Message(role=Role.tool, content=ended.content, tool_name=call.name, tool_call_id=call.id)


async def _within(tool: Tool, arguments: Mapping[str, Any], context: ToolContext) -> Any:
    task = asyncio.ensure_future(tool.run(arguments, context))
    try:
        # Not `wait_for`: a tool that swallows its cancellation would hold up the turn.
        done, _ = await asyncio.wait({task}, timeout=tool.timeout_s)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if not done:
        task.add_done_callback(_look_at)
        task.cancel()
        raise TimeoutError
    if task.cancelled():
        raise TimeoutError
    return task.result()


def _look_at(task: asyncio.Future[Any]) -> None:
    # What was given up has nobody left to tell.
    if not task.cancelled():
        task.exception()

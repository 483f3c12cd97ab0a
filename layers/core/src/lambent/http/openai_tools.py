"""Tools of OpenAI requests: offered to the model, or called by force through structured output.

A model server only knows "here are tools". `tool_choice` "required" or a name is kept by asking
for an answer in the shape of that call: the model cannot write anything else, and what it writes
becomes the call's arguments. It works with models that were not trained on tools, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from lambent.http.openai_errors import BadParam
from lambent.http.openai_shapes import (
    a_flag,
    a_list,
    a_name,
    a_text,
    an_object,
    one_of,
    only,
)
from lambent.models.values import Message, Role

_MOST_TOOLS: Final = 128
_NO_PARAMETERS: Final[Mapping[str, Any]] = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the client offers; `parameters` is a JSON schema."""

    name: str
    description: str
    parameters: Mapping[str, Any]

    @property
    def schema(self) -> dict[str, Any]:
        """What a forced call is read from: that of an object, also where the client's says nothing.

        No `properties` beside an `allOf`: of the two, the model server would keep the former.
        """
        return {"type": "object", **(self.parameters or _NO_PARAMETERS)}

    def offered(self) -> dict[str, Any]:
        """As the model server takes it."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": {**_NO_PARAMETERS, **self.parameters},
        }
        return {"type": "function", "function": function}


class Mode(StrEnum):
    """How free the model is to call."""

    none = "none"
    auto = "auto"
    required = "required"
    named = "named"


@dataclass(frozen=True, slots=True)
class ToolPlan:
    """What becomes of the tools: `offered` to the model, or one of `forced` called for certain."""

    offered: tuple[Tool, ...] = ()
    forced: tuple[Tool, ...] = ()
    named: bool = False
    parallel: bool = True

    def format(self) -> Mapping[str, Any] | None:
        """The schema of the answer that a forced call is read from."""
        if len(self.forced) < 2:
            return self.forced[0].schema if self.forced else None
        calls = []
        definitions = {}
        for number, tool in enumerate(self.forced):
            # A schema that moves inside another one takes its own references along.
            definitions[f"tool_{number}"] = _moved(tool.schema, f"#/$defs/tool_{number}")
            call = {
                "name": {"const": tool.name},
                "arguments": {"$ref": f"#/$defs/tool_{number}"},
            }
            calls.append({"type": "object", "properties": call, "required": ["name", "arguments"]})
        return {"anyOf": calls, "$defs": definitions}

    def told(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The messages, with what a forced call needs the model to know in the system's."""
        if not self.forced:
            return messages
        told = _instruction(self.forced)
        if messages and messages[0].role is Role.system:
            first = messages[0]
            joined = f"{first.content}\n\n{told}" if first.content else told
            return (replace(first, content=joined), *messages[1:])
        return (Message(role=Role.system, content=told), *messages)


def plan_tools(
    tools: tuple[Tool, ...],
    choice: tuple[Mode, frozenset[str] | None],
    *,
    parallel: bool,
) -> ToolPlan:
    """`choice` is the mode and the names that it is limited to, None for all."""
    mode, names = choice
    chosen = tuple(tool for tool in tools if names is None or tool.name in names)
    if names is not None and (missing := names - {tool.name for tool in tools}):
        raise BadParam(f"tool_choice names no tool: {min(missing)!r}.", param="tool_choice")
    if mode in {Mode.required, Mode.named} and not chosen:
        raise BadParam("tool_choice asks for a call, and there are no tools.", param="tool_choice")
    match mode:
        case Mode.none:
            return ToolPlan()
        case Mode.auto:
            return ToolPlan(offered=chosen, parallel=parallel)
        case Mode.required | Mode.named:
            return ToolPlan(forced=chosen, named=mode is Mode.named, parallel=parallel)


def read_tools(value: Any) -> tuple[Tool, ...]:
    """The `tools` of a chat completion: functions, each within `function`."""
    return tuple(
        _read_tool(one, f"tools[{number}]")
        for number, one in enumerate(a_list(value, "tools", most=_MOST_TOOLS))
    )


def _read_tool(value: Any, at: str) -> Tool:
    tool = an_object(value, at)
    one_of(tool.get("type"), {"function"}, f"{at}.type")
    only(tool, {"type", "function"}, at)
    return read_function(an_object(tool.get("function"), f"{at}.function"), f"{at}.function")


def read_function(function: Mapping[str, Any], at: str) -> Tool:
    """Name, description, parameters; `strict` holds for forced calls, which are exact anyway."""
    only(function, {"name", "description", "parameters", "strict"}, at)
    a_flag(function.get("strict"), f"{at}.strict")
    parameters = function.get("parameters")
    return Tool(
        a_name(function.get("name"), f"{at}.name"),
        a_text(function.get("description") or "", f"{at}.description"),
        _NO_PARAMETERS if parameters is None else an_object(parameters, f"{at}.parameters"),
    )


def read_choice(value: Any) -> tuple[Mode, frozenset[str] | None]:
    """The `tool_choice` of a chat completion."""
    if value is None or isinstance(value, str):
        return Mode(one_of(value or "auto", {"none", "auto", "required"}, "tool_choice")), None
    choice = an_object(value, "tool_choice")
    kind = one_of(choice.get("type"), {"function", "allowed_tools"}, "tool_choice.type")
    only(choice, {"type", kind}, "tool_choice")
    inner = an_object(choice.get(kind), f"tool_choice.{kind}")
    if kind == "function":
        only(inner, {"name"}, "tool_choice.function")
        return Mode.named, frozenset({a_name(inner.get("name"), "tool_choice.function.name")})
    at = "tool_choice.allowed_tools"
    only(inner, {"mode", "tools"}, at)
    mode = Mode(one_of(inner.get("mode"), {"auto", "required"}, f"{at}.mode"))
    listed = a_list(inner.get("tools"), f"{at}.tools", most=_MOST_TOOLS)
    return mode, frozenset(_allowed(one, f"{at}.tools[{n}]") for n, one in enumerate(listed))


def _allowed(value: Any, at: str) -> str:
    tool = an_object(value, at)
    one_of(tool.get("type"), {"function"}, f"{at}.type")
    function = an_object(tool.get("function"), f"{at}.function")
    return a_name(function.get("name"), f"{at}.function.name")


def _moved(schema: Any, root: str) -> Any:
    match schema:
        case dict():
            return {
                name: f"{root}{value[1:]}"
                if name == "$ref" and isinstance(value, str) and value.startswith("#")
                else _moved(value, root)
                for name, value in schema.items()
            }
        case list():
            return [_moved(one, root) for one in schema]
        case _:
            return schema


def _instruction(forced: tuple[Tool, ...]) -> str:
    if len(forced) == 1:
        return (
            f"Call the tool now that is described here:\n{_described(forced[0])}\n"
            "Answer with one JSON object that holds its arguments, and with nothing else."
        )
    described = "\n".join(_described(tool) for tool in forced)
    return (
        f"Call one of these tools now:\n{described}\n"
        'Answer with {"name": <the tool>, "arguments": {...}}, and with nothing else.'
    )


def _described(tool: Tool) -> str:
    return json.dumps(tool.offered()["function"], ensure_ascii=False)

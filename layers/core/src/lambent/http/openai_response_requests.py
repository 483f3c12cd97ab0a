"""The body of `POST /v1/responses`: its fields, its limits, and what they ask of a turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from lambent.chat.values import ChatRequest
from lambent.http.openai_errors import Unsupported
from lambent.http.openai_fields import IDLE_RESPONSES, IDLE_WITHIN, REFUSED_RESPONSES, settle
from lambent.http.openai_requests import checked, plan_for_agent, read_effort, read_schema, which
from lambent.http.openai_response_items import read_input
from lambent.http.openai_shapes import a_list, a_name, a_text, an_object, one_of, only
from lambent.http.openai_tools import Mode, Tool, ToolPlan, plan_tools, read_function
from lambent.models.values import Message, Role

_MOST_TOOLS: Final = 128


class ResponseBody(BaseModel):
    """The fields with an effect."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    model: Annotated[str, Field(min_length=1, max_length=200)]
    input: Any
    instructions: Any = None
    stream: bool = False
    previous_response_id: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    store: bool = True
    metadata: Any = None
    max_output_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: bool = True
    text: Any = None
    reasoning: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseAsked:
    """A response as asked. `request` has only the `said` messages and the instructions yet.

    `echo` is what the answer repeats of the request.
    """

    request: ChatRequest
    instructions: tuple[Message, ...]
    said: tuple[Message, ...]
    plan: ToolPlan
    model: str
    stream: bool
    store: bool
    previous: str | None
    echo: Mapping[str, Any]


def parse_response(value: Any) -> ResponseAsked:
    """Raises `BadParam` and its kin, each with the place in `param`."""
    record = an_object(value, "body")
    body: ResponseBody = checked(
        ResponseBody, settle(record, idle=IDLE_RESPONSES, refused=REFUSED_RESPONSES)
    )
    tools = _read_tools(body.tools)
    plan = plan_tools(tools, _read_choice(body.tool_choice), parallel=body.parallel_tool_calls)
    format = _read_format(body.text)
    if format is not None and (plan.offered or plan.forced):
        raise Unsupported(
            "text.format and tools do not go together: the model server would keep the model "
            "from calling. Send tool_choice none, or no format.",
            param="text.format",
        )
    agent, model = which(body.model)
    if agent is not None:
        plan = plan_for_agent(plan, format, format_name="text.format")
    said = read_input(body.input, alone=body.previous_response_id is None)
    request = ChatRequest(
        agent=agent,
        messages=said,
        model=model,
        options=_options(body),
        tools=tuple(tool.offered() for tool in plan.offered),
        format=plan.format() if format is None else format,
        whole=True,
        think=_read_reasoning(body.reasoning),
    )
    return ResponseAsked(
        request=request,
        instructions=_read_instructions(body.instructions),
        said=said,
        plan=plan,
        model=body.model,
        stream=body.stream,
        store=body.store,
        previous=body.previous_response_id,
        echo=_echo(body, tools),
    )


def _read_instructions(value: Any) -> tuple[Message, ...]:
    if value is None or value == "":
        return ()
    return (Message(role=Role.system, content=a_text(value, "instructions")),)


def _read_tools(value: Any) -> tuple[Tool, ...]:
    if value is None:
        return ()
    tools = []
    for number, one in enumerate(a_list(value, "tools", most=_MOST_TOOLS)):
        at = f"tools[{number}]"
        tool = an_object(one, at)
        kind = tool.get("type")
        if kind != "function" and isinstance(kind, str):
            raise Unsupported(
                f"{at}.type {kind[:60]!r} is not supported: there are functions only, and agents.",
                param=f"{at}.type",
            )
        one_of(kind, {"function"}, f"{at}.type")
        tools.append(read_function({k: v for k, v in tool.items() if k != "type"}, at))
    return tuple(tools)


def _read_choice(value: Any) -> tuple[Mode, frozenset[str] | None]:
    at = "tool_choice"
    if value is None or isinstance(value, str):
        return Mode(one_of(value or "auto", {"none", "auto", "required"}, at)), None
    choice = an_object(value, at)
    if one_of(choice.get("type"), {"function", "allowed_tools"}, f"{at}.type") == "function":
        only(choice, {"type", "name"}, at)
        return Mode.named, frozenset({a_name(choice.get("name"), f"{at}.name")})
    only(choice, {"type", "mode", "tools"}, at)
    mode = Mode(one_of(choice.get("mode"), {"auto", "required"}, f"{at}.mode"))
    listed = a_list(choice.get("tools"), f"{at}.tools", most=_MOST_TOOLS)
    return mode, frozenset(_allowed(one, f"{at}.tools[{n}]") for n, one in enumerate(listed))


def _allowed(value: Any, at: str) -> str:
    tool = an_object(value, at)
    one_of(tool.get("type"), {"function"}, f"{at}.type")
    return a_name(tool.get("name"), f"{at}.name")


def _read_format(value: Any) -> str | Mapping[str, Any] | None:
    if value is None:
        return None
    text = an_object(value, "text")
    only(text, {"format", "verbosity"}, "text")
    if text.get("verbosity") not in (None, "medium"):
        raise Unsupported(
            "text.verbosity is not supported: ask for it in the prompt.", param="text.verbosity"
        )
    if text.get("format") is None:
        return None
    at = "text.format"
    format = an_object(text["format"], at)
    kind = one_of(format.get("type"), {"text", "json_object", "json_schema"}, f"{at}.type")
    if kind == "json_schema":
        return read_schema(format, at)
    only(format, {"type"}, at)
    return "json" if kind == "json_object" else None


def _read_reasoning(value: Any) -> bool | str | None:
    if value is None:
        return None
    reasoning = an_object(value, "reasoning")
    only(reasoning, {"effort", *IDLE_WITHIN["reasoning"]}, "reasoning")
    return read_effort(reasoning.get("effort"), "reasoning.effort")


def _options(body: ResponseBody) -> dict[str, Any]:
    options = {
        "temperature": body.temperature,
        "top_p": body.top_p,
        "num_predict": body.max_output_tokens,
    }
    return {name: value for name, value in options.items() if value is not None}


def _echo(body: ResponseBody, tools: tuple[Tool, ...]) -> dict[str, Any]:
    metadata = {} if body.metadata is None else an_object(body.metadata, "metadata")
    for name, value in metadata.items():
        a_text(value, f"metadata.{name[:64]}", most=512)
    told = [
        {
            "type": "function",
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
            "strict": False,
        }
        for tool in tools
    ]
    text = body.text or {}
    reasoning = body.reasoning or {}
    return {
        "background": False,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": metadata,
        "parallel_tool_calls": body.parallel_tool_calls,
        "previous_response_id": body.previous_response_id,
        "reasoning": {"effort": reasoning.get("effort"), "summary": None},
        "service_tier": "default",
        "temperature": body.temperature,
        "text": {"format": text.get("format") or {"type": "text"}},
        "tool_choice": body.tool_choice or "auto",
        "tools": told,
        "top_p": body.top_p,
        "truncation": "disabled",
    }

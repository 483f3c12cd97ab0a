"""The body of `POST /v1/chat/completions`: its fields, its limits, and what they ask of a turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lambent.chat.values import ChatRequest
from lambent.http.openai_errors import BadParam, MissingParam, UnknownParam, Unsupported
from lambent.http.openai_fields import IDLE_CHAT, IDLE_WITHIN, REFUSED_CHAT, settle
from lambent.http.openai_messages import read_messages
from lambent.http.openai_shapes import a_flag, a_list, a_name, a_text, an_object, one_of, only
from lambent.http.openai_tools import ToolPlan, plan_tools, read_choice, read_tools

AGENT_PREFIX: Final = "agent:"
# What a client calls it, and what the model server takes; levels beyond its own become the nearest.
_EFFORTS: Final[Mapping[str, bool | str]] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
_MOST_STOPS: Final = 16

_Share = Annotated[float, Field(ge=0, le=1)]
_Penalty = Annotated[float, Field(ge=-2, le=2)]
_Tokens = Annotated[int, Field(ge=1, le=1_000_000)]


class CompletionBody(BaseModel):
    """The fields with an effect. The last ones, from `top_k` on, are Ollama's own."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    model: Annotated[str, Field(min_length=1, max_length=200)]
    messages: Any
    stream: bool = False
    stream_options: Any = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: _Share | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Any = None
    max_tokens: _Tokens | None = None
    max_completion_tokens: _Tokens | None = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: bool = True
    response_format: Any = None
    reasoning_effort: Any = None
    top_k: Annotated[int, Field(ge=0, le=100_000)] | None = None
    min_p: _Share | None = None
    repeat_penalty: Annotated[float, Field(ge=0, le=10)] | None = None
    repeat_last_n: Annotated[int, Field(ge=-1, le=1_048_576)] | None = None
    num_ctx: Annotated[int, Field(ge=1, le=1_048_576)] | None = None
    num_keep: Annotated[int, Field(ge=-1, le=1_048_576)] | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A chat completion as asked: the turn, and how its answer is to be told."""

    request: ChatRequest
    model: str
    plan: ToolPlan
    stream: bool
    include_usage: bool


def parse_completion(value: Any, *, max_num_ctx: int) -> Asked:
    """Raises `BadParam` and its kin, each with the place in `param`.

    `max_num_ctx`: the largest window in tokens that may be asked for.
    """
    record = an_object(value, "body")
    body = checked(CompletionBody, settle(record, idle=IDLE_CHAT, refused=REFUSED_CHAT))
    if (body.num_ctx or 0) > max_num_ctx:
        said = f"num_ctx is at most {max_num_ctx} here: the operator's MAX_NUM_CTX."
        raise BadParam(said, param="num_ctx")
    tools = () if body.tools is None else read_tools(body.tools)
    plan = plan_tools(tools, read_choice(body.tool_choice), parallel=body.parallel_tool_calls)
    format = _read_format(body.response_format)
    if format is not None and (plan.offered or plan.forced):
        raise Unsupported(
            "response_format and tools do not go together: the model server would keep the model "
            "from calling. Send tool_choice none, or no response_format.",
            param="response_format",
        )
    agent, model = which(body.model)
    if agent is not None:
        plan = plan_for_agent(plan, format, format_name="response_format")
    messages = read_messages(body.messages)
    request = ChatRequest(
        agent=agent,
        model=model,
        messages=plan.told(messages),
        options=_options(body),
        tools=tuple(tool.offered() for tool in plan.offered),
        format=plan.format() if format is None else format,
        whole=True,
        think=read_effort(body.reasoning_effort, "reasoning_effort"),
    )
    return Asked(request, body.model, plan, body.stream, _read_stream_options(body))


def checked(body: Callable[..., BaseModel], record: Mapping[str, Any]) -> Any:
    """The record as such a body; raises `BadParam` and its kin instead of pydantic's error."""
    try:
        return body.model_validate(record)  # type: ignore[attr-defined]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    # The name of an unknown field is the caller's own text, of any length.
    param = str(first["loc"][0])[:60]
    match first["type"]:
        case "missing":
            raise MissingParam(f"You must provide {param}.", param=param)
        case "extra_forbidden":
            raise UnknownParam(f"Unknown parameter: {param!r}.", param=param)
        case _:
            raise BadParam(f"{param}: {first['msg']}.", param=param)


def which(model: str) -> tuple[str | None, str | None]:
    """The agent, or the model, that a name stands for."""
    if model.startswith(AGENT_PREFIX):
        return model.removeprefix(AGENT_PREFIX), None
    return None, model


def read_effort(value: Any, at: str) -> bool | str | None:
    """How much the model shall think, as the model server takes it."""
    return None if value is None else _EFFORTS[one_of(value, _EFFORTS, at)]


def read_schema(value: Any, at: str) -> Mapping[str, Any]:
    """A named JSON schema; the model server's grammar keeps it, `strict` or not."""
    named = an_object(value, at)
    only(named, {"type", "name", "description", "schema", "strict"}, at)
    a_name(named.get("name"), f"{at}.name")
    a_flag(named.get("strict"), f"{at}.strict")
    return an_object(named.get("schema"), f"{at}.schema")


def _read_format(value: Any) -> str | Mapping[str, Any] | None:
    if value is None:
        return None
    format = an_object(value, "response_format")
    kinds = {"text", "json_object", "json_schema"}
    kind = one_of(format.get("type"), kinds, "response_format.type")
    only(format, {"type", "json_schema"}, "response_format")
    match kind:
        case "json_schema":
            return read_schema(format.get("json_schema"), "response_format.json_schema")
        case "json_object":
            return "json"
        case _:
            return None


def plan_for_agent(plan: ToolPlan, format: object, *, format_name: str) -> ToolPlan:
    """An agent has tools of its own: what is merely offered, as chat clients do, it leaves alone.

    Raises `Unsupported` for what only the model itself can be made to do.
    """
    for name, asked in (("tool_choice", plan.forced), (format_name, format is not None)):
        if asked:
            raise Unsupported(
                f"{name} is not supported for an agent: it decides that itself.", param=name
            )
    return ToolPlan()


def _read_stream_options(body: CompletionBody) -> bool:
    if body.stream_options is None:
        return False
    at = "stream_options"
    if not body.stream:
        raise BadParam(f"{at} is only allowed when stream is true.", param=at)
    options = an_object(body.stream_options, at)
    only(options, {"include_usage", *IDLE_WITHIN["stream_options"]}, at)
    return a_flag(options.get("include_usage"), f"{at}.include_usage")


def _options(body: CompletionBody) -> dict[str, Any]:
    most, older = body.max_completion_tokens, body.max_tokens
    if most is not None and older is not None and most != older:
        raise BadParam(
            "max_tokens and max_completion_tokens say different things.", param="max_tokens"
        )
    options = {
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "min_p": body.min_p,
        "repeat_penalty": body.repeat_penalty,
        "repeat_last_n": body.repeat_last_n,
        "num_ctx": body.num_ctx,
        "num_keep": body.num_keep,
        "frequency_penalty": body.frequency_penalty,
        "presence_penalty": body.presence_penalty,
        # Below zero would mean "by chance" to the model server, and it has 32 bits for it.
        "seed": None if body.seed is None else body.seed % 2**31,
        "num_predict": most or older,
        "stop": _read_stop(body.stop),
    }
    return {name: value for name, value in options.items() if value is not None}


def _read_stop(value: Any) -> list[str] | None:
    if value is None:
        return None
    if isinstance(value, str):
        return [a_text(value, "stop", most=1000)] if value else None
    listed = a_list(value, "stop", most=_MOST_STOPS)
    return [
        a_text(one, f"stop[{n}]", most=1000) for n, one in enumerate(listed) if one != ""
    ] or None

"""Reads the bodies of Ollama's routes, and refuses them in Ollama's words."""

import json
from dataclasses import dataclass
from typing import Any

from local.model_server import durations
from local.model_server.prompts import Message
from local.model_server.wire import Route

GO_KINDS: dict[type, str] = {
    bool: "bool",
    int: "number",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}
GO_TYPES: dict[type, str] = {str: "string", bool: "bool"}
GO_FIELDS = {
    "messages": "[]api.Message",
    "tools": "api.Tools",
    "options": "map[string]interface {}",
    "context": "[]int",
}


def _no_number(name: str) -> object:
    raise ValueError(f"invalid character '{name[0]}' looking for beginning of value")


class Refused(Exception):
    """A request that is answered with `status` and Ollama's `{"error": message}`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Body:
    """A request's JSON object, read with types."""

    def __init__(self, raw: bytes, kind: str) -> None:
        if not raw.strip():
            raise Refused(400, "missing request body")
        try:
            value = json.loads(raw, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise Refused(400, f"invalid request body: {error}") from error
        if not isinstance(value, dict):
            found = GO_KINDS.get(type(value), "null")
            problem = f"json: cannot unmarshal {found} into Go value of type api.{kind}"
            raise Refused(400, problem)
        self._kind = kind
        self.value: dict[str, Any] = value

    def get(self, name: str, kind: type, default: Any = None) -> Any:
        """The field, or `default` where it is absent or null; Refused for another type."""
        value = self.value.get(name)
        if value is None:
            return default
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise misfit(value, f"{self._kind}.{name}", GO_TYPES.get(kind) or GO_FIELDS[name])
        return value

    def keep_alive_s(self) -> float | None:
        if (value := self.value.get("keep_alive")) is None:
            return None
        try:
            return durations.seconds(value)
        except ValueError as error:
            raise Refused(400, str(error)) from error


def misfit(value: object, field: str, wanted: str) -> Refused:
    """What Go's JSON decoder says of a value of a wrong type."""
    found = GO_KINDS.get(type(value), "null")
    where = f"Go struct field {field} of type {wanted}"
    return Refused(400, f"json: cannot unmarshal {found} into {where}")


@dataclass(frozen=True, slots=True)
class Generation:
    """What a request to one of the two generating routes asks for."""

    route: Route
    model: str
    stream: bool
    options: dict[str, Any]
    form: object
    keep_alive_s: float | None
    messages: tuple[Message, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    prompt: str = ""
    raw: bool = False
    context: tuple[int, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Nothing to say: only loads, or with a `keep_alive` of zero unloads, the model."""
        return not self.messages if self.route is Route.CHAT else not self.prompt


def _messages(body: Body) -> tuple[Message, ...]:
    messages = []
    for entry in body.get("messages", list, []):
        if not isinstance(entry, dict):
            raise misfit(entry, "ChatRequest.messages", "api.Message")
        said = {name: entry.get(name) or "" for name in ("role", "content")}
        for name, value in said.items():
            if not isinstance(value, str):
                raise misfit(value, f"ChatRequest.messages.{name}", "string")
        if entry.get("images"):
            raise Refused(400, "this model does not support images")
        calls = entry.get("tool_calls") or []
        if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
            raise misfit(calls, "ChatRequest.messages.tool_calls", "[]api.ToolCall")
        messages.append(Message(said["role"], said["content"], tuple(calls)))
    return tuple(messages)


def read_chat(body: Body, model: str) -> Generation:
    tools = tuple(body.get("tools", list, []))
    for tool in tools:
        offered = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(offered, dict):
            raise misfit(tool, "ChatRequest.tools", "api.Tool")
        if not isinstance(offered.get("name", ""), str):
            raise misfit(offered["name"], "ChatRequest.tools.function.name", "string")
    return Generation(
        Route.CHAT,
        model,
        stream=body.get("stream", bool, True),
        options=body.get("options", dict, {}),
        form=body.value.get("format"),
        keep_alive_s=body.keep_alive_s(),
        messages=_messages(body),
        tools=tools,
    )


def read_generate(body: Body, model: str) -> Generation:
    raw = body.get("raw", bool, False)
    prompt = body.get("prompt", str, "")
    system = body.get("system", str, "")
    context = body.get("context", list, [])
    if body.value.get("images"):
        raise Refused(400, "this model does not support images")
    if body.get("suffix", str, ""):
        raise Refused(400, f"registry.ollama.ai/library/{model} does not support insert")
    if raw and (system or context or body.get("template", str, "")):
        raise Refused(400, "raw mode does not support template, system, or context")
    said = (Message("system", system),) if system else ()
    return Generation(
        Route.GENERATE,
        model,
        stream=body.get("stream", bool, True),
        options=body.get("options", dict, {}),
        form=body.value.get("format"),
        keep_alive_s=body.keep_alive_s(),
        messages=(*said, Message("user", prompt)),
        prompt=prompt,
        raw=raw,
        context=tuple(token for token in context if isinstance(token, int)),
    )

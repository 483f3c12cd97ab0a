"""The lines, errors and timings of Ollama's API, as version 0.6.5 writes them.

Source: github.com/ollama/ollama `api/types.go` and `server/routes.go`, checked by running it.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

VERSION = "0.6.5"
RUNNING = b"Ollama is running"
NO_PAGE = b"404 page not found"
BUSY = "server busy, please try again.  maximum pending requests exceeded"

Line = dict[str, Any]


class Route(StrEnum):
    """The two routes that generate; their lines differ."""

    CHAT = "/api/chat"
    GENERATE = "/api/generate"


@dataclass(frozen=True, slots=True)
class Timings:
    """What a generation took, in nanoseconds, and its tokens."""

    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0

    def fields(self) -> Line:
        """Zeros are left out, as Go's `omitempty` does."""
        names = type(self).__dataclass_fields__
        return {name: value for name in names if (value := getattr(self, name))}


def timestamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


def _said(
    route: Route, text: str, *, thinking: str = "", tool_calls: list[Line] | None = None
) -> Line:
    match route:
        case Route.GENERATE:
            return {"response": text} | ({"thinking": thinking} if thinking else {})
        case Route.CHAT:
            message: Line = {"role": "assistant", "content": text}
            if thinking:
                message["thinking"] = thinking
            if tool_calls:
                message["tool_calls"] = tool_calls
            return {"message": message}


def piece(
    route: Route,
    model: str,
    text: str,
    *,
    thinking: str = "",
    tool_calls: list[Line] | None = None,
) -> Line:
    """One line of a stream, before its last."""
    said = _said(route, text, thinking=thinking, tool_calls=tool_calls)
    return {"model": model, "created_at": timestamp(), **said, "done": False}


def last(
    route: Route,
    model: str,
    reason: str,
    *,
    timings: Timings | None = None,
    text: str = "",
    thinking: str = "",
    tool_calls: list[Line] | None = None,
    context: list[int] | None = None,
) -> Line:
    """The line that ends a stream, or the whole answer when `stream` is false."""
    said = _said(route, text, thinking=thinking, tool_calls=tool_calls)
    line = {"model": model, "created_at": timestamp(), **said, "done_reason": reason, "done": True}
    if context:
        line["context"] = context
    return line | (timings.fields() if timings else {})


def not_found(route: str, model: str) -> Line:
    """The error of a model that is not here; its words depend on the route."""
    if route in {"/api/chat", "/api/embed", "/api/embeddings"}:
        return {"error": f'model "{model}" not found, try pulling it first'}
    return {"error": f"model '{model}' not found"}

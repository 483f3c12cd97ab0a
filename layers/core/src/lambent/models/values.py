"""What goes to a model server and what comes back, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Role(StrEnum):
    """Who said a message."""

    system = "system"
    user = "user"
    assistant = "assistant"
    tool = "tool"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model's wish to have a tool called; `id` is None where the server gives none."""

    name: str
    arguments: Mapping[str, Any]
    id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a conversation; `images` are base64 without a data-URL prefix.

    `tool_name` and `tool_call_id` belong to a `tool` message: which call it answers. `recap`: it
    is the platform's own, in place of earlier messages.
    """

    role: Role
    content: str
    images: tuple[str, ...] = ()
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_name: str | None = None
    tool_call_id: str | None = None
    recap: bool = False

    @property
    def is_rule(self) -> bool:
        """Whether it says how to answer; where one does, agents leave out their own prompt."""
        return self.role is Role.system and not self.recap


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """One generation. `options` are Ollama's; `format` is "json" or a JSON schema.

    `think` is true, false or a level ("low", "medium", "high"); None leaves it to the server.
    `keep_alive` is Ollama's: seconds, or a duration such as "5m"; -1 keeps the model loaded.
    `whole`: rather refuse the messages than leave some out.
    """

    model: str
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    format: str | Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    think: bool | str | None = None
    keep_alive: float | str | None = None
    whole: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one or several generations, and the seconds that the server spent on them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    load_s: float = 0.0
    prompt_s: float = 0.0
    generation_s: float = 0.0
    total_s: float = 0.0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            load_s=self.load_s + other.load_s,
            prompt_s=self.prompt_s + other.prompt_s,
            generation_s=self.generation_s + other.generation_s,
            total_s=self.total_s + other.total_s,
        )


@dataclass(frozen=True, slots=True)
class ModelEnd:
    """How a generation ended: "stop", "length", or what else the server calls it."""

    finish_reason: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class ModelChunk:
    """A piece of a generation; the last one has `end`."""

    content: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    end: ModelEnd | None = None


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector for each input, in their order."""

    vectors: tuple[tuple[float, ...], ...]
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A model that the server holds; `modified_at` is the server's own text (RFC 3339)."""

    name: str
    size_bytes: int
    family: str
    parameter_size: str
    quantization: str
    digest: str
    modified_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningModel:
    """A model that the server has loaded; `expires_at` is the server's own text (RFC 3339)."""

    name: str
    size_bytes: int
    vram_bytes: int
    expires_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDetails:
    """What the server tells about one model; `context_tokens` is None where it does not say."""

    name: str
    capabilities: tuple[str, ...]
    context_tokens: int | None
    family: str
    parameter_size: str
    quantization: str

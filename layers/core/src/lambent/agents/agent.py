"""What an author writes: an `Agent`, named by the `agent` decorator, that yields `Chunk`s."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from lambent.models.values import ToolCall, Usage

if TYPE_CHECKING:
    from lambent.agents.mcp_tools import McpTools
    from lambent.agents.tool_calls import ApprovalAwaited, ToolEnded, ToolStarted
    from lambent.agents.tools import Tool
    from lambent.agents.turn import Turn

_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_INFO: Final = "__agent_info__"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a part of an answer comes from."""

    title: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of an answer; `delta` is the text that follows what came before.

    `finish_reason` and `usage` come with a generation's last chunk. Passing them on is optional:
    the platform books usage by itself. `tool_calls` are for the reader to carry out; what the
    platform carries out itself is told by `tool_started`, `tool_ended` and `awaited`.
    """

    delta: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    sources: tuple[Source, ...] = ()
    tool_started: ToolStarted | None = None
    tool_ended: ToolEnded | None = None
    awaited: ApprovalAwaited | None = None
    finish_reason: str | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentInfo:
    """What is told about an agent; `model` is used where a request names none.

    `tools`, `mcp` (tools of servers) and `rounds` (of calling them) are a `ToolAgent`'s.
    `durable`: its turn is a run, which another function takes over where one dies; `version` is
    that of its workflow.
    """

    name: str
    description: str
    model: str | None = None
    examples: tuple[str, ...] = ()
    tools: tuple[Tool, ...] = ()
    mcp: tuple[McpTools, ...] = ()
    rounds: int = 8
    durable: bool = False
    version: int = 1


class Agent(ABC):
    """One instance answers one turn, so attributes are its own; it is made without arguments."""

    @abstractmethod
    def generate_stream(self, turn: Turn) -> AsyncIterator[Chunk]:
        """Answer the turn: write it as `async def` with `yield`.

        What it raises ends the stream with an error; an error of `lambent.errors` keeps its
        status, anything else becomes `AgentFailed` and goes to the log.
        """


A = TypeVar("A", bound=type[Agent])


def agent(
    name: str,
    *,
    description: str,
    model: str | None = None,
    examples: tuple[str, ...] = (),
    tools: Sequence[Tool] = (),
    mcp: Sequence[str | McpTools] = (),
    rounds: int = 8,
    durable: bool = False,
    version: int = 1,
) -> Callable[[A], A]:
    """Name an `Agent` class, so that the registry finds it in its module.

    `mcp` names servers of `MCP_SERVERS`, each as a whole or with what is wanted of it.

    Raises ValueError at import where the name is not of a-z, 0-9, `_` and `-`, or is too long.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"the agent name {name!r} must start with a-z and go on with a-z, 0-9, _ or -, "
            "64 characters at most"
        )

    def mark(cls: A) -> A:
        info = AgentInfo(
            name=name,
            description=description,
            model=model,
            examples=examples,
            tools=tuple(tools),
            mcp=_wanted(mcp),
            rounds=rounds,
            durable=durable,
            version=version,
        )
        setattr(cls, _INFO, info)
        return cls

    return mark


def _wanted(named: Sequence[str | McpTools]) -> tuple[McpTools, ...]:
    if not named:
        return ()
    from lambent.agents.mcp_tools import wanted_of

    return wanted_of(named)


def info_of(cls: type) -> AgentInfo | None:
    """The class's own metadata; a subclass is no agent until it has a name itself."""
    info = vars(cls).get(_INFO)
    return info if isinstance(info, AgentInfo) else None

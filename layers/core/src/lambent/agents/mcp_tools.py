"""Tools of MCP servers as an agent names them, and as its model may call them.

A tool `find` of the server `crm` is the model's `crm__find`. A server's descriptions are what the
operator who set it up trusts; its results are data, as a page's text is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Protocol

from lambent.agents.tools import TIMEOUT_S, Check, Run, Tool, ToolFailed, without_titles

if TYPE_CHECKING:
    from lambent.agents.tool_context import ToolContext

_NAME_LENGTH: Final = 64
_MOST_TOOLS: Final = 64
_DESCRIPTION_CHARACTERS: Final = 4000
_SCHEMA_BYTES: Final = 16_000
# All of a server's together: a durable turn keeps them in its first checkpoint.
_LISTING_BYTES: Final = 200_000
_MOST_PROBLEMS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class McpTools:
    """What an agent takes of a server that `MCP_SERVERS` names.

    `only`: these tools and no others, whatever the server adds later. `needs_approval` and
    `at_most_once` are as `tool` has them, for all or for the ones named.
    """

    server: str
    only: tuple[str, ...] | None = None
    needs_approval: bool | tuple[str, ...] = False
    at_most_once: bool | tuple[str, ...] = False
    timeout_s: float = TIMEOUT_S


@dataclass(frozen=True, slots=True)
class RemoteTool:
    """A tool as its server describes it; `parameters` is the JSON schema of an object."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Listing:
    """What a server has; `problem` says, in words, why nothing is known of it."""

    tools: tuple[RemoteTool, ...] = ()
    problem: str = ""

    def record(self) -> dict[str, Any]:
        """As a checkpoint keeps it."""
        tools = [[one.name, one.description, dict(one.parameters)] for one in self.tools]
        return {"tools": tools, "problem": self.problem}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Listing:
        """What a record stands for."""
        return cls(tuple(RemoteTool(*one) for one in record["tools"]), record["problem"])


class Calls(Protocol):
    """Makes the calls of one turn. Raises `ToolFailed`."""

    def call(
        self, server: str, name: str, arguments: Mapping[str, Any], *, id: str
    ) -> Awaitable[str]: ...


def wanted_of(named: Sequence[str | McpTools]) -> tuple[McpTools, ...]:
    """A server's name alone stands for all of its tools."""
    return tuple(McpTools(server=one) if isinstance(one, str) else one for one in named)


def tool_name(server: str, name: str) -> str:
    """What a model calls the tool: of the letters and the length that models' servers take.

    A name that has to be changed for that ends in a digest of what it was, so that no two meet.
    """
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    whole = f"{server}__{plain}"
    if plain == name and len(whole) <= _NAME_LENGTH:
        return whole
    digest = sha256(name.encode()).hexdigest()[:8]
    return f"{whole[: _NAME_LENGTH - 9]}_{digest}"


def tools_of(wanted: McpTools, listing: Listing, calls: Calls) -> list[Tool]:
    """The server's tools that the agent takes."""
    return [
        _tool(wanted, one, calls)
        for one in listing.tools
        if wanted.only is None or one.name in wanted.only
    ]


def listed(described: Sequence[tuple[str, str, Any]]) -> tuple[list[RemoteTool], list[str]]:
    """The tools that a model can be told of, and the names of those that are left out: twice the
    same name, no schema of an object, or more than fits."""
    found: dict[str, RemoteTool] = {}
    left_out: list[str] = []
    room = _LISTING_BYTES
    for name, description, schema in described:
        parameters = _parameters(schema)
        size = len(json.dumps(parameters)) if parameters is not None else 0
        if (
            parameters is None
            or name in found
            or len(found) == _MOST_TOOLS
            or size > min(_SCHEMA_BYTES, room)
        ):
            left_out.append(name)
            continue
        told = description[:_DESCRIPTION_CHARACTERS]
        room -= size + len(told.encode())
        found[name] = RemoteTool(name, told, parameters)
    return list(found.values()), left_out


def _parameters(schema: Any) -> dict[str, Any] | None:
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        return None
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        return None
    # `true` is a schema too, and model servers read objects only.
    plain = {name: one if isinstance(one, dict) else {} for name, one in properties.items() if one}
    told: dict[str, Any] = without_titles({**schema, "type": "object", "properties": plain})
    return told


def _tool(wanted: McpTools, remote: RemoteTool, calls: Calls) -> Tool:
    asks = _holds(wanted.needs_approval, remote.name)
    check = _check_of(remote.parameters)
    return Tool(
        name=tool_name(wanted.server, remote.name),
        description=remote.description,
        parameters=remote.parameters,
        run=_run_of(wanted.server, remote.name, calls, check if asks else None),
        check=check,
        timeout_s=wanted.timeout_s,
        needs_approval=asks,
        at_most_once=_holds(wanted.at_most_once, remote.name),
    )


def _holds(setting: bool | tuple[str, ...], name: str) -> bool:
    return setting if isinstance(setting, bool) else name in setting


def _run_of(server: str, name: str, calls: Calls, check: Check | None) -> Run:
    async def run(given: Mapping[str, Any], context: ToolContext) -> str:
        if check is not None:
            # Nobody was asked about arguments that do not fit: they must not get any further.
            check(given)
        return await calls.call(server, name, given, id=f"{context.turn}/{context.call}")

    return run


def _check_of(parameters: Mapping[str, Any]) -> Check:
    schema = json.dumps(parameters)

    def check(given: Mapping[str, Any]) -> None:
        try:
            wrong = list(islice(_validator(schema).iter_errors(dict(given)), _MOST_PROBLEMS))
        except Exception as error:  # a server's schema is an edge: other patterns, endless $refs
            raise ToolFailed(
                f"The arguments cannot be checked against the tool's schema "
                f"({type(error).__name__}): they must be before a person is asked."
            ) from None
        problems = [f"{_place(one)}: {one.message[:300]}" for one in wrong]
        if problems:
            raise ToolFailed(f"The arguments are not valid: {'; '.join(problems)}.")

    return check


def _place(error: Any) -> str:
    return ".".join(map(str, error.absolute_path)) or "the whole"


@lru_cache(maxsize=64)
def _validator(schema: str) -> Any:
    from jsonschema.validators import validator_for
    from referencing import Registry

    read = json.loads(schema)
    kind = validator_for(read)
    # An empty registry: a schema may point into itself, and nowhere else.
    return kind(read, registry=Registry())

"""Tools: typed async functions as a model may call them, with a JSON schema each."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, get_type_hints, overload

from lambent.agents.tool_context import ToolContext
from lambent.errors import LambentError
from lambent.structured import problems_of

if TYPE_CHECKING:
    from pydantic import BaseModel

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_ARGUMENT: Final = re.compile(r"\s*\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)")
TIMEOUT_S: Final = 30.0

Run = Callable[[Mapping[str, Any], ToolContext], Awaitable[Any]]
Check = Callable[[Mapping[str, Any]], Any]


class ToolFailed(LambentError):
    """What a tool raises to tell the model, in words, why there is no result."""

    code = "tool_failed"
    title = "A tool failed"


@dataclass(frozen=True, kw_only=True)
class Tool:
    """Something that a model may call; made by `tool`, or of an MCP server's description.

    `parameters` is the JSON schema of the arguments; `check` raises `ToolFailed` where they do not
    fit it, and so does `run`.
    `needs_approval`: only a durable agent may have it, and a person decides on each call.
    `at_most_once`: a durable agent never begins the same call twice, whatever dies.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    run: Run = field(repr=False)
    check: Check = field(repr=False)
    timeout_s: float = TIMEOUT_S
    needs_approval: bool = False
    at_most_once: bool = False

    @cached_property
    def offer(self) -> Mapping[str, Any]:
        """As the model is told of it."""
        told = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": told}


@overload
def tool(fn: Callable[..., Awaitable[Any]], /) -> Tool: ...


@overload
def tool(
    *,
    name: str | None = None,
    timeout_s: float = TIMEOUT_S,
    needs_approval: bool = False,
    at_most_once: bool = False,
) -> Callable[[Callable[..., Awaitable[Any]]], Tool]: ...


def tool(
    fn: Callable[..., Awaitable[Any]] | None = None,
    /,
    *,
    name: str | None = None,
    timeout_s: float = TIMEOUT_S,
    needs_approval: bool = False,
    at_most_once: bool = False,
) -> Tool | Callable[[Callable[..., Awaitable[Any]]], Tool]:
    """Make a tool of an async function.

    Its docstring's first part is the description; lines `name: text` under `Args:` describe the
    arguments. A parameter annotated `ToolContext` is given what the call may reach, and is not the
    model's to fill. Raises TypeError at import for a function that no schema can be made of.
    """

    def make(fn: Callable[..., Awaitable[Any]]) -> Tool:
        if not inspect.iscoroutinefunction(fn):
            raise TypeError(f"the tool {fn.__qualname__} must be an async function")
        named = name or fn.__name__
        if not _NAME.fullmatch(named):
            raise TypeError(f"the tool name {named!r} must be of A-Z a-z 0-9 _ -, 64 at most")
        description, told = read_docstring(inspect.getdoc(fn) or "")
        arguments, context_name = _arguments_of(fn, named, told)
        check = _check_of(arguments)
        return Tool(
            name=named,
            description=description,
            parameters=without_titles(arguments.model_json_schema()),
            run=_checked(fn, check, context_name),
            check=check,
            timeout_s=timeout_s,
            needs_approval=needs_approval,
            at_most_once=at_most_once,
        )

    return make if fn is None else make(fn)


def by_name(tools: Iterable[Tool]) -> dict[str, Tool]:
    """Raises ValueError where two have one name."""
    found: dict[str, Tool] = {}
    for one in tools:
        if found.setdefault(one.name, one) is not one:
            raise ValueError(f"two tools are called {one.name!r}")
    return found


def read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """The description, and what is said of each argument under `Args:`."""
    before, _, after = text.partition("\nArgs:\n")
    told: dict[str, str] = {}
    last = ""
    for line in after.splitlines():
        if line and not line.startswith(" "):
            break  # the next section
        if match := _ARGUMENT.fullmatch(line):
            last, told[match[1]] = match[1], match[2]
        elif last and line.strip():
            told[last] += f" {line.strip()}"
    return re.split(r"\n(?:Returns|Raises):\n", before)[0].strip(), told


def without_titles(schema: Any) -> Any:
    """The schema without pydantic's titles: they cost tokens and tell a model nothing."""
    if isinstance(schema, list):
        return [without_titles(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    # An argument may itself be called "title": then its value is a schema, not a text.
    return {
        name: without_titles(value)
        for name, value in schema.items()
        if not (name == "title" and isinstance(value, str))
    }


def _arguments_of(
    fn: Callable[..., Any], name: str, told: Mapping[str, str]
) -> tuple[type[BaseModel], str | None]:
    from pydantic import ConfigDict, Field, create_model

    hints = get_type_hints(fn, include_extras=True)
    fields: dict[str, Any] = {}
    context_name = None
    for parameter in inspect.signature(fn).parameters.values():
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            raise TypeError(f"the tool {name} takes *{parameter.name}, which has no schema")
        if parameter.name not in hints:
            raise TypeError(f"the argument {parameter.name} of the tool {name} has no type")
        if hints[parameter.name] is ToolContext:
            context_name = parameter.name
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        description = told.get(parameter.name)
        fields[parameter.name] = (hints[parameter.name], Field(default, description=description))
    model = create_model(
        name, __config__=ConfigDict(extra="forbid", protected_namespaces=()), **fields
    )
    return model, context_name


def _check_of(arguments: type[BaseModel]) -> Callable[[Mapping[str, Any]], BaseModel]:
    from pydantic import ValidationError

    def check(given: Mapping[str, Any]) -> BaseModel:
        try:
            return arguments.model_validate(dict(given))
        except ValidationError as error:
            raise ToolFailed(f"The arguments are not valid: {problems_of(error)}.") from None

    return check


def _checked(
    fn: Callable[..., Awaitable[Any]],
    check: Callable[[Mapping[str, Any]], BaseModel],
    context_name: str | None,
) -> Run:
    async def run(given: Mapping[str, Any], context: ToolContext) -> Any:
        checked = check(given)
        values = {name: getattr(checked, name) for name in type(checked).model_fields}
        if context_name is not None:
            values[context_name] = context
        return await fn(**values)

    return run

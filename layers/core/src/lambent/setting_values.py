"""What settings hold that is more than a text or a number, each read from its text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from lambent.model_names import canonical

_SERVER: Final = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
_SERVER_LENGTH: Final = 24
# User and password of an address, as every driver reads them alike.
_CREDENTIALS: Final = re.compile(r"(?:[^\s/@%]|%[0-9A-Fa-f]{2})*")


def store_uri(*schemes: str) -> Callable[[str], str]:
    """Addresses with one of these schemes."""

    def parse(value: str) -> str:
        if not value.startswith(tuple(f"{scheme}://" for scheme in schemes)):
            raise ValueError(f"must start with {' or '.join(f'{s}://' for s in schemes)}")
        # A driver that stumbles over one of these quotes a piece of the password.
        before_options = value.partition("://")[2].partition("?")[0]
        if not _CREDENTIALS.fullmatch(before_options.rpartition("@")[0]):
            raise ValueError("must have user and password percent-encoded (%2F for /, %25 for %)")
        return value

    return parse


def dsn(value: str) -> str:
    """A Postgres address, or `key=value` pairs."""
    if "://" in value:
        return store_uri("postgres", "postgresql")(value)
    if "=" not in value:
        raise ValueError("must be a postgresql:// address or key=value pairs")
    return value


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """What a million tokens cost, in whatever money budgets are set in."""

    model: str
    prompt: float
    completion: float


def model_prices(value: str) -> tuple[ModelPrice, ...]:
    """`{"llama3.2": {"prompt": 0.1, "completion": 0.4}, "*": ...}`; `*` is any other model."""
    wanted = 'must be JSON such as {"llama3.2": {"prompt": 0.1, "completion": 0.4}}'
    try:
        read = json.loads(value)
        prices = tuple(
            ModelPrice(model, float(one["prompt"]), float(one["completion"]))
            for model, one in read.items()
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(wanted) from None
    if any(not 0 <= part < 1e9 for one in prices for part in (one.prompt, one.completion)):
        raise ValueError(f"{wanted}, without negative prices")
    names = [canonical(one.model) for one in prices]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"must price a model once, and prices {min(twice)} under two names")
    return prices


@dataclass(frozen=True, slots=True)
class McpServer:
    """An MCP server as the operator names it; its tools are called `name__tool`."""

    name: str
    url: str


def mcp_servers(value: str) -> tuple[McpServer, ...]:
    """`docs=https://mcp.example.com/mcp,crm=http://10.0.0.5:8000/mcp`."""
    found: dict[str, McpServer] = {}
    for name, url in named(value):
        if not is_server_name(name):
            raise ValueError(f"must name a server by a-z, 0-9, - and _, 24 at most, not {name!r}")
        if name in found:
            raise ValueError(f"must name a server once, and names {name} again")
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError on a port that is none
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.fragment:
            raise ValueError(f"must give {name} an http(s) address such as https://host/mcp")
        if parts.username is not None:
            raise ValueError(f"must not give {name} a user name; its token belongs in MCP_TOKENS")
        found[name] = McpServer(name, url)
    return tuple(found.values())


def mcp_tokens(value: str) -> str:
    """The text as it is, once `tokens_of` can read it."""
    for name, token in named(value):
        if not (is_server_name(name) and token.isascii() and token.isprintable()) or " " in token:
            raise ValueError("must be name=token pairs, with commas between them")
    return value


def tokens_of(value: str) -> Mapping[str, str]:
    """Each server's token."""
    return dict(named(value))


def is_server_name(name: str) -> bool:
    """Whether an MCP server may be called that: what it lends its name to is a tool's name."""
    return len(name) <= _SERVER_LENGTH and _SERVER.fullmatch(name) is not None


def named(value: str) -> list[tuple[str, str]]:
    """`name=value` pairs with commas between them; raises ValueError for what is none."""
    pairs = [one.partition("=") for one in value.split(",") if one.strip()]
    if any(not (name.strip() and text.strip()) for name, _, text in pairs):
        raise ValueError("must be name=value pairs, with commas between them")
    return [(name.strip(), text.strip()) for name, _, text in pairs]

"""`Entry`: messages that came together in a conversation, and the document that keeps them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from datetime import datetime
from typing import Any

from lambent.agents.tool_uses import ToolUse, cut
from lambent.chat.conversation_search import words_said
from lambent.chat.messages import kept_json, messages_of, records_of
from lambent.errors import RequestError
from lambent.models.values import Message, Role

Tools = Mapping[int, Sequence[ToolUse]]


@dataclass(frozen=True, slots=True)
class Entry:
    """Messages that came together; `turn` is the turn that made them, if one did, and `usage`
    what it took. `once`: the token of the request to append that made them, if it had one.
    `tools`: what an answer called, by the place of the message, from 0; no model is told that."""

    number: int
    messages: tuple[Message, ...]
    turn: str | None
    created_at: datetime
    usage: Mapping[str, Any] | None = None
    once: str | None = None
    tools: Tools = field(default_factory=dict)


def message_id(entry: Entry, index: int) -> str:
    """What names a message within its conversation."""
    return f"{entry.number}.{index + 1}"


def place_of(id: str) -> tuple[int, int]:
    """The entry's number and the place within it, from 0, of a message; raises `RequestError`."""
    number, _, index = id.partition(".")
    numbers = id.isascii() and number.isdecimal() and index.isdecimal() and len(id) <= 20
    # Only as `message_id` writes it: the fork tells the place it began at.
    if not numbers or id != f"{int(number)}.{int(index)}" or index == "0":
        raise RequestError("A message's id is two numbers with a point between them.")
    return int(number), int(index) - 1


def entry_document(id: str, client: str, entry: Entry) -> dict[str, Any]:
    """Of the conversation `id`."""
    document = {
        "_id": f"{id}/{entry.number}",
        "conversation": id,
        "client": client,
        "number": entry.number,
        "words": words_said(entry.messages),
        "turn": entry.turn,
        "messages": records_of(entry.messages),
        "created_at": entry.created_at,
        "usage": entry.usage,
        "once": entry.once,
        "rules": any(one.role is Role.system for one in entry.messages),
    }
    if entry.tools:
        document["tools"] = _tools_text(entry.tools)
    return document


def entry_of(found: Mapping[str, Any]) -> Entry:
    """The entry that a document keeps."""
    return Entry(
        found["number"],
        messages_of(found["messages"]),
        found["turn"],
        found["created_at"],
        # None of these in documents of older versions.
        found.get("usage"),
        found.get("once"),
        _tools(found.get("tools")),
    )


def _tools_text(tools: Tools) -> str:
    # As text, like the messages: a tool may be called with keys that no document takes.
    return kept_json({place: [astuple(one) for one in cut(uses)] for place, uses in tools.items()})


def _tools(text: str | None) -> Tools:
    if text is None:
        return {}
    return {int(place): [ToolUse(*one) for one in uses] for place, uses in json.loads(text).items()}

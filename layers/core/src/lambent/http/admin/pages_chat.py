"""The playground: conversations with any agent or model, read here and gone on with by a script."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from markupsafe import escape
from starlette.responses import Response

from lambent.admission.decisions import Scope
from lambent.http.admin.api import path
from lambent.http.admin.formats import brief
from lambent.http.admin.view import View

_LISTED: Final = 30
# More have no room on the page, unless they are very short.
_SHOWN: Final = 200
# The workflows that durable agents' turns are runs of, and how many of each are looked through.
_TURNS: Final = "agent."
_TURNS_READ: Final = 50
# What the messages of a page may weigh, as they are written into it.
_ROOM: Final = 60_000
# What one answer's tools may, beside their markup.
_TOOL_ROOM: Final = 16_000
_TOOL_MARKUP: Final = 400


async def playground(view: View) -> Response:
    """The conversations of this person's client, and one of them; its script does the talking."""
    query = view.query
    can_chat = view.session.may_change and view.session.principal.may(Scope.CHAT)
    listed: dict[str, Any] = {"conversations": [], "cursor": None}
    shown, more = None, False
    waiting: list[str] = []
    if can_chat:
        asked = {"limit": _LISTED, "cursor": query.get("cursor")}
        listed = await view.api.maybe("/conversations", **asked) or listed
        if wanted := query.get("conversation"):
            shown = await view.api.get(path("conversations", wanted), last=_SHOWN)
            shown["messages"], more = newest(shown["messages"])
            more = more or shown["earlier"] is not None
            waiting = await _waiting(view, wanted)
    return view.page(
        "playground.html",
        agent=query.get("agent", "chat"),
        can_chat=can_chat,
        conversations=listed["conversations"],
        cursor=listed["cursor"],
        conversation=shown,
        more=more,
        waiting=waiting,
    )


async def _waiting(view: View, conversation: str) -> list[str]:
    """The runs of its turns that wait: only the tab that asked has more of such a turn to show."""
    listed = await view.api.maybe("/workflows") or {"workflows": []}
    agents = {one["name"] for one in listed["workflows"] if one["name"].startswith(_TURNS)}
    asked = {"status": "waiting", "client": view.session.principal.client, "limit": _TURNS_READ}
    pages = await asyncio.gather(
        *(view.api.maybe("/runs", workflow=one, **asked) for one in sorted(agents))
    )
    runs = [run for page in pages if page for run in page["runs"]]
    places = {run["id"]: run["input"].get("place") or {} for run in runs}
    return [id for id, place in places.items() if place.get("conversation") == conversation]


def newest(messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], bool]:
    """The last messages that a page has room for, and whether there are earlier ones."""
    room, kept = _ROOM, 0
    for one in reversed(messages):
        weight = _shorten(one["tools"])
        whole = one["content"]
        one["content"] = cut(whole, room - weight if kept == 0 else _ROOM)
        one["pieces"] = pieces(
            one["content"], one["tools"], left_out=len(whole) - len(one["content"])
        )
        room -= len(escape(one["content"])) + len(escape(one["thinking"] or "")) + 300 + weight
        if room < 0 and kept > 0:
            break
        kept += 1
    return messages[len(messages) - kept :], kept < len(messages)


def _shorten(tools: list[dict[str, Any]]) -> int:
    """Cut what the tools were asked and gave; how much of a page they then take."""
    room = _TOOL_ROOM // (2 * max(1, len(tools)))
    for one in tools:
        for name in ("arguments", "result"):
            one[name] = None if one[name] is None else brief(one[name], room)
    return len(tools) * _TOOL_MARKUP + (_TOOL_ROOM if tools else 0)


def pieces(text: str, tools: list[dict[str, Any]], *, left_out: int = 0) -> list[tuple[str, Any]]:
    """An answer's text and the tools that it called, in the order in which they came. `left_out`:
    how much of the text's beginning is not there."""
    told: list[tuple[str, Any]] = []
    at = 0
    for one in tools:
        after = min(max(one["after"] - left_out, at), len(text))
        told += [("text", text[at:after])] if after > at else []
        told.append(("tool", one))
        at = after
    return [*told, ("text", text[at:])] if text[at:] or not told else told


def cut(text: str, room: int) -> str:
    """As much of the end of a text as there is room for."""
    while len(escape(text)) > room:
        text = "…" + text[len(text) // 4 + 2 :]
    return text

"""Writes frames of server-sent events (html.spec.whatwg.org, section 9.2)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from json.encoder import encode_basestring
from typing import Any, Final

DONE: Final = b"data: [DONE]\n\n"
KEEP_ALIVE: Final = b": keep-alive\n\n"
HEADERS: Final[Mapping[str, str]] = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",  # nginx and its kin collect a stream otherwise
}


def delta_event(id: int, delta: str) -> bytes:
    """The frequent frame, without the price of a JSON encoder for each."""
    text = encode_basestring(delta)  # type: ignore[no-untyped-call,unused-ignore]
    return f'id: {id}\ndata: {{"delta": {text}}}\n\n'.encode(errors="replace")


def json_event(id: int, data: object, *, event: str | None = None) -> bytes:
    """Any other frame; JSON holds no line break, so one `data:` line will do."""
    name = f"event: {event}\n" if event else ""
    return f"id: {id}\n{name}data: {_dump(data)}\n\n".encode(errors="replace")


def _dump(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False)

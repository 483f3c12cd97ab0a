"""Open WebUI's recorded requests, and its way to read the answers, in words of our own.

The way is that of 0.12.4 (its `utils/middleware.py` and `utils/response.py`): it goes by lines,
knows no names of events, takes what it cannot parse for nothing, and reads tool calls by index.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

_FILE: Final = Path(__file__).parent / "recorded" / "open_webui-0.12.4.json"
RECORDED: Final[Mapping[str, Any]] = json.loads(_FILE.read_text())


@dataclass(frozen=True, slots=True)
class Sent:
    """One recorded request."""

    scene: str
    kind: str
    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


@dataclass(slots=True)
class Shown:
    """What it shows of an answer; `calls` are by their index, as it carries them out."""

    text: str = ""
    thinking: str = ""
    calls: dict[int, dict[str, str]] = field(default_factory=dict)
    sources: list[tuple[str, str]] = field(default_factory=list)
    usage: Mapping[str, int] = field(default_factory=dict)
    error: str = ""


def scene(name: str, kind: str = "chat") -> list[Sent]:
    """The requests of that kind in a scene, in their order."""
    return [one for one in every() if (one.scene, one.kind) == (name, kind)]


def every() -> Iterator[Sent]:
    """All recorded requests."""
    shared = RECORDED["shared"]
    for played in RECORDED["scenes"]:
        for one in played["requests"]:
            body = one["body"]
            if body and "tools" in body:
                body = {**body, "tools": shared[body["tools"].strip("<>")]}
            headers = shared["headers"][one["headers"]]
            yield Sent(played["scene"], one["kind"], one["method"], one["path"], headers, body)


class OpenWebUi:
    """Sends what was recorded, with a key of a local stack instead of the one that is left out."""

    def __init__(self, client: httpx.Client, *, key: str) -> None:
        self._client = client
        self._key = key

    def open(self, sent: Sent) -> AbstractContextManager[httpx.Response]:
        """The answer with its body still to be read."""
        headers = {name: text.replace("<key>", self._key) for name, text in sent.headers.items()}
        content = None if sent.body is None else json.dumps(sent.body)
        return self._client.stream(sent.method, sent.path, headers=headers, content=content)

    def whole(self, sent: Sent) -> httpx.Response:
        with self.open(sent) as answer:
            answer.read()
        return answer

    def show(self, sent: Sent) -> Shown:
        """A streamed answer as it shows it."""
        with self.open(sent) as answer:
            # The media type is how it tells a stream from a document.
            assert "text/event-stream" in answer.headers["content-type"], answer.read()
            return read_stream(answer.iter_lines())


def read_stream(lines: Iterable[str]) -> Shown:
    """A stream of either API: which one it is shows in each record's `type`."""
    shown, items = Shown(), _Items()
    for line in lines:
        if not line.startswith("data:"):
            if line.startswith("{"):  # a bare error between the events
                shown.error = shown.error or _said(json.loads(line).get("error"))
            continue
        try:
            data = json.loads(line[5:])
        except ValueError:  # `[DONE]` among them
            continue
        if str(data.get("type", "")).startswith("response.") or data.get("type") == "error":
            items.take(data, shown)
        else:
            _take_chunk(data, shown)
    items.show(shown)
    return shown


def _take_chunk(data: Mapping[str, Any], shown: Shown) -> None:
    shown.usage = data.get("usage") or shown.usage
    if not data.get("choices"):
        shown.error = shown.error or _said(data.get("error"))
        return
    delta = data["choices"][0].get("delta", {})
    shown.text += delta.get("content") or ""
    shown.thinking += delta.get("reasoning_content") or ""
    shown.sources += _sources(delta.get("annotations") or ())
    for piece in delta.get("tool_calls") or ():
        if piece.get("index") is None:  # it does not carry out such a one
            continue
        function = piece.get("function", {})
        new = {"id": piece.get("id") or "", "name": function.get("name") or "", "arguments": ""}
        call = shown.calls.setdefault(piece["index"], new)
        call["arguments"] += function.get("arguments") or ""


class _Items:
    """The output items of a stream of responses, kept up by their events."""

    def __init__(self) -> None:
        self._items: list[dict[str, Any]] = []

    def take(self, data: Mapping[str, Any], shown: Shown) -> None:
        kind, at = data["type"], data.get("output_index", len(self._items) - 1)
        answer = data.get("response") or {}
        match kind:
            case "response.output_item.added":
                self._items.insert(at, dict(data["item"]))
            case "response.output_item.done":
                self._items[at] = dict(data["item"])
                for part in self._items[at].get("content") or ():
                    shown.sources += _sources(part.get("annotations") or ())
            case "response.content_part.added" if self._items[at]["type"] != "reasoning":
                self._items[at].setdefault("content", []).append(dict(data["part"]))
            case "response.function_call_arguments.delta":
                self._items[at]["arguments"] += data["delta"]
            case "response.output_text.delta":
                self._items[at]["content"][data["content_index"]]["text"] += data["delta"]
            case "response.completed" | "response.incomplete":
                self._items = answer.get("output") or self._items
            case "response.failed" | "error":
                shown.error = _said(answer.get("error") or data.get("error") or data)
        shown.usage = answer.get("usage") or shown.usage

    def show(self, shown: Shown) -> None:
        calls = [one for one in self._items if one["type"] == "function_call"]
        for index, one in enumerate(calls):
            shown.calls[index] = {
                "id": one["call_id"], "name": one["name"], "arguments": one["arguments"],
            }  # fmt: skip
        for kind, name in (("message", "text"), ("reasoning", "thinking")):
            texts = [
                part.get("text", "")
                for one in self._items
                if one["type"] == kind
                for part in one.get("content") or ()
            ]
            setattr(shown, name, getattr(shown, name) + "".join(texts))


def read_whole(answer: Mapping[str, Any]) -> str:
    """The text of a document of either API, as its tasks read it."""
    if "choices" in answer:
        return str(answer["choices"][0]["message"]["content"])
    parts = [
        part for one in answer["output"] if one["type"] == "message" for part in one["content"]
    ]
    return "".join(part["text"] for part in parts if part["type"] == "output_text")


def _sources(annotations: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    cited = [one.get("url_citation", one) for one in annotations if one["type"] == "url_citation"]
    return [(one["title"], one["url"]) for one in cited]


def _said(error: Any) -> str:
    return str(error.get("message", "")) if isinstance(error, dict) else str(error or "")

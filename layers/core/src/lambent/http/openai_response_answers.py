"""Tells a turn as OpenAI's response: typed events of a stream, or one document."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from lambent.agents.agent import Chunk
from lambent.chat.values import Failed, Finished, Frame, Queued
from lambent.errors import LambentError, RateLimited
from lambent.http.openai_answers import Choice, Naming, queue_comment
from lambent.http.openai_tools import ToolPlan
from lambent.models.values import Message, Role, ToolCall, Usage
from lambent.telemetry import redact

Event = tuple[str, dict[str, Any]]
Keep = Callable[[Mapping[str, Any], Message], Awaitable[bool]]
"""Keeps the finished document and the answer as a message; tells whether that went well."""

_PREFIX: Final = {"message": "msg", "function_call": "fc", "reasoning": "rs"}


def _usage_of(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.total_tokens,
    }


class Writer:
    """Builds the output items of one response, and the events that tell how they grow."""

    def __init__(self, naming: Naming, plan: ToolPlan, *, echo: Mapping[str, Any]) -> None:
        self._naming = naming
        self._echo = echo
        self._choice = Choice(plan)
        self._items: list[dict[str, Any]] = []
        self._open = False

    def body(self, status: str, **changed: Any) -> dict[str, Any]:
        """The response as it is now."""
        return {
            "id": self._naming.id,
            "object": "response",
            "created_at": self._naming.created_s,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "model": self._naming.model,
            "output": self._items,
            "usage": None,
            **self._echo,
            **changed,
        }

    def chunk(self, chunk: Chunk) -> Iterator[Event]:
        """What one chunk adds."""
        for delta in self._choice.deltas(chunk):
            yield from self._delta(delta)

    def last(self, end: Finished) -> Iterator[Event]:
        """What was held back until the end; raises `Unavailable`."""
        deltas, _ = self._choice.last(end)
        for delta in deltas:
            yield from self._delta(delta)
        yield from self._close("completed" if end.finish_reason != "length" else "incomplete")

    def ended(self, end: Finished) -> dict[str, Any]:
        """The whole response."""
        usage = _usage_of(end.usage)
        if end.finish_reason == "length":
            why = {"reason": "max_output_tokens"}
            return self.body("incomplete", usage=usage, incomplete_details=why)
        return self.body("completed", usage=usage)

    def failed(self, error: LambentError) -> dict[str, Any]:
        """The response as far as it came."""
        code = "rate_limit_exceeded" if isinstance(error, RateLimited) else "server_error"
        return self.body("failed", error={"code": code, "message": redact(error.detail)})

    def message(self) -> Message:
        """The answer as a message that a later turn can go on from."""
        texts, thoughts = [], []
        calls = []
        for item in self._items:
            match item["type"]:
                case "message":
                    texts.append(item["content"][0]["text"])
                case "reasoning":
                    thoughts.append(item["content"][0]["text"])
                case _:
                    calls.append(ToolCall(item["name"], _parsed(item), item["call_id"]))
        return Message(
            role=Role.assistant,
            content="".join(texts),
            thinking="".join(thoughts),
            tool_calls=tuple(calls),
        )

    def _delta(self, delta: Mapping[str, Any]) -> Iterator[Event]:
        if thought := delta.get("reasoning_content"):
            yield from self._text("reasoning", thought)
        if text := delta.get("content"):
            yield from self._text("message", text)
        for call in delta.get("tool_calls", ()):
            yield from self._call(call)
        for annotation in delta.get("annotations", ()):
            yield from self._annotation(annotation)

    def _text(self, kind: str, text: str) -> Iterator[Event]:
        yield from self._begin(kind)
        self._items[-1]["content"][0]["text"] += text
        yield self._part_event(_TEXT_EVENTS[kind] + ".delta", delta=text, **_logprobs(kind))

    def _call(self, call: Mapping[str, Any]) -> Iterator[Event]:
        function = call["function"]
        if "name" in function:
            yield from self._close("completed")
            fields = {"call_id": call["id"], "name": function["name"], "arguments": ""}
            yield from self._add("function_call", fields)
        self._items[-1]["arguments"] += function["arguments"]
        name = "response.function_call_arguments.delta"
        yield self._item_event(name, delta=function["arguments"])

    def _annotation(self, annotation: Mapping[str, Any]) -> Iterator[Event]:
        yield from self._begin("message")
        told = {"type": annotation["type"], **annotation["url_citation"]}
        annotations = self._items[-1]["content"][0]["annotations"]
        annotations.append(told)
        yield self._part_event(
            "response.output_text.annotation.added",
            annotation=told,
            annotation_index=len(annotations) - 1,
        )

    def _begin(self, kind: str) -> Iterator[Event]:
        if self._open and self._items[-1]["type"] == kind:
            return
        yield from self._close("completed")
        if kind == "message":
            yield from self._add(kind, {"role": "assistant", "content": []})
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        else:
            yield from self._add(kind, {"summary": [], "content": []})
            part = {"type": "reasoning_text", "text": ""}
        self._items[-1]["content"].append(part)
        yield self._part_event("response.content_part.added", part=part)

    def _add(self, kind: str, fields: Mapping[str, Any]) -> Iterator[Event]:
        # Out of the response's own: whoever tells it again has to name its items alike.
        own = self._naming.id.partition("_")[2]
        id = f"{_PREFIX[kind]}_{own}_{len(self._items)}"
        self._items.append({"id": id, "type": kind, "status": "in_progress", **fields})
        self._open = True
        yield self._whole_item_event("response.output_item.added")

    def _close(self, status: str) -> Iterator[Event]:
        if not self._open:
            return
        self._open = False
        item = self._items[-1]
        item["status"] = status
        if item["type"] == "function_call":
            yield self._item_event(
                "response.function_call_arguments.done",
                arguments=item["arguments"],
                name=item["name"],
            )
        else:
            kind, part = item["type"], item["content"][0]
            done = _TEXT_EVENTS[kind] + ".done"
            yield self._part_event(done, text=part["text"], **_logprobs(kind))
            yield self._part_event("response.content_part.done", part=part)
        yield self._whole_item_event("response.output_item.done")

    def _whole_item_event(self, name: str) -> Event:
        return name, {"output_index": len(self._items) - 1, "item": self._items[-1]}

    def _item_event(self, event: str, /, **fields: Any) -> Event:
        place = {"item_id": self._items[-1]["id"], "output_index": len(self._items) - 1}
        return event, {**place, **fields}

    def _part_event(self, event: str, /, **fields: Any) -> Event:
        return self._item_event(event, content_index=0, **fields)


_TEXT_EVENTS: Final = {"message": "response.output_text", "reasoning": "response.reasoning_text"}


def _logprobs(kind: str) -> dict[str, Any]:
    return {"logprobs": []} if kind == "message" else {}


def _parsed(item: Mapping[str, Any]) -> dict[str, Any]:
    try:
        arguments = json.loads(item["arguments"])
    except ValueError:  # cut short by its limit
        return {}
    return arguments if isinstance(arguments, dict) else {}


class ResponseEncoder:
    """Writes one stream of a response's events, each with its number."""

    def __init__(self, writer: Writer, keep: Keep) -> None:
        self._writer = writer
        self._keep = keep
        self._number = 0

    async def encode(self, frames: Sequence[Frame]) -> bytes:
        pieces: list[str] = []
        for frame in frames:
            match frame:
                case Queued():
                    pieces.append(queue_comment(frame))
                case Chunk():
                    pieces.extend(self._begin())
                    pieces.extend(self._event(*event) for event in self._writer.chunk(frame))
                case Finished():
                    pieces.extend(self._begin())
                    pieces.extend(await self._end(frame))
                case Failed():
                    pieces.extend(self._begin())
                    pieces.append(self._failed(frame.error))
        return "".join(pieces).encode(errors="replace")

    def _begin(self) -> Iterator[str]:
        if not self._number:
            body = self._writer.body("in_progress")
            yield self._event("response.created", {"response": body})
            yield self._event("response.in_progress", {"response": body})

    async def _end(self, end: Finished) -> list[str]:
        try:
            pieces = [self._event(*event) for event in self._writer.last(end)]
        except LambentError as error:
            return [self._failed(error)]
        body = await kept_body(self._writer, end, self._keep)
        return [*pieces, self._event(f"response.{body['status']}", {"response": body})]

    def _failed(self, error: LambentError) -> str:
        return self._event("response.failed", {"response": self._writer.failed(error)})

    def _event(self, name: str, fields: Mapping[str, Any]) -> str:
        data = {"type": name, "sequence_number": self._number, **fields}
        self._number += 1
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        return f"event: {name}\ndata: {text}\n\n"


class ResponseBodyOf:
    """Makes the `response` of a turn."""

    def __init__(self, writer: Writer, keep: Keep) -> None:
        self._writer = writer
        self._keep = keep

    async def body(self, chunks: Sequence[Chunk], end: Finished) -> Mapping[str, Any]:
        for chunk in chunks:
            for _ in self._writer.chunk(chunk):
                pass
        for _ in self._writer.last(end):
            pass
        return await kept_body(self._writer, end, self._keep)


async def kept_body(writer: Writer, end: Finished, keep: Keep) -> dict[str, Any]:
    """The whole response, kept before it is told: a client may go on from it at once."""
    body = {**writer.ended(end), "store": True}
    return {**body, "store": await keep(body, writer.message())}

"""Tells a turn as OpenAI's chat completion: chunks of a stream, or one document."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any, Final

from lambent.agents.agent import Chunk, Source
from lambent.chat.values import Failed, Finished, Frame, Queued
from lambent.errors import LambentError, Unavailable
from lambent.http import sse
from lambent.http.openai_errors import openai_error
from lambent.http.openai_tools import ToolPlan
from lambent.ids import random_base62, ulid_time
from lambent.models.values import ToolCall, Usage

COMPLETION: Final = "chatcmpl-"
_FINISH: Final = {"stop", "length", "tool_calls", "content_filter"}


@dataclass(frozen=True, slots=True)
class Naming:
    """What every part of one answer repeats."""

    id: str
    model: str
    created_s: int

    @classmethod
    def of(cls, kind: str, turn: str, model: str) -> Naming:
        """What follows from the turn's id alone, and is the same for whoever tells the turn."""
        return cls(f"{kind}{turn}", model, int(ulid_time(turn).timestamp()))


def usage_of(usage: Usage) -> dict[str, Any]:
    """OpenAI's `usage`."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }


class Choice:
    """Turns the chunks of a turn into OpenAI's deltas; remembers what was told so far."""

    def __init__(self, plan: ToolPlan) -> None:
        self._plan = plan
        self._calls = 0
        self._length = 0
        self._held: list[str] = []

    @property
    def plain(self) -> bool:
        """Whether text of the model is text of the answer."""
        return not self._plan.forced

    def deltas(self, chunk: Chunk) -> Iterator[dict[str, Any]]:
        """The deltas of one chunk, in the order in which a reader wants them."""
        if chunk.thinking:
            yield {"reasoning_content": chunk.thinking}
        if chunk.delta:
            yield from self._text(chunk.delta)
        for call in chunk.tool_calls:
            if not self._calls or self._plan.parallel:
                arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
                yield self._call(call.name, arguments, id=call.id)
        if chunk.sources:
            yield {"annotations": [self._annotation(one) for one in chunk.sources]}

    def last(self, end: Finished) -> tuple[list[dict[str, Any]], str]:
        """What was held back until the end, and the finish reason.

        Raises `Unavailable` where the model did not write the call that it was made to write.
        """
        deltas = []
        if self._plan.forced and not self._calls and end.finish_reason != "length":
            call = _read_call("".join(self._held), self._plan)
            deltas.append(
                self._call(call.name, json.dumps(dict(call.arguments), ensure_ascii=False))
            )
        if end.finish_reason not in _FINISH - {"stop"} and self._calls and not self._plan.named:
            return deltas, "tool_calls"
        return deltas, end.finish_reason if end.finish_reason in _FINISH else "stop"

    def note_text(self, text: str) -> None:
        """Text that went past `deltas`."""
        self._length += len(text)

    def _text(self, text: str) -> Iterator[dict[str, Any]]:
        match self._plan.forced:
            case ():
                self.note_text(text)
                yield {"content": text}
            case (tool,) if not self._calls:
                yield self._call(tool.name, text)
            case (_,):
                more = {"index": 0, "function": {"arguments": text}}
                yield {"tool_calls": [more]}
            case _:
                self._held.append(text)

    def _call(self, name: str, arguments: str, *, id: str | None = None) -> dict[str, Any]:
        call = {
            "index": self._calls,
            "id": id or f"call_{random_base62(24)}",
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
        self._calls += 1
        return {"tool_calls": [call]}

    def _annotation(self, source: Source) -> dict[str, Any]:
        # The agent does not say which words a source stands behind: the place where it was told.
        cited = {
            "start_index": self._length,
            "end_index": self._length,
            "title": source.title,
            "url": source.url,
        }
        return {"type": "url_citation", "url_citation": cited}


def _read_call(text: str, plan: ToolPlan) -> ToolCall:
    try:
        call = json.loads(text)
        name, arguments = call["name"], call["arguments"]
        if isinstance(arguments, dict) and name in {tool.name for tool in plan.forced}:
            return ToolCall(name, arguments)
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise Unavailable("The model did not call a tool as it was made to.")


def queue_comment(frame: Queued) -> str:
    """A comment line: OpenAI's clients take a named event for a chunk."""
    return f": queued {frame.position}, about {frame.estimated_wait_s:g} s\n\n"


class ChunkEncoder:
    """Writes one stream of `chat.completion.chunk`s: no named events, errors as data."""

    def __init__(self, naming: Naming, plan: ToolPlan, *, include_usage: bool) -> None:
        self._head = {
            "id": naming.id,
            "object": "chat.completion.chunk",
            "created": naming.created_s,
            "model": naming.model,
        }
        self._choice = Choice(plan)
        # With usage asked for, every chunk but the last says that it has none.
        self._usage: Mapping[str, Any] = {"usage": None} if include_usage else {}
        self._begun = False
        marker = "\0"
        before, _, after = self._chunk({"content": marker}).rpartition(json.dumps(marker))
        self._before, self._after = before, after

    async def encode(self, frames: Sequence[Frame]) -> bytes:
        text = "".join([piece for frame in frames for piece in self._told(frame)])
        return text.encode(errors="replace")

    def _told(self, frame: Frame) -> Iterator[str]:
        match frame:
            case Queued():
                yield queue_comment(frame)
            case Failed():
                yield _data(openai_error(frame.error))
            case Chunk():
                yield from self._begin()
                yield from self._chunks(frame)
            case Finished():
                yield from self._begin()
                yield from self._end(frame)

    def _begin(self) -> Iterator[str]:
        if not self._begun:
            self._begun = True
            yield self._chunk({"role": "assistant", "content": ""})

    def _chunks(self, chunk: Chunk) -> Iterator[str]:
        more = chunk.thinking or chunk.tool_calls or chunk.sources
        if chunk.delta and self._choice.plain and not more:
            # The frequent chunk, without the price of a JSON encoder for each.
            self._choice.note_text(chunk.delta)
            text = encode_basestring(chunk.delta)  # type: ignore[no-untyped-call,unused-ignore]
            yield f"{self._before}{text}{self._after}"
            return
        for delta in self._choice.deltas(chunk):
            yield self._chunk(delta)

    def _end(self, end: Finished) -> Iterator[str]:
        try:
            deltas, reason = self._choice.last(end)
        except LambentError as error:
            yield _data(openai_error(error))
            return
        for delta in deltas:
            yield self._chunk(delta)
        yield self._chunk({}, finish_reason=reason)
        if self._usage:
            yield _data({**self._head, "choices": [], "usage": usage_of(end.usage)})
        yield sse.DONE.decode()

    def _chunk(self, delta: Mapping[str, Any], *, finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _data({**self._head, "choices": [choice], **self._usage})


class CompletionBodyOf:
    """Makes the `chat.completion` of a turn."""

    def __init__(self, naming: Naming, plan: ToolPlan) -> None:
        self._naming = naming
        self._plan = plan

    async def body(self, chunks: Sequence[Chunk], end: Finished) -> Mapping[str, Any]:
        choice = Choice(self._plan)
        deltas = [delta for chunk in chunks for delta in choice.deltas(chunk)]
        held, reason = choice.last(end)
        message = _message(deltas + held)
        told = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return {
            "id": self._naming.id,
            "object": "chat.completion",
            "created": self._naming.created_s,
            "model": self._naming.model,
            "choices": [told],
            "usage": usage_of(end.usage),
        }


def _message(deltas: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def joined(name: str) -> str:
        return "".join(delta.get(name, "") for delta in deltas)

    calls: list[dict[str, Any]] = []
    for one in (call for delta in deltas for call in delta.get("tool_calls", ())):
        if one["index"] < len(calls):
            calls[one["index"]]["function"]["arguments"] += one["function"]["arguments"]
        else:
            calls.append({name: value for name, value in one.items() if name != "index"})
    text = joined("content")
    message: dict[str, Any] = {
        "role": "assistant",
        "content": text if text or not calls else None,
        "refusal": None,
        "annotations": [one for delta in deltas for one in delta.get("annotations", ())],
    }
    if calls:
        message["tool_calls"] = calls
    if thinking := joined("reasoning_content"):
        message["reasoning_content"] = thinking
    return message


def _data(value: object) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"

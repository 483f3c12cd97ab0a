"""Frames of a durable turn as they are kept and sent: server-sent events with a JSON body each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from lambent.agents.agent import Chunk
from lambent.agents.tool_calls import ApprovalAwaited, ToolEnded, ToolStarted
from lambent.models.values import Usage

DONE: Final = b"data: [DONE]\n\n"
Body = dict[str, Any]


def encode_frame(number: int, body: Body, *, event: str | None = None) -> bytes:
    """One event; JSON holds no line break, so one `data:` line will do."""
    name = f"event: {event}\n" if event else ""
    data = json.dumps(body, ensure_ascii=False)
    return f"id: {number}\n{name}data: {data}\n\n".encode(errors="replace")


def decode_frame(event: bytes) -> Body | None:
    """The body of an event; None for `[DONE]` and for comments."""
    for line in event.decode().splitlines():
        if line.startswith("data: {"):
            body: Body = json.loads(line[6:])
            return body
    return None


def is_error(event: bytes) -> bool:
    """Whether the event is the one that ends a turn that broke off."""
    return b"\nevent: error\n" in event


def usage_body(usage: Usage) -> Body:
    """Tokens, and the seconds that the model server spent on them."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "model_s": round(usage.total_s, 6),
    }


def tool_bodies(chunk: Chunk) -> list[Body]:
    """What the chunk tells of tools that the platform runs."""
    told: list[Body] = []
    if (one := chunk.tool_started) is not None:
        told.append(started_body(one))
    if (wait := chunk.awaited) is not None:
        told.append(awaited_body(wait))
    if (end := chunk.tool_ended) is not None:
        told.append(ended_body(end))
    return told


def started_body(call: ToolStarted) -> Body:
    return {"tool_call": _call(call)}


def awaited_body(call: ApprovalAwaited) -> Body:
    approve = f"/runs/{call.run}/approvals/{call.id}"
    return {"waiting": {**_call(call), "run": call.run, "approve": approve}}


def ended_body(end: ToolEnded) -> Body:
    told = {"id": end.id, "name": end.name, "content": end.content, "failed": end.failed}
    return {"tool_result": told}


def chunk_of(body: Body) -> Chunk:
    """The chunk that a frame stands for."""
    match body:
        case {"delta": text}:
            return Chunk(delta=text)
        case {"thinking": text}:
            return Chunk(thinking=text)
        case {"tool_call": one}:
            return Chunk(tool_started=ToolStarted(one["id"], one["name"], one["arguments"]))
        case {"waiting": one}:
            awaited = ApprovalAwaited(one["id"], one["name"], one["arguments"], one["run"])
            return Chunk(awaited=awaited)
        case {"tool_result": one}:
            ended = ToolEnded(one["id"], one["name"], one["content"], one["failed"])
            return Chunk(tool_ended=ended)
        case {"finish_reason": reason, "usage": used}:
            return Chunk(finish_reason=reason, usage=_usage(used))
        case _:
            return Chunk()


def _call(call: ToolStarted | ApprovalAwaited) -> Body:
    return {"id": call.id, "name": call.name, "arguments": dict(call.arguments)}


def _usage(body: Mapping[str, Any]) -> Usage:
    return Usage(
        prompt_tokens=body["prompt_tokens"],
        completion_tokens=body["completion_tokens"],
        total_s=body["model_s"],
    )

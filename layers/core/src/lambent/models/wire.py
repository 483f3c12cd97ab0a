"""Translates between our values and Ollama's JSON (github.com/ollama/ollama, docs/api.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from lambent.errors import ModelUnavailable
from lambent.models.failures import told_failure
from lambent.models.values import (
    Embeddings,
    Message,
    ModelChunk,
    ModelDetails,
    ModelEnd,
    ModelInfo,
    ModelRequest,
    RunningModel,
    ToolCall,
    Usage,
)

_NANOSECONDS: Final = 1e9


def chat_body(request: ModelRequest) -> bytes:
    """The body of `POST /api/chat` for a streamed generation."""
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [_message(one) for one in request.messages],
        "stream": True,
    }
    optional = {
        "tools": [dict(tool) for tool in request.tools],
        "options": dict(request.options),
    }
    body.update({name: value for name, value in optional.items() if value})
    # False, 0 and the schema {} mean something in these.
    if request.format is not None:
        body["format"] = request.format
    if request.think is not None:
        body["think"] = request.think
    if request.whole:
        body["truncate"] = False
    if request.keep_alive is not None:
        body["keep_alive"] = request.keep_alive
    return encode(body)


def encode(body: Mapping[str, Any]) -> bytes:
    """JSON in ASCII: an unpaired surrogate stays an escape and cannot break the encoding."""
    return json.dumps(body, separators=(",", ":")).encode()


def _message(message: Message) -> dict[str, Any]:
    body: dict[str, Any] = {"role": message.role.value, "content": message.content}
    optional = {
        "images": list(message.images),
        "thinking": message.thinking,
        "tool_calls": [_tool_call(call) for call in message.tool_calls],
        "tool_name": message.tool_name,
        "tool_call_id": message.tool_call_id,
    }
    body.update({name: value for name, value in optional.items() if value})
    return body


def _tool_call(call: ToolCall) -> dict[str, Any]:
    body: dict[str, Any] = {"function": {"name": call.name, "arguments": dict(call.arguments)}}
    if call.id:
        body["id"] = call.id
    return body


def read_chunk(line: bytes) -> ModelChunk:
    """One NDJSON line of `/api/chat`; raises `ModelUnavailable` on anything else, and what an
    error that it tells means."""
    try:
        record = json.loads(line.decode())
        if "error" in record:
            raise told_failure(str(record["error"]))
        message = record.get("message") or {}
        calls = message.get("tool_calls")
        return ModelChunk(
            message.get("content") or "",
            message.get("thinking") or "",
            tuple(_read_tool_call(call) for call in calls) if calls else (),
            _end(record) if record.get("done") else None,
        )
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise senseless() from error


def _read_tool_call(call: Mapping[str, Any]) -> ToolCall:
    function = call["function"]
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    return ToolCall(name=function["name"], arguments=dict(arguments), id=call.get("id"))


def _end(record: Mapping[str, Any]) -> ModelEnd:
    # Servers before 0.1.45 name no reason.
    return ModelEnd(record.get("done_reason") or "stop", _usage(record))


def _usage(record: Mapping[str, Any]) -> Usage:
    def seconds(name: str) -> float:
        return float(record.get(name) or 0) / _NANOSECONDS

    return Usage(
        # Absent where the whole prompt came from the cache or nothing was generated.
        prompt_tokens=int(record.get("prompt_eval_count") or 0),
        completion_tokens=int(record.get("eval_count") or 0),
        load_s=seconds("load_duration"),
        prompt_s=seconds("prompt_eval_duration"),
        generation_s=seconds("eval_duration"),
        total_s=seconds("total_duration"),
    )


def senseless() -> ModelUnavailable:
    """The error of a line that is no answer."""
    return ModelUnavailable("The model server sent a line that is no answer.")


def read_embeddings(record: Mapping[str, Any]) -> Embeddings:
    """The answer of `POST /api/embed`."""
    vectors = tuple(tuple(float(x) for x in vector) for vector in record["embeddings"])
    return Embeddings(vectors, _usage(record))


def read_models(record: Mapping[str, Any]) -> tuple[ModelInfo, ...]:
    """The answer of `GET /api/tags`."""
    return tuple(_read_model(one) for one in record["models"] or ())


def _read_model(one: Mapping[str, Any]) -> ModelInfo:
    details = one.get("details") or {}
    return ModelInfo(
        name=one.get("name") or one["model"],
        size_bytes=int(one.get("size") or 0),
        family=details.get("family") or "",
        parameter_size=details.get("parameter_size") or "",
        quantization=details.get("quantization_level") or "",
        digest=one.get("digest") or "",
        modified_at=one.get("modified_at") or "",
    )


def read_running(record: Mapping[str, Any]) -> tuple[RunningModel, ...]:
    """The answer of `GET /api/ps`."""
    return tuple(
        RunningModel(
            name=one.get("name") or one["model"],
            size_bytes=int(one.get("size") or 0),
            vram_bytes=int(one.get("size_vram") or 0),
            expires_at=one.get("expires_at") or "",
        )
        for one in record["models"] or ()
    )


def read_details(name: str, record: Mapping[str, Any]) -> ModelDetails:
    """The answer of `POST /api/show`."""
    details = record.get("details") or {}
    info = record.get("model_info") or {}
    # The key carries the architecture's name: "llama.context_length".
    lengths = [int(value) for key, value in info.items() if key.endswith(".context_length")]
    return ModelDetails(
        name=name,
        capabilities=tuple(record.get("capabilities") or ()),
        context_tokens=lengths[0] if lengths else None,
        family=details.get("family") or "",
        parameter_size=details.get("parameter_size") or "",
        quantization=details.get("quantization_level") or "",
    )

"""Adds what the chat function serves to the OpenAPI document: one platform, one description."""

from __future__ import annotations

from typing import Any, Final

from lambent.http.chat_requests import ChatBody
from lambent.http.run_stream_reference import run_stream_paths
from lambent.http.stream_reference import KEY, LEASE, stream_paths

_STREAM: Final = """id: 1
data: {"delta": "The"}

id: 2
data: {"delta": " sky"}

id: 3
data: {"finish_reason": "stop", "usage": {"prompt_tokens": 41, "completion_tokens": 2}}

data: [DONE]
"""
_ANSWER: Final = {
    "id": "01JD8T0Q6V5ZC0W2M7R3X4Y5Z6",
    "agent": "chat",
    "model": "smollm2:135m",
    "output": "The sky scatters blue light most.",
    "finish_reason": "stop",
    "usage": {"prompt_tokens": 41, "completion_tokens": 8, "total_tokens": 49, "model_s": 0.21},
}
_AGENTS: Final = {
    "agents": [
        {
            "name": "chat",
            "description": "Talks with the model about anything.",
            "model": "smollm2:135m",
            "examples": ["Why is the sky blue?"],
            "durable": False,
        }
    ]
}
_REFUSALS: Final = {
    "400": "The body is no JSON.",
    "401": "No good API key.",
    "403": "The key lacks the scope.",
    "404": "The model or the conversation does not exist.",
    "413": "The body is larger than 6 MB.",
    "422": "A value makes no sense; `errors` names each field.",
    "429": "The client's limit is used up; see Retry-After.",
    "501": "There is no such agent.",
    "503": "The breaker is open, no model slot came free or a store is away; see Retry-After.",
}


def add_chat_routes(document: dict[str, Any]) -> dict[str, Any]:
    """The document with the chat function's paths and schemas in it."""
    schema = ChatBody.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(schema.pop("$defs", {}))
    schemas["ChatBody"] = schema
    chats = {
        "/chat/stream": _operation(
            "Stream a chat",
            "Frames as the model makes them. A comment line keeps a silent stream open. An error "
            "after the start is an `event: error` frame, and no `[DONE]` follows.",
            {"text/event-stream": {"schema": {"type": "string"}, "example": _STREAM}},
            parameters=[KEY, LEASE],
        ),
        "/chat": _operation(
            "Answer a chat in one piece",
            "The same turn as one JSON answer.",
            {"application/json": {"example": _ANSWER}},
            parameters=[KEY],
        ),
    }
    listing = {
        "tags": ["chat"],
        "summary": "List the agents",
        "operationId": "list_agents",
        "responses": {
            "200": {
                "description": "What this deployment has.",
                "content": {"application/json": {"example": _AGENTS}},
            },
            **{status: {"description": _REFUSALS[status]} for status in ("401", "429", "503")},
        },
    }
    document["paths"] = {
        **{path: {"post": operation} for path, operation in chats.items()},
        **stream_paths(),
        "/agents": {"get": listing},
        **run_stream_paths(schemas),
        **document["paths"],
    }
    return document


def _operation(
    summary: str, description: str, content: dict[str, Any], *, parameters: list[Any]
) -> dict[str, Any]:
    body = {"schema": {"$ref": "#/components/schemas/ChatBody"}, "example": _EXAMPLE}
    refusals = {status: {"description": text} for status, text in _REFUSALS.items()}
    return {
        "tags": ["chat"],
        "summary": summary,
        "description": description,
        "operationId": summary.lower().replace(" ", "_"),
        "parameters": parameters,
        "requestBody": {"required": True, "content": {"application/json": body}},
        "responses": {"200": {"description": "The answer.", "content": content}, **refusals},
    }


_EXAMPLE: Final = {"agent": "chat", "input": "Why is the sky blue?"}

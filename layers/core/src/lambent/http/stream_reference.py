"""Describes kept streams, and the headers that ask for them, in the OpenAPI document."""

from __future__ import annotations

from typing import Any, Final

_ID: Final = {
    "name": "id",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "description": "As X-Stream-Id told it.",
}
KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "The same key with the same body brings the same answer for 24 hours, or the "
    "stream that still runs; another body is 422.",
}
LEASE: Final = {
    "name": "X-Stream-Lease",
    "in": "header",
    "schema": {"type": "integer", "minimum": 1, "maximum": 900},
    "description": "Seconds. The stream outlives its connection, and stops within 2 s once "
    "nobody has renewed the lease.",
}
_LAST: Final = {
    "name": "Last-Event-ID",
    "in": "header",
    "schema": {"type": "integer", "minimum": 0, "default": 0},
    "description": "The id of the last frame that came.",
}
_TOLD: Final = {"id": "01JD8T0Q6V5ZC0W2M7R3X4Y5Z6", "status": "stopping"}
_RENEWED: Final = {
    "id": "01JD8T0Q6V5ZC0W2M7R3X4Y5Z6",
    "status": "live",
    "lease_until": "2026-03-01T12:00:15Z",
}
_REFUSALS: Final = {
    "401": {"description": "No good API key."},
    "404": {"description": "There is no such stream of this client."},
    "503": {"description": "A store is away; see Retry-After."},
}


def stream_paths() -> dict[str, Any]:
    """The paths of kept streams."""
    return {
        "/chat/streams/{id}": {
            "get": _operation(
                "Resume a stream",
                "From behind `Last-Event-ID` on, live or up to ten minutes after its end, at any "
                "function. Renews the stream's lease, if it has one.",
                {"200": _events()},
                parameters=[_ID, _LAST],
            ),
            "delete": _operation(
                "Stop a stream",
                "The model stops within 2 s. Not counted against the limit.",
                {
                    "200": _json("It has ended already.", {**_TOLD, "status": "done"}),
                    "202": _json("It is being stopped.", _TOLD),
                },
                parameters=[_ID],
            ),
        },
        "/chat/streams/{id}/lease": {
            "post": _operation(
                "Renew a stream's lease",
                "By the seconds that `X-Stream-Lease` asked for. Not counted against the limit.",
                {"200": _json("Until when; null where it has no lease.", _RENEWED)},
                parameters=[_ID],
            )
        },
        "/chat/streams/{id}/leave": {
            "post": _operation(
                "Say that a reader leaves",
                "For `navigator.sendBeacon`, which can set no header: the body is the API key "
                "itself. A stream with a lease stops in five seconds unless somebody renews it; "
                "one without a lease is stopped at once, but a durable agent's goes on. Not "
                "counted against the limit.",
                {"200": _json("When it stops; null where it has no lease.", _RENEWED)},
                parameters=[_ID],
                body={"text/plain": {"schema": {"type": "string"}, "example": "lam_01JD…_secret"}},
            )
        },
    }


def _operation(
    summary: str,
    description: str,
    answers: dict[str, Any],
    *,
    parameters: list[Any],
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    sent = {} if body is None else {"requestBody": {"required": True, "content": body}}
    return {
        **sent,
        "tags": ["chat"],
        "summary": summary,
        "description": description,
        "operationId": summary.lower().replace(" ", "_").replace("'", ""),
        "parameters": parameters,
        "responses": {**answers, **_REFUSALS},
    }


def _events() -> dict[str, Any]:
    content = {"text/event-stream": {"schema": {"type": "string"}}}
    return {"description": "The frames.", "content": content}


def _json(description: str, example: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"example": example}}}

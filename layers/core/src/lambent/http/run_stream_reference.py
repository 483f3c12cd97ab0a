"""Describes the event streams of runs, which the chat function serves, in the OpenAPI document."""

from __future__ import annotations

from typing import Any, Final

from lambent.http.run_query import ListQuery

_LAST: Final = {
    "name": "Last-Event-ID",
    "in": "header",
    "schema": {"type": "string"},
    "description": "The id of the last frame that came: what it told is not told again.",
}
_RUN: Final = """id: 6e1f0c2b
event: run
data: {"id": "01JD8T0Q6V5ZC0W2M7R3X4Y5Z6", "status": "running", "recorded": 3}

"""
_LIST: Final = """id: 9a3d51f7
event: counts
data: {"counts": {"running": {"count": 2, "more": false}}, "runs": "5f0c…"}

"""
_REFUSALS: Final = {
    "401": {"description": "No good API key."},
    "403": {"description": "The key lacks the scope `runs`, or `admin:read`."},
    "503": {"description": "A store is away; see Retry-After."},
}


def run_stream_paths(schemas: dict[str, Any]) -> dict[str, Any]:
    """The paths of runs that are watched; what they refer to is added to `schemas`."""
    asked = ListQuery.model_json_schema(ref_template="#/components/schemas/{model}")
    for name, schema in asked["$defs"].items():
        schemas.setdefault(name, schema)
    return {
        "/runs/{run_id}/events": {
            "get": _operation(
                "Watch a run",
                "Its whole state with each change, as `event: run`, until it has ended; come back "
                "with `Last-Event-ID` where the stream ends before, after four minutes. A comment "
                "line keeps a silent one open.",
                _RUN,
                [
                    {
                        "name": "run_id",
                        "in": "path",
                        "required": True,
                        "schema": {"type": "string"},
                    }
                ],
                {"404": {"description": "There is no such run of this client."}},
            )
        },
        "/runs/counts/events": {
            "get": _operation(
                "Watch a list of runs",
                "How many runs fit by state, and a digest of the page of `GET /runs` with the same "
                "words: where it is another, that page has changed. Ends after a minute.",
                _LIST,
                [
                    {"name": name, "in": "query", "schema": schema}
                    for name, schema in asked["properties"].items()
                ],
                {"422": {"description": "A value makes no sense; `errors` names each field."}},
            )
        },
    }


def _operation(
    summary: str,
    description: str,
    example: str,
    parameters: list[dict[str, Any]],
    refusals: dict[str, Any],
) -> dict[str, Any]:
    content = {"text/event-stream": {"schema": {"type": "string"}, "example": example}}
    return {
        "tags": ["runs"],
        "summary": summary,
        "description": description,
        "operationId": summary.lower().replace(" ", "_"),
        "parameters": [*parameters, _LAST],
        "responses": {
            "200": {"description": "The frames.", "content": content},
            **_REFUSALS,
            **refusals,
        },
    }

"""Serves the OpenAPI document and a page for people made from it, without any script."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader

# By format, else by type.
_SAMPLES: dict[str, Any] = {
    "date-time": "2026-03-01T07:00:00Z",
    "date": "2026-03-01",
    "string": "string",
    "integer": 0,
    "number": 0,
    "boolean": True,
}
_METHODS = ("get", "post", "put", "patch", "delete")


def reference_router(app: FastAPI) -> APIRouter:
    """`/docs`, rendered once an environment from what `/openapi.json` says."""
    router = APIRouter(include_in_schema=False)

    @cache
    def page() -> str:
        document = app.openapi()
        template = Environment(
            loader=PackageLoader("lambent.http", "pages"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
        ).get_template("reference.html")
        return template.render(info=document["info"], groups=_groups(document))

    @router.get("/docs")
    async def docs() -> HTMLResponse:
        policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'"
        return HTMLResponse(page(), headers={"Content-Security-Policy": policy})

    return router


def _groups(document: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for path, item in document["paths"].items():
        for method in _METHODS:
            if operation := item.get(method):
                tag = (operation.get("tags") or ["other"])[0]
                groups.setdefault(tag, []).append(_operation(document, path, method, operation))
    return groups


def _operation(
    document: dict[str, Any], path: str, method: str, operation: dict[str, Any]
) -> dict[str, Any]:
    content = operation.get("requestBody", {}).get("content", {})
    return {
        "path": path,
        "method": method,
        "summary": operation.get("summary", ""),
        "description": operation.get("description", ""),
        "parameters": [
            {
                "name": one["name"],
                "in": one["in"],
                "required": one.get("required", False),
                "type": one.get("schema", {}).get("type", ""),
                "description": one.get("description", ""),
            }
            for one in operation.get("parameters", [])
        ],
        "body": _shown(document, content),
        "answers": [
            {
                "status": status,
                "description": answer.get("description", ""),
                "example": _shown(document, answer.get("content", {})),
            }
            for status, answer in operation.get("responses", {}).items()
        ],
    }


def _shown(document: dict[str, Any], content: dict[str, Any]) -> str:
    for kind, media in content.items():
        if kind == "text/event-stream":
            return str(media.get("example", ""))
        return json.dumps(_shown_value(document, media), indent=2, ensure_ascii=False)
    return ""


def _shown_value(document: dict[str, Any], media: dict[str, Any]) -> Any:
    return media.get("example", _example(document, media.get("schema", {}), depth=0))


def _example(document: dict[str, Any], schema: dict[str, Any], *, depth: int) -> Any:
    """A value that fits the schema: its own example where it has one, else made of its parts."""
    if reference := schema.get("$ref"):
        schema = document["components"]["schemas"][reference.rsplit("/", 1)[1]]
    for key in ("examples", "example", "default", "const"):
        if key in schema:
            return schema[key][0] if key == "examples" else schema[key]
    if depth > 6:
        return None
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return _example(document, schema[choice][0], depth=depth + 1)
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "object":
        return {
            name: _example(document, part, depth=depth + 1)
            for name, part in schema.get("properties", {}).items()
        }
    if kind == "array":
        return [_example(document, schema.get("items", {}), depth=depth + 1)]
    return _SAMPLES.get(schema.get("format", ""), _SAMPLES.get(str(kind)))

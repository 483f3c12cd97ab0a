"""The gateway's OpenAPI document, of every section, without any store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx

from lambent.app import Platform
from lambent.http.gateway_app import build_gateway_app
from lambent.http.gateway_sections import gateway_sections
from lambent.settings import load_settings

ENVIRON = {"MONGO_URI": "mongodb://127.0.0.1:1", "POSTGRES_DSN": "postgresql://127.0.0.1:1/d"}
METHODS = ("get", "post", "put", "patch", "delete")


async def api_document() -> dict[str, Any]:
    parts = Platform(load_settings(ENVIRON))
    app: Any = build_gateway_app(
        gate=parts.gate, clock=parts.clock, pings={}, sections=gateway_sections(parts)
    )
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        document: dict[str, Any] = (await client.get("/openapi.json")).json()
    return document


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path and description of each."""
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                yield method.upper(), path, item[method]


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if reference := schema.get("$ref"):
        found: dict[str, Any] = document["components"]["schemas"][reference.rsplit("/", 1)[1]]
        return found
    return schema


def examples_of(document: dict[str, Any], media: dict[str, Any]) -> list[Any]:
    """Of the body as a whole: its own, or its schema's."""
    if "example" in media:
        return [media["example"]]
    schema = resolved(document, media["schema"])
    if "anyOf" in schema:  # a body that may be left out
        schema = resolved(document, schema["anyOf"][0])
    found: list[Any] = schema.get("examples", [])
    return found

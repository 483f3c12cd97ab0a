"""The API's description: whole, readable, and in step with what both functions route."""

from __future__ import annotations

import re
from typing import Any, cast

import httpx
import pytest

from lambent.app import Platform
from lambent.http.authorize import authorize
from lambent.http.gateway_app import build_gateway_app
from lambent.http.keys import keys_router
from lambent.settings import load_settings


@pytest.fixture
def client() -> httpx.AsyncClient:
    settings = load_settings({"MONGO_URI": "mongodb://h", "POSTGRES_DSN": "postgresql://h/d"})
    parts = Platform(settings)
    app = build_gateway_app(
        gate=parts.gate,
        clock=parts.clock,
        pings={},
        routers=[keys_router(parts.keys, authorize, budgets=parts.budgets)],
    )
    transport = httpx.ASGITransport(app=cast(Any, app))
    return httpx.AsyncClient(transport=transport, base_url="http://test")


async def test_the_document_describes_both_functions(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert {"/chat", "/chat/stream", "/agents", "/keys", "/health/ready"} <= set(document["paths"])


async def test_every_reference_in_the_document_leads_somewhere(client: httpx.AsyncClient) -> None:
    answer = await client.get("/openapi.json")
    named = set(re.findall(r'"#/components/schemas/([^"]+)"', answer.text))
    assert named <= set(answer.json()["components"]["schemas"])


async def test_the_page_shows_every_operation_and_runs_no_script(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    answer = await client.get("/docs")
    assert "<script" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    for path in document["paths"]:
        assert f"<code>{path}</code>" in answer.text

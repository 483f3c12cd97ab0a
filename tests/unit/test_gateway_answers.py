"""What the gateway's answers have in common: no copies, one log line for an error, no secrets."""

from __future__ import annotations

import json
import logging
from typing import Any, cast

import httpx
import pytest
from fastapi import APIRouter
from pydantic import ValidationError

from lambent.app import Platform
from lambent.http.authorize import authorize
from lambent.http.gateway_app import build_gateway_app
from lambent.http.keys import KeyRequest, keys_router
from lambent.settings import load_settings
from lambent.telemetry import logger

# Nothing listens there.
NOWHERE = "postgresql://ada:s3cret@127.0.0.1:1/nothing"


def broken_router() -> APIRouter:
    router = APIRouter(prefix="/health")

    @router.get("/broken")
    async def broken() -> None:
        raise ValueError("broken on purpose")

    return router


@pytest.fixture
def client() -> httpx.AsyncClient:
    parts = Platform(load_settings({"MONGO_URI": "mongodb://h", "POSTGRES_DSN": NOWHERE}))
    app = build_gateway_app(
        gate=parts.gate,
        clock=parts.clock,
        pings={},
        routers=[keys_router(parts.keys, authorize, budgets=parts.budgets), broken_router()],
    )
    # With its default the client would raise what the application raised, as no server does.
    transport = httpx.ASGITransport(app=cast(Any, app), raise_app_exceptions=True)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


class Lines(logging.Handler):
    """Collects what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def lines() -> Any:
    handler = Lines()
    logger().addHandler(handler)
    yield handler.records
    logger().removeHandler(handler)


@pytest.mark.parametrize("path", ["/health/live", "/openapi.json", "/docs", "/nothing"])
async def test_no_front_keeps_a_copy_of_an_answer(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert answer.headers.get_list("cache-control") == ["no-store"]


async def test_an_unexpected_error_is_answered_and_logged_and_counted_once(
    client: httpx.AsyncClient, lines: list[logging.LogRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    answer = await client.get("/health/broken")
    assert answer.status_code == 500
    assert answer.json()["type"] == "urn:lambent:problem:internal"
    assert "on purpose" not in answer.text
    assert [line.getMessage() for line in lines] == ["A request failed"]
    assert capsys.readouterr().out.count('"GatewayRequestsFailed":') == 1


async def test_the_log_says_why_a_store_is_away_and_the_answer_does_not(
    client: httpx.AsyncClient, lines: list[logging.LogRecord]
) -> None:
    key = f"lam_01ARZ3NDEKTSV4RRFFQ69G5FAV_{'k3Y' * 14}x"
    answer = await client.get("/keys", headers={"x-api-key": key})
    assert answer.status_code == 503
    assert "127.0.0.1" not in answer.text
    cause = str(vars(lines[-1])["cause"])
    assert "127.0.0.1" in cause
    assert "s3cret" not in cause


async def test_a_missing_key_is_told_how_to_send_one(client: httpx.AsyncClient) -> None:
    told = json.loads((await client.get("/keys")).text)["detail"]
    assert "***" not in told
    assert "X-API-Key" in told


async def test_head_is_answered_wherever_get_is(client: httpx.AsyncClient) -> None:
    assert (await client.head("/health/live")).status_code == 200


async def test_a_wrong_method_is_told_all_the_right_ones(client: httpx.AsyncClient) -> None:
    answer = await client.put("/health/live")
    assert answer.status_code == 405
    assert answer.headers["allow"] == answer.json()["allow"] == "GET, HEAD"


def test_true_is_no_limit_of_a_key() -> None:
    fields: dict[str, Any] = {"name": "n", "client": "c", "scopes": ["chat"]}
    assert KeyRequest(**fields, limit=5).limit == 5
    for limit in (True, "5", 0):
        with pytest.raises(ValidationError):
            KeyRequest(**fields, limit=limit)

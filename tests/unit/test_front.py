"""Chat and gateway behind a front: what did not come through it is refused."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from lambent.admission.decisions import AdmissionConfig
from lambent.admission.gate import Gate
from lambent.clock import SystemClock
from lambent.errors import ConfigError
from lambent.http.front import through_front
from lambent.http.gateway_app import build_gateway_app
from lambent.postgres import Postgres
from lambent.settings import load_settings
from local.services import ScriptedModel
from tests.unit.chat_site import CHAT, chat_site

OLD, NEW = "the-old-secret-of-the-front", "the-new-secret-of-the-front"


def sending(*values: str) -> list[tuple[str, str]]:
    return [("x-lambent-origin", value) for value in values]


@pytest.fixture
def gateway() -> httpx.AsyncClient:
    clock = SystemClock()
    nowhere = Postgres("postgresql://nobody@127.0.0.1:1/nothing", clock=clock)
    gate = Gate(nowhere, clock=clock, config=AdmissionConfig())
    app: Any = build_gateway_app(gate=gate, clock=clock, pings={}, origin_secrets=(NEW, OLD))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test")


@pytest.mark.parametrize(
    "sent", [(), ("",), ("the-old",), (OLD + "x",), (OLD, OLD), (f"{NEW},{OLD}",)]
)
async def test_the_gateway_refuses_what_did_not_come_through_the_front(
    gateway: httpx.AsyncClient, sent: tuple[str, ...]
) -> None:
    for path in ("/", "/keys", "/openapi.json", "/health/ready", "/callbacks/x", "/nothing"):
        answer = await gateway.get(path, headers=sending(*sent))
        assert answer.status_code == 403, path
        assert answer.json()["type"] == "urn:lambent:problem:not_through_front"


@pytest.mark.parametrize("sent", [OLD, NEW])
async def test_both_secrets_are_good_while_one_is_changed(
    gateway: httpx.AsyncClient, sent: str
) -> None:
    assert (await gateway.get("/health/ready", headers=sending(sent))).status_code == 200


async def test_liveness_is_told_to_anyone(gateway: httpx.AsyncClient) -> None:
    assert (await gateway.get("/health/live")).status_code == 200


async def test_the_chat_refuses_before_it_looks_at_the_key(
    postgres_dsn: str, scripted_model: ScriptedModel
) -> None:
    host = scripted_model.host
    async with chat_site(postgres_dsn, host, origin_secret=NEW) as site, site.client() as client:
        around = await client.post("/chat", json=CHAT)
        assert around.status_code == 403
        assert around.headers["content-type"] == "application/problem+json"
        openai = await client.get("/v1/models")
        assert (openai.status_code, openai.json()["error"]["code"]) == (403, "not_through_front")
        assert (await client.get("/health")).status_code == 200
        through = await client.post("/chat", json=CHAT, headers=sending(NEW))
        assert through.status_code == 200, through.text


def test_without_a_secret_nothing_stands_in_the_way() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    assert through_front(app, ("", "")) is app


@pytest.mark.parametrize("weak", ["short", "sixteen characters with spaces", "ümlaut" * 5])
def test_a_weak_secret_is_refused_and_not_shown(weak: str) -> None:
    stores = {"MONGO_URI": "mongodb://x", "POSTGRES_DSN": "postgresql://x/y"}
    with pytest.raises(ConfigError, match="ORIGIN_SECRET must be 16") as caught:
        load_settings({**stores, "ORIGIN_SECRET": weak})
    assert weak not in str(caught.value)

"""The gateway's sections: nothing of them before their first request, and all of them described."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from fastapi import APIRouter, FastAPI

from lambent.app import Platform
from lambent.http.gateway_app import build_gateway_app
from lambent.http.gateway_sections import gateway_sections
from lambent.http.sections import Section, Sections
from lambent.settings import load_settings

GATEWAY = Path(__file__).resolve().parents[2] / "functions" / "gateway"
ENVIRON = {"MONGO_URI": "mongodb://127.0.0.1:1", "POSTGRES_DSN": "postgresql://127.0.0.1:1/d"}
LATE = ("jinja2", "pygal", "lambent.engine", "lambent.bus", "lambent.http.runs", "croniter")


def platform() -> Platform:
    return Platform(load_settings(ENVIRON))


def client_of(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test")


def section(name: str, made: list[str], *, fails: bool = False) -> Section:
    def build() -> APIRouter:
        made.append(name)
        if fails and made.count(name) == 1:
            raise ValueError("not yet")
        router = APIRouter()
        router.add_api_route(f"/{name}/thing", lambda: {"from": name})
        return router

    return Section((name,), build)


def test_a_cold_start_imports_nothing_that_only_a_section_needs() -> None:
    program = f"import sys; sys.path.insert(0, {str(GATEWAY)!r}); import handler\n" + (
        f"print([one for one in {LATE!r} if one in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], env=ENVIRON, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


async def test_a_section_is_built_by_its_first_request_and_once() -> None:
    made: list[str] = []
    app = FastAPI()
    lazy = Sections(app, [section("a", made), section("b", made)])
    async with client_of(lazy.opening(app)) as client:
        assert (await client.get("/else")).status_code == 404
        assert made == []
        for _ in range(2):
            assert (await client.get("/a/thing")).json() == {"from": "a"}
    assert made == ["a"]


async def test_a_section_that_could_not_be_built_is_tried_again() -> None:
    made: list[str] = []
    app = FastAPI()
    lazy = Sections(app, [section("a", made, fails=True)])
    async with client_of(lazy.opening(app)) as client:
        with pytest.raises(ValueError, match="not yet"):
            await client.get("/a/thing")
        assert (await client.get("/a/thing")).json() == {"from": "a"}


def test_every_route_of_a_section_lies_under_the_paths_that_open_it() -> None:
    for one in gateway_sections(platform()):
        routes = [cast(Any, route).path for route in one.build().routes]
        assert {path.split("/")[1] for path in routes} == set(one.paths)


async def test_the_description_holds_every_section_before_any_was_asked_for() -> None:
    parts = platform()
    lazy = build_gateway_app(
        gate=parts.gate, clock=parts.clock, pings={}, sections=gateway_sections(parts)
    )
    eager = build_gateway_app(
        gate=parts.gate,
        clock=parts.clock,
        pings={},
        routers=[one.build() for one in gateway_sections(parts)],
    )
    async with client_of(lazy) as client, client_of(eager) as other:
        document = (await client.get("/openapi.json")).json()
        whole = (await other.get("/openapi.json")).json()
    assert document["paths"] == whole["paths"]
    assert document["components"] == whole["components"]
    assert len(document["paths"]) > 30

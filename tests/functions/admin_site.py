"""The gateway with its admin pages over real stores, and a browser without a window."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import httpx

from lambent.admission.decisions import Scope
from lambent.admission.migrate import migrate
from lambent.app import Platform, admin_pages
from lambent.engine.engine import WorkflowEngine
from lambent.http.gateway_app import build_gateway_app
from lambent.http.gateway_sections import gateway_sections
from lambent.settings import load_settings

HERE = "http://test"


@dataclass
class AdminSite:
    parts: Platform
    app: Any

    async def key(self, *scopes: Scope, name: str = "ada", client: str = "ops") -> str:
        made = await self.parts.keys.create(client, name, scopes=scopes or list(Scope))
        return made.text

    def client(self, key: str | None = None) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return httpx.AsyncClient(transport=transport, base_url=HERE, headers=headers)

    async def browser(self, *scopes: Scope, key: str | None = None) -> Browser:
        """Somebody signed in with a fresh key of these scopes."""
        browser = Browser(self.client())
        answer = await browser.sign_in(key or await self.key(*scopes))
        assert answer.status_code == 303, answer.text
        return browser

    async def run(self, workflow: str = "news.digest", **fields: Any) -> str:
        engine: WorkflowEngine = self.parts.engine
        started = await engine.start(workflow, fields.pop("input", {}), client="ops", **fields)
        return str(started.run["_id"])


@dataclass
class Browser:
    client: httpx.AsyncClient

    async def sign_in(self, key: str, **fields: str) -> httpx.Response:
        form = {"key": key, **fields}
        return await self.client.post("/admin/sign-in", data=form, headers={"origin": HERE})

    async def get(self, path: str) -> httpx.Response:
        return await self.client.get(path)

    async def csrf(self) -> str:
        page = (await self.client.get("/admin/audit")).text
        found = re.search(r'name="csrf" value="([^"]+)"', page)
        assert found, page[:500]
        return found[1]

    async def do(self, action: str, **form: str) -> httpx.Response:
        """Send a form as the page would."""
        data = {"csrf": await self.csrf(), **form}
        return await self.client.post(f"/admin/{action}", data=data, headers={"origin": HERE})


@asynccontextmanager
async def admin_site(
    dsn: str, mongo_uri: str, db_name: str, **environ: str
) -> AsyncIterator[AdminSite]:
    settings = load_settings(
        {
            "POSTGRES_DSN": dsn,
            "MONGO_URI": mongo_uri,
            "MONGO_DB_NAME": db_name,
            "OLLAMA_HOST": "http://127.0.0.1:9",
            "AWS_ENDPOINT_URL_LAMBDA": "http://127.0.0.1:9",
            "RATE_LIMIT_MAX_REQUESTS": "100000",
            **environ,
        }
    )
    parts = Platform(settings)
    await migrate(parts.postgres)
    app = build_gateway_app(
        gate=parts.gate,
        clock=parts.clock,
        pings={},
        sections=gateway_sections(parts),
        audit=parts.audit,
        pages=lambda api: admin_pages(parts, api),
        chat_base=settings.chat_base_url,
        origin_secrets=settings.origin_secrets,
    )
    try:
        yield AdminSite(parts, cast(Any, app))
    finally:
        await parts.postgres.close()
        await parts.mongo.close()

"""Chat functions in this process, each a platform of its own, over real stores."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from lambent.admission.decisions import Scope
from lambent.admission.migrate import migrate
from lambent.app import Platform
from lambent.bus.events import ensure_event_indexes
from lambent.clock import EPOCH
from lambent.engine.model import RUNS
from lambent.http.chat_app import build_chat_app
from lambent.http.gateway_app import build_gateway_app
from lambent.http.gateway_sections import gateway_sections
from lambent.settings import Settings
from tests.unit.chat_site import serving

ASK = {"agent": "clerk", "input": "Do it."}


@dataclass(frozen=True, slots=True)
class Function:
    """One environment: its platform, and its chat over HTTP."""

    parts: Platform
    url: str
    key: str
    gateway: httpx.AsyncClient

    def client(self, key: str | None = None) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {key or self.key}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    async def run(self) -> dict[str, Any]:
        """The newest run's document."""
        runs = self.parts.mongo.db[RUNS.collection]
        found = await runs.find({}).sort("_id", -1).limit(1).to_list()
        return found[0] if found else {}

    async def get(self, path: str, *, key: str | None = None) -> httpx.Response:
        """From the gateway."""
        headers = {"authorization": f"Bearer {key or self.key}"}
        return await self.gateway.get(path, headers=headers)

    async def post(self, path: str, body: Any, *, key: str | None = None) -> httpx.Response:
        """To the gateway."""
        headers = {"authorization": f"Bearer {key or self.key}"}
        return await self.gateway.post(path, json=body, headers=headers)

    async def until_run(self, *statuses: str) -> dict[str, Any]:
        async with asyncio.timeout(30):
            while (run := await self.run()).get("status") not in statuses:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return run

    async def die(self) -> None:
        """As if it had been killed half a minute ago: nothing is settled, its lease has lapsed."""
        for feed in list(self.parts.durable_chats._feeds.values()):
            feed._task.cancel()
        runs = self.parts.mongo.db[RUNS.collection]
        await runs.update_many({"status": "running"}, {"$set": {"lease_until": EPOCH}})


@asynccontextmanager
async def functions(
    count: int, dsn: str, mongo_uri: str, db_name: str, host: str, **changed: Any
) -> AsyncIterator[list[Function]]:
    """So many of them, over one database."""
    settings = Settings(
        mongo_uri=mongo_uri, mongo_db_name=db_name, postgres_dsn=dsn, ollama_host=host,
        rate_limit_max_requests=100_000, aws_endpoint_url_lambda="http://127.0.0.1:1",
        **{"agent_modules": ("tests.store.durable_agents",), **changed},
    )  # fmt: skip
    async with AsyncExitStack() as held:
        made: list[Function] = []
        key = ""
        for _ in range(count):
            parts = Platform(settings)
            held.push_async_callback(_close, parts)  # last: a late request would connect again
            if not made:
                await migrate(parts.postgres)
                await parts.engine.ensure_indexes()
                await parts.chats.streams.ensure_indexes()
                await ensure_event_indexes(parts.mongo, clock=parts.clock)
                scopes = [Scope.CHAT, Scope.RUNS, Scope.EVENTS]
                key = (await parts.keys.create("ann", "test", scopes=scopes)).text
            url = await held.enter_async_context(serving(build_chat_app(parts.chats)))
            gateway = await held.enter_async_context(_gateway(parts))
            made.append(Function(parts, url, key, gateway))
        yield made


@asynccontextmanager
async def _gateway(parts: Platform) -> AsyncIterator[httpx.AsyncClient]:
    app = build_gateway_app(
        gate=parts.gate, clock=parts.clock, pings={}, sections=gateway_sections(parts)
    )
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def _close(parts: Platform) -> None:
    parts.engine.stop()
    async with asyncio.timeout(30):
        while (  # noqa: ASYNC110
            parts.engine._slices or parts.durable_chats._stopping or parts.chats._streams
        ):
            await asyncio.sleep(0.01)
    await parts.engine.store.close()
    await parts.models.close()
    await parts.postgres.close()


def frames(text: str) -> list[Any]:
    data = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [one if one == "[DONE]" else json.loads(one) for one in data]

"""The chat application behind a real HTTP server in this process, over a real Postgres."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn

from lambent.admission.budgets import BudgetEdges, BudgetStore, Kind, Period, Unit
from lambent.admission.decisions import AdmissionConfig, Scope
from lambent.admission.gate import Gate
from lambent.admission.keys import KeyStore
from lambent.admission.migrate import migrate
from lambent.agents.agent import Agent
from lambent.agents.registry import AgentRegistry
from lambent.chat.service import ChatService
from lambent.clock import SystemClock
from lambent.http.chat_app import build_chat_app
from lambent.models.manager import ModelManager
from lambent.mongo import Mongo
from lambent.postgres import Postgres
from lambent.settings import Settings
from lambent_agents.chat import ChatAgent
from lambent_agents.news import NewsAgent

CHAT = {"agent": "chat", "input": "Why is the sky blue?"}


@dataclass(frozen=True, slots=True)
class ChatSite:
    """The site's address, and what a test may look into."""

    url: str
    app: Any
    key: str
    postgres: Postgres
    keys: KeyStore
    gate: Gate

    def client(self, key: str | None = None) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {self.key if key is None else key}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=20, trust_env=False)

    async def slots_taken(self) -> int:
        return len((await self.gate.state()).slots)

    async def until_no_slot_is_taken(self) -> None:
        """What an answer leaves behind is booked just after it."""
        async with asyncio.timeout(30):
            while await self.slots_taken():  # noqa: ASYNC110  (Postgres has no event for it)
                await asyncio.sleep(0.01)

    async def new_key(self, *, limit: int | None = None, scope: Scope = Scope.CHAT) -> str:
        client = f"client-{len((await self.keys.list()).keys)}"
        made = await self.keys.create(client, "test", scopes=[scope], limit=limit)
        return made.text


@asynccontextmanager
async def chat_site(
    dsn: str,
    model_host: str,
    *,
    agents: Iterable[type[Agent]] = (),
    mongo: Mongo | None = None,
    **changed: Any,
) -> AsyncIterator[ChatSite]:
    """A site with the two agents that come along and `agents`; settings as in `changed`."""
    clock = SystemClock()
    settings = Settings(
        mongo_uri="mongodb://unused", postgres_dsn=dsn, ollama_host=model_host,
        **{"rate_limit_max_requests": 100_000, **changed},
    )  # fmt: skip
    postgres = Postgres(dsn, clock=clock)
    await migrate(postgres)
    keys = KeyStore(postgres, clock=clock)
    gate = Gate(postgres, clock=clock, config=AdmissionConfig.of(settings))
    models = ModelManager(settings, clock=clock)
    service = ChatService(
        gate=gate, models=models, settings=settings, clock=clock,
        registry=AgentRegistry([ChatAgent, NewsAgent, *agents]),
        mongo=None if mongo is None else lambda: mongo,
    )  # fmt: skip
    made = await keys.create("tests", "test", scopes=[Scope.CHAT])
    app = build_chat_app(service)
    async with serving(app) as url:
        yield ChatSite(url, app, made.text, postgres, keys, gate)
    await models.close()
    await postgres.close()


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """The application under uvicorn on a free port."""
    # With its protocol named: asyncio turns Nagle's delay off only where it reads TCP.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, lifespan="off", log_level="error", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:  # noqa: ASYNC110  (uvicorn tells it by a flag only)
        await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()


def frames(text: str) -> list[Any]:
    """The data of each event; `[DONE]` as it is."""
    data = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [one if one == "[DONE]" else json.loads(one) for one in data]


def said(text: str) -> str:
    """The answer that a stream's deltas add up to."""
    return "".join(one.get("delta", "") for one in frames(text) if isinstance(one, dict))


async def budget(site: ChatSite, *, soft: float | None = None, hard: float | None = None) -> None:
    """A day's tokens for the client of the site's key."""
    edges = BudgetEdges(period=Period.DAY, unit=Unit.TOKENS, soft=soft, hard=hard)
    await BudgetStore(site.postgres).put(Kind.CLIENT, "tests", [edges])

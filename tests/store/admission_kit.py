"""A gate, keys and tables on a fresh database, for the tests of admission."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from lambent.admission.decisions import AdmissionConfig, AdmissionRequest, Admitted, Queued, Scope
from lambent.admission.gate import Gate
from lambent.admission.keys import KeyStore
from lambent.admission.migrate import migrate
from lambent.clock import SystemClock
from lambent.postgres import Postgres
from local.services import Postgres as PostgresService

HOST = "http://model.test:11434"


@dataclass(frozen=True)
class Stand:
    postgres: Postgres
    keys: KeyStore
    gate: Gate
    key: str  # of the client acme, for chat
    config: AdmissionConfig

    async def ask(self, credential: str | None = None, **request: Any) -> Any:
        request.setdefault("scope", Scope.CHAT)
        return await self.gate.admit(AdmissionRequest(credential=credential or self.key, **request))

    async def ask_as(self, client: str, **request: Any) -> Any:
        """As trusted code does: with breaker and slot, without key and limit."""
        return await self.gate.admit(
            AdmissionRequest(
                credential=None, scope=Scope.RUNS, on_behalf_of=client, host=HOST, **request
            )
        )

    async def admitted(self, client: str = "acme", **request: Any) -> Admitted:
        decision = await self.ask_as(client, **request)
        assert isinstance(decision, Admitted), decision
        return decision

    async def queued(self, client: str = "acme") -> Queued:
        decision = await self.ask_as(client, slot=True)
        assert isinstance(decision, Queued), decision
        return decision


@asynccontextmanager
async def stand(dsn: str, **config: Any) -> AsyncIterator[Stand]:
    """Everything in place; the numbers of `AdmissionConfig` as named."""
    clock = SystemClock()
    postgres = Postgres(dsn, clock=clock)
    try:
        await migrate(postgres)
        keys = KeyStore(postgres, clock=clock)
        made = await keys.create("acme", "the test's", scopes=[Scope.CHAT])
        numbers = AdmissionConfig(**config)
        gate = Gate(postgres, clock=clock, config=numbers)
        yield Stand(postgres, keys, gate, made.text, numbers)
    finally:
        await postgres.close()


async def kill(server: PostgresService, place: Stand) -> None:
    """Kill the server; its process for our connection ends when it notices, a moment later."""
    backend = (await place.postgres.fetch_one("SELECT pg_backend_pid() AS pid")).pid
    server.kill()
    await asyncio.to_thread(_gone, backend)


def _gone(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.kill(pid, 0)
            time.sleep(0.01)

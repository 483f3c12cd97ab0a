"""Two chat functions over the same stores, and readers that lose their connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from lambent.clock import SystemClock
from lambent.mongo import Mongo
from lambent.streams.store import StreamStore
from local.services import ScriptedModel
from local.services.script import Reply
from tests.unit.chat_site import CHAT, ChatSite, chat_site

LEASE = {"x-stream-lease": "60"}


@dataclass(frozen=True, slots=True)
class Sites:
    """Two functions, and the store behind both."""

    one: ChatSite
    two: ChatSite
    store: StreamStore

    def clients(self, key: str | None = None) -> tuple[httpx.AsyncClient, httpx.AsyncClient]:
        """The same caller at each function; `two` takes the keys of `one`."""
        key = self.one.key if key is None else key
        return self.one.client(key), self.two.client(key)


@asynccontextmanager
async def endless_sites(
    dsn: str, model: ScriptedModel, mongo_uri: str, mongo_db_name: str
) -> AsyncIterator[Sites]:
    """Two functions before a model that goes on for half a minute."""
    model.default = Reply.many(3000, delay_s=0.01)
    async with two_sites(dsn, model.host, mongo_uri, mongo_db_name, keep_alive_s=0.3) as sites:
        yield sites


@asynccontextmanager
async def two_sites(
    dsn: str, model_host: str, mongo_uri: str, mongo_db_name: str, **changed: Any
) -> AsyncIterator[Sites]:
    """As a fleet would be: nothing is shared but Postgres, MongoDB and the model."""
    clock = SystemClock()
    first, second = (Mongo(mongo_uri, mongo_db_name, clock=clock) for _ in range(2))
    store = StreamStore(lambda: first, clock=clock)
    await store.ensure_indexes()
    async with (
        chat_site(dsn, model_host, mongo=first, **changed) as one,
        chat_site(dsn, model_host, mongo=second, **changed) as two,
    ):
        yield Sites(one, two, store)
    await first.close()
    await second.close()


@dataclass(slots=True)
class Part:
    """What one connection brought: whole events only, as a client counts them."""

    id: str = ""
    text: str = ""


async def read(
    client: httpx.AsyncClient,
    *,
    id: str = "",
    after: int = 0,
    events: int = 1 << 30,
    path: str = "/chat/stream",
    **asked: Any,
) -> Part:
    """Begin a stream, or go on with `id` behind `after`; leave after so many events."""
    if id:
        opened = client.stream(
            "GET", f"/chat/streams/{id}", headers={"last-event-id": str(after)} if after else {}
        )
    else:
        opened = client.stream("POST", path, **{"json": CHAT, "headers": LEASE, **asked})
    got = Part()
    waiting = ""
    async with opened as answer:
        assert answer.status_code == 200, await answer.aread()
        got.id = answer.headers["x-stream-id"]
        async for text in answer.aiter_text():
            waiting += text
            while "\n\n" in waiting and events > 0:
                event, _, waiting = waiting.partition("\n\n")
                if not event.startswith(":"):
                    got.text += event + "\n\n"
                    events -= 1
            if events <= 0:
                break
    return got


async def until_kept(store: StreamStore, id: str, status: str) -> None:
    """An end is written just after it was told."""
    async with asyncio.timeout(30):
        while (found := await store.look(id)) is None or found.status != status:  # noqa: ASYNC110  (MongoDB tells nobody)
            await asyncio.sleep(0.02)

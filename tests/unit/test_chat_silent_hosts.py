"""A model server that does not answer costs those who can do without it no time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from lambent.agents.model_hosts import ModelHosts
from lambent.chat.conversations import ConversationStore
from lambent.chat.dialogue import Windows
from lambent.clock import SystemClock
from lambent.models.manager import ModelManager
from lambent.mongo import Mongo
from lambent.settings import Settings
from lambent.testing import VirtualClock
from local.services import ScriptedModel
from local.services.scripted import MODEL
from tests.unit.chat_site import chat_site

# Whoever waits for the silent host waits as long as no test lasts.
LOOK_LIMIT_S = 3600.0


@pytest.fixture
def door() -> Iterator[socket.socket]:
    """Refuses connections, and once it is told to listen takes them without a word."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        yield door


@pytest.fixture
async def models(door: socket.socket, scripted_model: ScriptedModel) -> AsyncIterator[ModelManager]:
    hosts = f"http://127.0.0.1:{door.getsockname()[1]},{scripted_model.host}"
    settings = Settings(mongo_uri="mongodb://x", postgres_dsn="postgresql://x", ollama_host=hosts)
    manager = ModelManager(settings, clock=SystemClock())
    yield manager
    await manager.close()


async def test_nobody_waits_for_a_host_that_is_known_to_be_silent(
    models: ModelManager, door: socket.socket, scripted_model: ScriptedModel
) -> None:
    hosts = ModelHosts(models, fresh_s=0.0, look_limit_s=LOOK_LIMIT_S)
    await hosts.for_model(MODEL)
    door.listen()
    async with asyncio.timeout(60):
        found = await hosts.for_model(MODEL)
        listed = await hosts.all_models()
    assert found.hosts[0] == scripted_model.host  # the one that did not say comes last
    assert found.loaded == (scripted_model.host,)
    assert [one.name for one in listed] == [MODEL]


async def test_a_host_that_speaks_again_is_asked_again(
    models: ModelManager, door: socket.socket, scripted_model: ScriptedModel
) -> None:
    hosts = ModelHosts(models, fresh_s=0.0)
    assert (await hosts.for_model(MODEL)).loaded == (scripted_model.host,)
    port = door.getsockname()[1]
    door.close()
    with ScriptedModel.start(port=port) as back:
        async with asyncio.timeout(60):
            while back.host not in (await hosts.for_model(MODEL)).loaded:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_a_silent_host_is_not_asked_for_the_window_at_every_turn(
    scripted_model: ScriptedModel,
) -> None:
    settings = Settings(
        mongo_uri="mongodb://x", postgres_dsn="postgresql://x", ollama_host=scripted_model.host
    )
    models, clock = ModelManager(settings, clock=SystemClock()), VirtualClock()
    windows = Windows(models, loaded_tokens=50_000, clock=clock)
    scripted_model.stop_listening()
    assert await windows.tokens_of(MODEL, {}) == 50_000
    scripted_model.listen_again()
    assert await windows.tokens_of(MODEL, {}) == 50_000
    assert not scripted_model.requests
    clock.move_s(31)
    assert await windows.tokens_of(MODEL, {}) == 8192
    await models.close()


async def test_the_window_is_asked_of_the_host_that_has_the_turn(
    postgres_dsn: str, mongo_uri: str, mongo_db_name: str
) -> None:
    clock = SystemClock()
    mongo = Mongo(mongo_uri, mongo_db_name, clock=clock)
    conversations = ConversationStore(lambda: mongo, clock=clock)
    await conversations.ensure_indexes()
    made = await conversations.create("tests")
    with ScriptedModel.start() as one, ScriptedModel.start() as two:
        one.held_models, one.loaded_models = ["other:latest"], []
        hosts = f"{one.host},{two.host}"
        async with chat_site(postgres_dsn, hosts, mongo=mongo) as site, site.client() as client:
            asked = {"input": "Hi", "conversation": made.id}
            assert (await client.post("/chat", json=asked)).status_code == 200
        shown = [[r for r in server.requests if r.path == "/api/show"] for server in (one, two)]
    assert [len(found) for found in shown] == [0, 1]
    await mongo.close()

"""The model server's small calls, and connections that outlive neither a freeze nor a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest

from lambent.clock import SystemClock
from lambent.errors import ModelTimeout, ModelUnavailable, UnknownModel
from lambent.models.connections import Connections
from lambent.models.manager import ModelManager
from lambent.models.values import Message, ModelRequest, Role
from lambent.settings import Settings
from local.services import ScriptedModel
from local.services.script import Reply

ASKED = ModelRequest(model="m", messages=(Message(role=Role.user, content="Hi"),))


class LeapingClock(SystemClock):
    """A clock that a test sets forward, as a thaw does."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return super().now() + self.ahead


@pytest.fixture
def clock() -> LeapingClock:
    return LeapingClock()


@pytest.fixture
async def models(scripted_model: ScriptedModel, clock: LeapingClock) -> AsyncIterator[ModelManager]:
    settings = Settings(
        mongo_uri="mongodb://x", postgres_dsn="postgresql://x", ollama_host=scripted_model.host
    )
    manager = ModelManager(settings, clock=clock)
    yield manager
    await manager.close()


async def text_of(models: ModelManager) -> str:
    return "".join([chunk.content async for chunk in models.generate_stream(ASKED)])


async def test_the_server_tells_its_version_and_its_models(models: ModelManager) -> None:
    assert await models.ping()
    (info,) = await models.list_models()
    assert info.name == "smollm2:135m"
    assert info.family == "llama"


async def test_a_model_tells_what_it_can_and_how_much_it_reads(models: ModelManager) -> None:
    details = await models.show("smollm2:135m")
    assert details.context_tokens == 8192
    assert "tools" in details.capabilities
    with pytest.raises(UnknownModel):
        await models.show("nope")


async def test_each_input_gets_its_vector(models: ModelManager) -> None:
    embeddings = await models.embed("smollm2:135m", ["one", "two"])
    assert len(embeddings.vectors) == 2
    assert embeddings.vectors[0] != embeddings.vectors[1]
    assert embeddings.usage.prompt_tokens == 2


async def test_a_server_that_is_gone_does_not_answer_a_ping(
    models: ModelManager, scripted_model: ScriptedModel
) -> None:
    scripted_model.stop_listening()
    with pytest.raises(ModelUnavailable):
        await models.ping()


async def test_a_ping_ends_in_time_where_nobody_speaks(models: ModelManager) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(ModelTimeout):
        await models.ping(host=f"http://127.0.0.1:{port}", limit_s=0.1)
    server.close()


async def test_one_connection_serves_many_generations(
    models: ModelManager, scripted_model: ScriptedModel
) -> None:
    for _ in range(3):
        assert await text_of(models) == "Hello from the script."
    assert len({id(seen.exchange._connection) for seen in scripted_model.generations}) == 1


async def test_a_restart_of_the_server_between_two_calls_goes_unnoticed(
    models: ModelManager, scripted_model: ScriptedModel
) -> None:
    await text_of(models)
    scripted_model.stop_listening()
    scripted_model.listen_again()
    assert await text_of(models) == "Hello from the script."


async def test_after_a_freeze_new_connections_are_made_and_running_streams_go_on(
    models: ModelManager, scripted_model: ScriptedModel, clock: LeapingClock
) -> None:
    scripted_model.script(Reply.many(20, frame="a", delay_s=0.01), Reply.text("fresh"))
    running = models.generate_stream(ASKED)
    first = await anext(running)
    clock.ahead = timedelta(seconds=60)
    assert await text_of(models) == "fresh"
    rest = "".join([chunk.content async for chunk in running])
    assert first.content + rest == "a" * 20


async def test_a_dropped_pool_closes_with_its_last_borrower() -> None:
    connections = Connections(clock=SystemClock(), tls=False)
    async with connections.borrow() as old:
        connections.drop()
        async with connections.borrow() as new:
            assert new is not old
    await connections.close()
    assert connections._borrowers == {}

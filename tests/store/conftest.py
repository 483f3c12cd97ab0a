"""What the stories about the engine, and about durable agents, begin with."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from lambent import tracing
from lambent.engine.registry import Registry
from lambent.settings import load_settings
from lambent.testing import WorkflowTest
from local.services import ScriptedModel
from tests.collector import Collector
from tests.store.durable_site import Function, functions


class Effects:
    """Counts what steps did to the outside world."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def do(self, what: Any) -> Any:
        self.seen.append(what)
        return what

    def failing(self, *errors: Exception | None) -> Any:
        """A function that raises each error in turn, then works; None works at once."""
        left = list(errors)

        async def act(what: Any = "done") -> Any:
            self.seen.append(what)
            if left and (error := left.pop(0)) is not None:
                raise error
            return what

        return act


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Takes the spans of this process, which are off again afterwards."""
    stores = {"MONGO_URI": "mongodb://h", "POSTGRES_DSN": "postgresql://h/d"}
    with Collector() as made:
        environ = {"TRACING": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": made.url}
        tracing.configure(load_settings({**stores, **environ}))
        yield made
        made.shutdown()
    tracing.configure(load_settings(stores))


@pytest.fixture
def workflows() -> Registry:
    """The workflows of one test; it registers its own."""
    return Registry()


@pytest.fixture
async def test(
    mongo_uri: str, mongo_db_name: str, workflows: Registry
) -> AsyncIterator[WorkflowTest]:
    """An engine with a fresh database and virtual time."""
    async with WorkflowTest(mongo_uri, workflows=workflows, db_name=mongo_db_name) as one:
        yield one


@pytest.fixture
def effects() -> Effects:
    return Effects()


@pytest.fixture
async def pair(
    postgres_dsn: str, mongo_uri: str, mongo_db_name: str, scripted_model: ScriptedModel
) -> AsyncIterator[list[Function]]:
    """Two functions with durable agents, over one database."""
    places = (postgres_dsn, mongo_uri, mongo_db_name, scripted_model.host)
    async with functions(2, *places) as made:
        yield made


@pytest.fixture
async def place(
    postgres_dsn: str, mongo_uri: str, mongo_db_name: str, scripted_model: ScriptedModel
) -> AsyncIterator[Function]:
    """One of them alone."""
    places = (postgres_dsn, mongo_uri, mongo_db_name, scripted_model.host)
    async with functions(1, *places) as made:
        yield made[0]

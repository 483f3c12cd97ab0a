"""Real services for the tests: started once a session, or named by the environment."""

import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import httpx
import hypothesis
import pytest

from local.services import (
    ModelHost,
    ModelServer,
    Mongo,
    MongoHost,
    Ollama,
    Postgres,
    PostgresHost,
    Reply,
    ScriptedModel,
    ServiceError,
)

T = TypeVar("T")

# A busy machine is no failure: by itself it gives each example a fifth of a second.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

# Mostly they wait, for leases that lapse, and need a fifth of a processor.
_WAITING = ("test_storm_", "test_stack_", "test_dashboard_")
_LONGEST = "test_engine_crashes"
_BUSIEST = "test_engine_interleavings"  # keeps every processor busy by itself


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    turns = {path: turn for turn, path in enumerate(in_turn([item.path for item in items]))}
    items.sort(key=lambda item: turns[item.path])


def in_turn(paths: Iterable[Path]) -> list[Path]:
    """Each file once, for workers that take one after the other: those that wait are spread among
    those that do not, so that one more worker than processors leaves none of them idle; the longest
    comes first, and last the one beside which nothing else gets on."""
    files = list(dict.fromkeys(paths))
    waiting = [file for file in files if file.name.startswith(_WAITING)]
    others = [file for file in files if file not in waiting]
    places = {file: at / len(others) for at, file in enumerate(others)}
    # The last of them in good time: what waits at the end, all wait for.
    places |= {file: 0.8 * at / len(waiting) for at, file in enumerate(waiting)}
    first_last = {_LONGEST: -1.0, _BUSIEST: 2.0}
    return sorted(files, key=lambda file: first_last.get(file.stem, places[file]))


def started(start: Callable[[], T]) -> T:
    """What `start` gives; without it the test is skipped on a laptop and fails with CI=true."""
    try:
        return start()
    except ServiceError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresHost]:
    if dsn := os.environ.get("POSTGRES_DSN"):
        yield PostgresHost(dsn)
        return
    folder = tmp_path_factory.mktemp("postgres")
    with started(lambda: Postgres.start(folder, fsync=False)) as server:
        yield server


@pytest.fixture(scope="session")
def mongo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoHost]:
    if uri := os.environ.get("MONGO_URI"):
        yield MongoHost(uri)
        return
    folder = tmp_path_factory.mktemp("mongo")
    with started(lambda: Mongo.start(folder)) as server:
        yield server


@pytest.fixture(scope="session")
def model_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelHost]:
    """An Ollama API over the small real model `model_server.model`."""
    if host := os.environ.get("OLLAMA_HOST"):
        yield ModelHost(host)
        return
    folder: Path = tmp_path_factory.mktemp("model")
    with started(lambda: ModelServer.start(folder)) as server:
        yield server


@pytest.fixture
def postgres_dsn(postgres_server: PostgresHost) -> Iterator[str]:
    """A fresh database without tables, dropped after the test."""
    name = f"test_{secrets.token_hex(6)}"
    yield postgres_server.create_database(name)
    postgres_server.drop_database(name)


@pytest.fixture
def mongo_uri(mongo_server: MongoHost) -> str:
    return mongo_server.uri


@pytest.fixture
def mongo_db_name(mongo_server: MongoHost) -> Iterator[str]:
    """A fresh database name; what the test put there is dropped after it."""
    name = f"test_{secrets.token_hex(6)}"
    yield name
    mongo_server.drop_database(name)


@pytest.fixture
def scripted_model() -> Iterator[ScriptedModel]:
    with ScriptedModel.start() as server:
        yield server


@pytest.fixture(scope="session")
def ollama_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Hosts that keep Ollama's contract, by kind: "lambent", "ollama", "scripted"."""
    hosts: dict[str, str] = {}
    with contextlib.ExitStack() as stack:

        def host_of(kind: str) -> str:
            if kind not in hosts:
                folder = tmp_path_factory.mktemp(kind)
                server = started(lambda: OLLAMAS[kind](folder))
                stack.callback(server.stop)
                hosts[kind] = server.host
            return hosts[kind]

        yield host_of


def steady_script(_: Path) -> ScriptedModel:
    server = ScriptedModel.start()
    server.default = Reply.many(200, delay_s=0.01)
    return server


OLLAMAS: dict[str, Callable[[Path], ModelServer | Ollama | ScriptedModel]] = {
    "lambent": ModelServer.start,
    "ollama": Ollama.start,
    "scripted": steady_script,
}


@pytest.fixture
async def ollama_api(
    request: pytest.FixtureRequest, ollama_hosts: Callable[[str], str]
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the kind of Ollama that the test is parametrised with (indirectly)."""
    host = ollama_hosts(request.param)
    async with httpx.AsyncClient(base_url=host, timeout=120) as client:
        yield client

"""A password that is rotated heals without a deploy; one that is wrong is not asked for all day."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import pytest

from lambent.clock import SystemClock
from lambent.due import DueDocuments, Lease, new_due_fields
from lambent.engine.model import RUNS
from lambent.errors import StoreUnavailable
from lambent.leases import Held, LeaseKeeper
from lambent.models.manager import ModelManager
from lambent.models.values import Message, ModelRequest, Role
from lambent.mongo import Mongo, guarded
from lambent.postgres import Postgres
from lambent.rotation import RotatingSecret
from lambent.settings import load_settings
from local.services import PostgresHost, ScriptedModel
from local.services.script import Reply
from tests.store.secure_services import guarded_mongo

CLOCK = SystemClock()
ASKED = ModelRequest(model="m", messages=(Message(role=Role.user, content="Hi"),))


class Kept:
    """A secret where it is kept; counts who looks."""

    def __init__(self, value: str) -> None:
        self.value = value
        self.looks = 0

    def look(self) -> str:
        self.looks += 1
        return self.value

    def secret(self) -> RotatingSecret:
        return RotatingSecret("TEST", self.value, clock=CLOCK, look_up=self.look)


async def test_a_rotated_postgres_password_heals_within_the_statement(
    postgres_server: PostgresHost, postgres_dsn: str
) -> None:
    def dsn(password: str) -> str:
        return psycopg.conninfo.make_conninfo(postgres_dsn, user="rotating", password=password)

    with psycopg.connect(postgres_server.dsn, autocommit=True) as admin:
        admin.execute("CREATE ROLE rotating LOGIN PASSWORD 'one'")
        kept = Kept(dsn("one"))
        postgres = Postgres(kept.secret(), clock=CLOCK)
        await postgres.ping()
        admin.execute("ALTER ROLE rotating PASSWORD 'two'")
        await postgres.ping()  # a connection that stands knows nothing of it
        kept.value = dsn("two")
        postgres.drop()
        await asyncio.gather(*(postgres.ping() for _ in range(5)))
        await postgres.close()
        admin.execute("DROP ROLE rotating")
    assert kept.looks == 1


async def test_a_password_that_stays_wrong_is_looked_up_once_in_a_while(postgres_dsn: str) -> None:
    wrong = psycopg.conninfo.make_conninfo(postgres_dsn, user="nobody", password="wrong")
    kept = Kept(wrong)
    postgres = Postgres(kept.secret(), clock=CLOCK)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await postgres.ping()
    assert kept.looks == 1


async def test_a_password_that_was_given_as_such_is_looked_up_nowhere(postgres_dsn: str) -> None:
    wrong = psycopg.conninfo.make_conninfo(postgres_dsn, user="nobody", password="wrong")
    with pytest.raises(StoreUnavailable):
        await Postgres(wrong, clock=CLOCK).ping()


async def test_a_rotated_mongo_password_heals_at_the_next_call_and_for_leases(
    tmp_path: Path,
) -> None:
    with guarded_mongo(tmp_path) as mongo:
        kept = Kept(mongo.uri("one"))
        secrets = [kept.secret(), kept.secret()]
        store, keeper = Mongo(secrets[0], "test", clock=CLOCK), keeper_of(secrets[1])
        mongo.set_password("one", "two")
        kept.value = mongo.uri("two")
        with pytest.raises(StoreUnavailable, match="credentials"):
            await store.ping()
        await store.ping()
        lease = Lease(RUNS, "one", "token", CLOCK.monotonic_s() + 30)
        await guarded(store.db["runs"].insert_one({"_id": "one", "lease": "token", "signals": 0}))
        held = Held(lease, 0)
        with keeper.keep(held, lambda lost: None):
            while held.lease is lease:  # noqa: ASYNC110 (a thread renews it)
                await asyncio.sleep(0.01)
        keeper.close()
        await store.close()
    assert kept.looks == 2, "one for each secret"


async def test_a_rotated_mongo_password_keeps_no_function_from_claiming_for_long(
    tmp_path: Path,
) -> None:
    with guarded_mongo(tmp_path) as mongo:
        kept = Kept(mongo.uri("one"))
        store = Mongo(kept.secret(), "test", clock=CLOCK)
        due = DueDocuments(store, RUNS, clock=CLOCK)
        await due.collection.insert_one({"_id": "one", **new_due_fields(CLOCK.now())})
        await store.close()
        mongo.set_password("one", "two")
        kept.value = mongo.uri("two")
        await due.claim("one")
        assert await due.claim("one") is not None
        await store.close()


def keeper_of(secret: RotatingSecret) -> LeaseKeeper:
    return LeaseKeeper(secret, "test", clock=CLOCK, every_s=0.01)


async def test_a_rotated_key_of_the_model_server_heals_within_the_call(
    scripted_model: ScriptedModel,
) -> None:
    scripted_model.when(
        lambda asked: asked.headers.get("authorization") != "Bearer two",
        Reply(status=401, error="unauthorized"),
    )
    environ = {"MONGO_URI": "mongodb://h", "POSTGRES_DSN": "postgresql://h/d"}
    settings = load_settings({**environ, "OLLAMA_HOST": scripted_model.host})
    kept = Kept("one")
    models = ModelManager(settings, clock=CLOCK, key=kept.secret())
    kept.value = "two"
    assert "".join([piece.content async for piece in models.generate_stream(ASKED)])
    assert kept.looks == 1
    await models.close()

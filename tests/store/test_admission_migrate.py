"""Migrations: once, in order, safe for two at once, and never silently changed."""

import asyncio

import pytest

from lambent.admission.migrate import migrate
from lambent.clock import SystemClock
from lambent.errors import ConfigError, StoreUnavailable
from lambent.postgres import Postgres


async def test_an_empty_database_gets_everything_and_a_second_time_nothing(
    postgres_dsn: str,
) -> None:
    postgres = Postgres(postgres_dsn, clock=SystemClock())
    first = await migrate(postgres)
    assert first[0] == "migrations/0001_tables.sql"
    assert "functions/admit.sql" in first
    assert await migrate(postgres) == []
    await postgres.close()


async def test_of_eight_at_once_one_migrates(postgres_dsn: str) -> None:
    clock = SystemClock()
    done = await asyncio.gather(*(migrate(Postgres(postgres_dsn, clock=clock)) for _ in range(8)))
    assert sorted(bool(names) for names in done) == [False] * 7 + [True]


async def test_a_file_changed_after_it_was_applied_is_an_error(postgres_dsn: str) -> None:
    postgres = Postgres(postgres_dsn, clock=SystemClock())
    await migrate(postgres)
    await postgres.fetch(
        "UPDATE lambent.migration SET checksum = 'other' WHERE name = 'migrations/0001_tables.sql'"
    )
    with pytest.raises(ConfigError, match=r"0001_tables\.sql was changed"):
        await migrate(postgres)
    await postgres.close()


async def test_a_changed_function_is_replaced(postgres_dsn: str) -> None:
    postgres = Postgres(postgres_dsn, clock=SystemClock())
    await migrate(postgres)
    await postgres.fetch(
        "UPDATE lambent.migration SET checksum = 'older' WHERE name = 'functions/slots.sql'"
    )
    assert await migrate(postgres) == ["functions/slots.sql"]
    await postgres.close()


async def test_a_failed_migration_leaves_nothing_behind(postgres_dsn: str) -> None:
    postgres = Postgres(postgres_dsn, clock=SystemClock())
    await postgres.fetch("CREATE SCHEMA lambent")
    await postgres.fetch("CREATE TABLE lambent.turn (in_the_way text)")
    with pytest.raises(Exception, match="already exists"):
        await migrate(postgres)
    tables = await postgres.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'lambent'")
    assert [row.tablename for row in tables] == ["turn"]
    await postgres.close()


async def test_without_postgres_it_says_so() -> None:
    nowhere = Postgres("postgresql://nobody@127.0.0.1:1/nothing", clock=SystemClock())
    with pytest.raises(StoreUnavailable):
        await migrate(nowhere)

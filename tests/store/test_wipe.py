"""A stack that is deleted takes its data along only if it was told to, and made that data."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from lambent import set_up
from lambent.app import Platform
from lambent.settings import load_settings
from lambent.wipe import maker_of

MINE = "arn:aws:cloudformation:us-east-1:123456789012:stack/mine/1"
OTHER = "arn:aws:cloudformation:us-east-1:123456789012:stack/o'ther/2"


@pytest_asyncio.fixture
async def parts(
    postgres_dsn: str, mongo_uri: str, mongo_db_name: str, monkeypatch: Any
) -> AsyncIterator[Platform]:
    stores = {"POSTGRES_DSN": postgres_dsn, "MONGO_URI": mongo_uri, "MONGO_DB_NAME": mongo_db_name}
    parts = Platform(load_settings(stores))
    monkeypatch.setattr(set_up, "platform", lambda: parts)
    yield parts
    await parts.mongo.close()
    await parts.postgres.close()


async def names_of_collections(parts: Platform) -> list[str]:
    return await parts.mongo.db.list_collection_names()


async def test_the_stack_that_made_the_data_deletes_it(parts: Platform) -> None:
    await set_up.run_setup({"maker": MINE})
    assert await names_of_collections(parts)
    assert await set_up.delete_data({"maker": MINE}) == {"deleted": True}
    assert await names_of_collections(parts) == []
    assert await maker_of(parts.postgres) is None
    assert "migrations/0001_tables.sql" in (await set_up.run_setup({}))["applied"]


async def test_a_second_stack_over_the_same_stores_deletes_nothing(parts: Platform) -> None:
    await set_up.run_setup({"maker": MINE})
    await set_up.run_setup({"maker": OTHER})
    assert await maker_of(parts.postgres) == MINE
    assert await set_up.delete_data({"maker": OTHER}) == {"deleted": False}
    assert await names_of_collections(parts)


async def test_data_that_nobody_is_noted_for_is_kept(parts: Platform) -> None:
    await set_up.run_setup({})
    for maker in (MINE, OTHER, ""):
        assert await set_up.delete_data({"maker": maker}) == {"deleted": False}
    assert await set_up.delete_data({}) == {"deleted": False}


async def test_deleting_twice_is_no_error(parts: Platform) -> None:
    await set_up.run_setup({"maker": OTHER})
    assert await set_up.delete_data({"maker": OTHER}) == {"deleted": True}
    assert await set_up.delete_data({"maker": OTHER}) == {"deleted": False}

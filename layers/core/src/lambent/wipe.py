"""Deletes all data of a deployment, if that deployment made it; remembers who made it."""

from __future__ import annotations

from typing import Final

from psycopg import sql

from lambent.mongo import Mongo, guarded
from lambent.postgres import Postgres

SCHEMA: Final = "lambent"


async def note_maker(postgres: Postgres, maker: str) -> None:
    """Remember that `maker` created the tables, in a comment on their schema."""
    text = sql.SQL("COMMENT ON SCHEMA {} IS {}").format(sql.Identifier(SCHEMA), sql.Literal(maker))
    await postgres.fetch(text.as_string().encode())


async def maker_of(postgres: Postgres) -> str | None:
    """Who created the tables; None where there are none, or nobody was noted."""
    found = await postgres.fetch_one(
        "SELECT obj_description(oid, 'pg_namespace') AS maker FROM pg_namespace WHERE nspname = %s",
        (SCHEMA,),
    )
    return found.maker if found else None


async def delete_data(postgres: Postgres, mongo: Mongo, *, maker: str) -> bool:
    """Drop the MongoDB database and the Postgres schema; False, and nothing is dropped, where
    `maker` did not make them: a stack whose creation failed must not take along what it found.

    Raises `StoreUnavailable`; then it may be called again.
    """
    if await maker_of(postgres) != maker:
        return False
    # Postgres last: as long as the note is there, a second attempt goes on.
    await guarded(mongo.db.client.drop_database(mongo.db.name))
    drop = sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(SCHEMA))
    await postgres.fetch(drop.as_string().encode())
    return True

"""Brings the database's tables and functions to what this version of the code expects."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Final

import psycopg

from lambent.errors import ConfigError, StoreUnavailable
from lambent.postgres import Connection, Postgres

# Any number will do, as long as nothing else in the database locks the same one.
_LOCK: Final = 0x6C616D62656E74

# Applied only to a database that had nothing of ours.
FIRST: Final = "migrations/0001_tables.sql"

_NO_RIGHT: Final = (
    "the user of POSTGRES_DSN may not make the tables: grant it CREATE on the database, and "
    "make it the owner of the schema lambent where there is one"
)

_PREPARE: Final = (
    "SET LOCAL lock_timeout = '60s'",
    "SET LOCAL client_min_messages = warning",
    "SELECT pg_advisory_xact_lock(%s)",
    "CREATE SCHEMA IF NOT EXISTS lambent",
    """CREATE TABLE IF NOT EXISTS lambent.migration (
        name text PRIMARY KEY,
        checksum text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
    )""",
)


async def migrate(postgres: Postgres) -> list[str]:
    """Apply what is missing, in one transaction; returns the names of the files applied.

    Numbered files under `migrations/` run once, in order, and must not change afterwards:
    `ConfigError` names those that did. Files under `functions/` run again whenever they changed.
    The lock belongs to the transaction, so this works through pgbouncer, and a second caller waits
    and then finds nothing to do. Raises `StoreUnavailable` when Postgres does not answer.
    """
    try:
        async with postgres.session() as connection, connection.transaction():
            for text in _PREPARE:
                await connection.execute(text, (_LOCK,) if "%s" in text else None)
            return await _apply(connection)
    except psycopg.OperationalError as error:
        raise StoreUnavailable("Postgres does not answer.", retry_after_s=2.0) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigError(f"{_NO_RIGHT} ({error})") from error


async def _apply(connection: Connection) -> list[str]:
    cursor = await connection.execute("SELECT name, checksum FROM lambent.migration")
    applied: dict[str, str] = {row.name: row.checksum for row in await cursor.fetchall()}
    numbered, repeatable = _scripts("migrations"), _scripts("functions")
    changed = [
        f"{name} was changed after it had been applied; write a new numbered file instead"
        for name, text in numbered.items()
        if applied.get(name, _checksum(text)) != _checksum(text)
    ]
    if changed:
        raise ConfigError(changed)
    done = []
    for name, text in (numbered | repeatable).items():
        if applied.get(name) == _checksum(text):
            continue
        await connection.execute(text)
        await connection.execute(
            "INSERT INTO lambent.migration (name, checksum) VALUES (%s, %s)"
            " ON CONFLICT (name) DO UPDATE"
            " SET checksum = excluded.checksum, applied_at = clock_timestamp()",
            (name, _checksum(text)),
        )
        done.append(name)
    return done


def _scripts(folder: str) -> dict[str, bytes]:
    found = (files(__package__) / folder).iterdir()
    scripts = {f"{folder}/{one.name}": one.read_bytes() for one in found if one.name[-4:] == ".sql"}
    return dict(sorted(scripts.items()))


def _checksum(text: bytes) -> str:
    # Line endings are not content: a checkout on another system must not look like a change.
    return hashlib.sha256(text.replace(b"\r\n", b"\n")).hexdigest()

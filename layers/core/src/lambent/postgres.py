"""The one Postgres connection of an environment: one statement at a time, bounded, self-mending."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final, LiteralString, TypeVar

import psycopg
from psycopg.rows import namedtuple_row

from lambent.clock import Clock
from lambent.errors import NotSetUp, StoreUnavailable
from lambent.rotation import RotatingSecret
from lambent.tls import postgres_dsn

Query = LiteralString | bytes
Params = Sequence[Any] | Mapping[str, Any] | None
Connection = psycopg.AsyncConnection[Any]
T = TypeVar("T")

_FREEZE: Final = timedelta(seconds=20)
_CONNECT_TIMEOUT_S: Final = 2.0
# Postgres and pgbouncer, also where a rotation changes the user and not only the password.
_REFUSALS: Final = (
    "authentication failed",
    "no such user",
    "does not exist",
    "not permitted to log in",
)
# SQLSTATE classes that say "not now": connection, resources, operator intervention.
_UNAVAILABLE: Final = ("08", "53", "57")
# No such table, function, schema or column.
_NOT_SET_UP: Final = ("42P01", "42883", "3F000", "42703")
# What exactly is lacking stays with the cause, for the log.
_SET_UP: Final = (
    "The database lacks what this version needs. Invoke the setup function, or deploy again."
)


class Postgres:
    """One connection, no pool: a function serves one request at a time.

    Works behind pgbouncer in transaction mode: autocommit, no server-side prepare, no session
    state. Rows are named tuples.
    """

    def __init__(
        self,
        dsn: str | RotatingSecret,
        *,
        clock: Clock,
        timeout_s: float = 2.5,
        ca: str = "",
    ) -> None:
        """`ca`: certificates that the server's is verified by, as `tls.bundle` takes them."""
        if not isinstance(dsn, RotatingSecret):
            dsn = RotatingSecret("POSTGRES_DSN", dsn, clock=clock)
        self._dsn = dsn
        self._ca = ca
        self._clock = clock
        self._timeout_s = timeout_s
        self._connection: Connection | None = None
        self._closed = False
        self._used_at: datetime = clock.now()
        self._lock = asyncio.Lock()

    async def fetch(self, query: Query, params: Params = None) -> list[Any]:
        """Run one statement and return its rows.

        Raises `StoreUnavailable` when no answer came within `timeout_s`, however that time was
        spent (behind other statements, connecting, waiting for the answer); the statement may
        have been carried out all the same. It is sent a second time only over a connection that
        turned out to have died while idle.
        """
        deadline_s = self._clock.monotonic_s() + self._timeout_s
        await self._enter()
        try:
            was_idle = self._connection is not None
            try:
                return await self._attempt(query, params, deadline_s=deadline_s)
            except StoreUnavailable as error:
                if not (was_idle and _died_while_idle(error)):
                    raise
                return await self._attempt(query, params, deadline_s=deadline_s)
        finally:
            self._lock.release()

    async def fetch_one(self, query: Query, params: Params = None) -> Any:
        """The first row, or None."""
        rows = await self.fetch(query, params)
        return rows[0] if rows else None

    async def ping(self) -> None:
        """Raises `StoreUnavailable` unless the server answers a query."""
        await self.fetch("SELECT 1")

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Connection]:
        """A connection of its own, for migrations: outside the lock, without a statement limit."""
        try:
            connection = await psycopg.AsyncConnection.connect(
                postgres_dsn(self._dsn.value, self._ca),
                autocommit=True,
                prepare_threshold=None,
                row_factory=namedtuple_row,
            )
        except psycopg.OperationalError as error:
            raise _unavailable(error) from error
        try:
            yield connection
        finally:
            await connection.close()

    async def close(self) -> None:
        """End for good: what asks later raises `StoreUnavailable`."""
        self._closed = True
        self.drop()

    async def _enter(self) -> None:
        # Callers queue here; those behind one that hangs must not wait its time and then their own.
        if not self._lock.locked():
            await self._lock.acquire()
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._lock.acquire()
        except TimeoutError:
            raise StoreUnavailable("Postgres does not answer.", retry_after_s=2.0) from None

    async def _attempt(self, query: Query, params: Params, *, deadline_s: float) -> list[Any]:
        connection = await self._connected(deadline_s)
        try:
            rows = await self._bounded(_run(connection, query, params), self._left_s(deadline_s))
        except psycopg.OperationalError as error:
            self.drop()
            raise _unavailable(error) from error
        except psycopg.ProgrammingError as error:
            if error.sqlstate in _NOT_SET_UP:
                raise NotSetUp(_SET_UP, retry_after_s=30.0) from error
            raise
        except BaseException as error:
            # Cancelled or failed halfway: what comes next on this socket is unknown.
            if not isinstance(error, psycopg.Error) or connection.closed:
                self.drop()
            raise
        self._used_at = self._clock.now()
        return rows

    def _left_s(self, deadline_s: float) -> float:
        return max(0.0, deadline_s - self._clock.monotonic_s())

    async def _connected(self, deadline_s: float) -> Connection:
        if self._connection is not None and self._clock.now() - self._used_at > _FREEZE:
            self.drop()
        while self._connection is None:
            if self._closed:
                raise StoreUnavailable("The connection to Postgres was closed.")
            dsn = self._dsn.value
            try:
                connection: Connection = await self._bounded(
                    psycopg.AsyncConnection.connect(
                        postgres_dsn(dsn, self._ca),
                        autocommit=True,
                        prepare_threshold=None,
                        row_factory=namedtuple_row,
                        connect_timeout=2,
                    ),
                    min(_CONNECT_TIMEOUT_S, self._left_s(deadline_s)),
                )
            except psycopg.OperationalError as error:
                # The next statement finds the new password, should this one run out of time.
                if _refused(error) and await self._bounded(
                    self._dsn.renew(dsn), self._left_s(deadline_s)
                ):
                    continue
                raise _unavailable(error) from error
            self._connection = connection
            if self._closed:  # meanwhile
                self.drop()
        return self._connection

    async def _bounded(self, work: Coroutine[Any, Any, T], limit_s: float) -> T:
        # Not wait_for: cancelling psycopg waits for the server's answer, 5 s more than asked.
        task = asyncio.ensure_future(work)
        try:
            done, _ = await asyncio.wait({task}, timeout=limit_s)
        except asyncio.CancelledError:
            self._abandon(task)
            raise
        if not done:
            self._abandon(task)
            raise StoreUnavailable("Postgres does not answer.", retry_after_s=2.0)
        return task.result()

    def _abandon(self, task: asyncio.Future[Any]) -> None:
        self.drop()
        task.cancel()
        task.add_done_callback(_swallow)

    def drop(self) -> None:
        """Drop the connection; the next statement makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.pgconn.finish()


async def _run(connection: Connection, query: Query, params: Params) -> list[Any]:
    cursor = await connection.execute(query, params)
    return await cursor.fetchall() if cursor.description else []


def _unavailable(error: psycopg.OperationalError) -> StoreUnavailable:
    # The message names host and user; it is chained for the log, never shown to a client.
    return StoreUnavailable("Postgres does not answer.", retry_after_s=2.0)


def _refused(error: psycopg.OperationalError) -> bool:
    """Whether the server did not take our credentials; libpq gives no SQLSTATE for that."""
    said = str(error)
    return (error.sqlstate or "").startswith("28") or any(one in said for one in _REFUSALS)


def _died_while_idle(error: StoreUnavailable) -> bool:
    cause = error.__cause__
    if not isinstance(cause, psycopg.OperationalError):
        return False
    return cause.sqlstate is None or cause.sqlstate.startswith(_UNAVAILABLE)


def _swallow(task: asyncio.Future[Any]) -> None:
    with contextlib.suppress(BaseException):
        late = task.result()
        if isinstance(late, psycopg.AsyncConnection):
            late.pgconn.finish()  # made all the same, when nobody waited any more

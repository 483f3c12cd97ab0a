"""Postgres gone: an honest answer in time, and everything well again without a new gate."""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from lambent.admission.decisions import Admitted, Outcome, Queued, Refused
from lambent.admission.migrate import migrate
from lambent.clock import SystemClock
from lambent.errors import NotSetUp, StoreUnavailable
from lambent.postgres import Postgres
from local.services import Postgres as PostgresService
from tests.conftest import started
from tests.store.admission_kit import HOST, Stand, kill, stand


async def refused_in_time(place: Stand) -> None:
    before = time.monotonic()
    decision = await place.ask(host=HOST, slot=True)
    assert time.monotonic() - before < 3
    assert isinstance(decision, Refused)
    assert isinstance(decision.error, StoreUnavailable)
    assert decision.error.retry_after_s >= 1


async def test_a_killed_server_is_told_in_time_and_found_again(tmp_path: Path) -> None:
    with started(lambda: PostgresService.start(tmp_path)) as server:
        async with stand(server.dsn, max_inflight=2) as place:
            lost = await place.ask(host=HOST, slot=True)
            await kill(server, place)
            await refused_in_time(place)
            assert not await place.gate.finish(lost.grant, Outcome.SUCCESS)
            await refused_in_time(place)
            server.restart()
            # The crash emptied limits, slots and tickets: they are made again on the way.
            again = [await place.ask(host=HOST, slot=True) for _ in range(3)]
            assert [type(one) for one in again] == [Admitted, Admitted, Queued]
            assert again[0].limit.remaining == 99


async def test_a_crash_keeps_keys_and_the_breaker(tmp_path: Path) -> None:
    with started(lambda: PostgresService.start(tmp_path)) as server:
        async with stand(server.dsn) as place:
            await place.gate.trip(HOST, open_s=600)
            await kill(server, place)
            server.restart()
            decision = await place.ask(host=HOST)
            assert decision.error.retry_after_s > 500


@pytest.mark.parametrize("connected", [True, False])
async def test_a_server_that_hangs_is_given_up_in_time(tmp_path: Path, connected: bool) -> None:
    with started(lambda: PostgresService.start(tmp_path)) as server:
        async with stand(server.dsn) as place:
            backend = (await place.postgres.fetch_one("SELECT pg_backend_pid() AS pid")).pid
            if not connected:
                place.postgres.drop()
            stopped = [server.pid, *([backend] if connected else [])]
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            try:
                await refused_in_time(place)
            finally:
                for pid in stopped:
                    os.kill(pid, signal.SIGCONT)
            assert isinstance(await place.ask(host=HOST, slot=True), Admitted)


async def test_a_waiter_is_told_when_the_server_goes(tmp_path: Path) -> None:
    with started(lambda: PostgresService.start(tmp_path)) as server:
        async with stand(server.dsn, max_inflight=1, poll_s=0.02) as place:
            await place.admitted(slot=True)
            queued = await place.queued()
            await kill(server, place)
            steps = [step async for step in place.gate.wait(queued)]
            assert isinstance(steps[-1], Refused)
            assert isinstance(steps[-1].error, StoreUnavailable)
            server.restart()


async def test_a_database_without_its_tables_says_so_and_what_to_do(postgres_dsn: str) -> None:
    async with stand(postgres_dsn) as place:
        await place.postgres.fetch("DROP SCHEMA lambent CASCADE")
        decision = await place.ask()
        assert isinstance(decision, Refused)
        assert isinstance(decision.error, NotSetUp)
        assert "Invoke the setup function" in decision.error.detail
        await migrate(place.postgres)
        await place.admitted()


async def test_a_connection_that_nobody_waits_for_any_more_is_closed(postgres_dsn: str) -> None:
    postgres = Postgres(postgres_dsn, clock=SystemClock())
    asking = asyncio.create_task(postgres.fetch("SELECT 1"))
    await asyncio.sleep(0)
    [connecting] = [one for one in asyncio.all_tasks() if connects(one)]
    # Its caller goes in the very moment in which it is made.
    connecting.add_done_callback(lambda _: asking.cancel())
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.sleep(0)
    assert connecting.result().closed


async def test_what_asks_after_the_end_does_not_connect_again(postgres_dsn: str) -> None:
    postgres = Postgres(postgres_dsn, clock=SystemClock())
    asking = asyncio.create_task(postgres.ping())
    await asyncio.sleep(0)
    [connecting] = [one for one in asyncio.all_tasks() if connects(one)]
    await postgres.close()
    with pytest.raises(StoreUnavailable):
        await asking
    assert connecting.result().closed
    with pytest.raises(StoreUnavailable, match="closed"):
        await postgres.ping()


def connects(task: asyncio.Task[Any]) -> bool:
    return task.get_coro().__qualname__ == "AsyncConnection.connect"

"""What the whole admission decision costs, against the least that Postgres could be asked."""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lambent.admission.decisions import (
    AdmissionConfig,
    AdmissionRequest,
    Admitted,
    Outcome,
    Scope,
)
from lambent.admission.gate import Gate
from lambent.admission.keys import KeyStore
from lambent.admission.migrate import migrate
from lambent.clock import SystemClock
from lambent.postgres import Postgres
from local.services import Postgres as PostgresService

HOST = "http://model.bench:11434"
CALLS = 2000
WARM_UP = 200
PROCESSES = 2
CONNECTIONS = 64
SECONDS = 2.0
ROUNDS = 3
MOST_TIMES_SELECT_1 = 2.0
LEAST_OF_PLAIN_UPDATES = 0.6
# Neither limit nor slots may refuse: a refusal is cheaper than what is measured.
CONFIG = AdmissionConfig(limit=100_000_000, max_inflight=256, lease_s=0.02)


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table. `ratio` is None for the peers."""

    what: str
    figure: str
    ratio: float | None = None
    met: bool | None = None


def main() -> None:
    """Print the table."""
    with (
        tempfile.TemporaryDirectory(prefix="lambent-bench-") as folder,
        PostgresService.start(Path(folder)) as server,
    ):
        dsn = server.create_database("bench")
        key = asyncio.run(prepare(dsn))
        lines = [*asyncio.run(one_connection(dsn, key)), *many_connections(dsn, key)]
    table = Table(title="admission: the whole decision in one round trip", title_justify="left")
    for name in ("", "figure", "ratio", "target"):
        table.add_column(name, justify="left" if not name else "right")
    for line in lines:
        ratio = "" if line.ratio is None else f"{line.ratio:.2f} ×"
        table.add_row(
            line.what, line.figure, ratio, {None: "", True: "met", False: "missed"}[line.met]
        )
    Console().print(table)


async def prepare(dsn: str) -> str:
    """Tables, a key, and a row for the plain updates; returns the key."""
    clock = SystemClock()
    postgres = Postgres(dsn, clock=clock, timeout_s=30)
    await migrate(postgres)
    made = await KeyStore(postgres, clock=clock).create("bench", "bench", scopes=[Scope.CHAT])
    for kind in ("UNLOGGED TABLE plain_unlogged", "TABLE plain_logged"):
        await postgres.fetch(
            f"CREATE {kind} (id int PRIMARY KEY, n bigint) WITH (fillfactor = 50)".encode()
        )
    for name in ("plain_unlogged", "plain_logged"):
        await postgres.fetch(f"INSERT INTO {name} VALUES (1, 0)".encode())
    await postgres.close()
    return made.text


async def one_connection(dsn: str, key: str) -> list[Line]:
    """Medians of calls that take turns on one connection."""
    clock = SystemClock()
    postgres = Postgres(dsn, clock=clock, timeout_s=30)
    gate = Gate(postgres, clock=clock, config=CONFIG)
    request = AdmissionRequest(credential=key, scope=Scope.CHAT, host=HOST, slot=True)
    times: dict[str, list[float]] = {"SELECT 1": [], "admit": [], "finish": []}
    for _ in range(WARM_UP + CALLS):
        started = time.perf_counter()
        await postgres.fetch("SELECT 1")
        asked = time.perf_counter()
        decision = await gate.admit(request)
        decided = time.perf_counter()
        assert isinstance(decision, Admitted), decision
        await gate.finish(decision.grant, Outcome.SUCCESS)
        times["finish"].append(time.perf_counter() - decided)
        times["SELECT 1"].append(asked - started)
        times["admit"].append(decided - asked)
    await postgres.close()
    medians = {name: statistics.median(each[WARM_UP:]) for name, each in times.items()}
    ratio = medians["admit"] / medians["SELECT 1"]
    milliseconds = {name: f"{median * 1000:.3f} ms" for name, median in medians.items()}
    return [
        Line("SELECT 1, p50", milliseconds["SELECT 1"]),
        Line(
            "key + limit + breaker + slot, p50",
            milliseconds["admit"],
            ratio,
            ratio <= MOST_TIMES_SELECT_1,
        ),
        Line(
            "giving back (off the token path), p50",
            milliseconds["finish"],
            medians["finish"] / medians["SELECT 1"],
        ),
    ]


def many_connections(dsn: str, key: str) -> list[Line]:
    """Medians of rounds that take turns, each with all connections on one client's row."""
    rates: dict[str, list[float]] = {
        "plain_unlogged": [],
        "plain_logged": [],
        "limit": [],
        "slot": [],
    }
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        for _ in range(ROUNDS):
            for duty, found in rates.items():
                counts = pool.starmap(hammer, [(dsn, key, duty)] * PROCESSES, chunksize=1)
                found.append(sum(counts))
    medians = {name: statistics.median(each) for name, each in rates.items()}
    plain = medians["plain_unlogged"]

    def line(what: str, name: str) -> Line:
        ratio = medians[name] / plain
        return Line(what, f"{medians[name]:,.0f} /s", ratio, ratio >= LEAST_OF_PLAIN_UPDATES)

    return [
        Line(f"plain updates of one unlogged row, {CONNECTIONS} connections", f"{plain:,.0f} /s"),
        Line("the same, a logged row", f"{medians['plain_logged']:,.0f} /s"),
        line("key + limit + breaker, one client", "limit"),
        line("key + limit + breaker + slot, one client", "slot"),
    ]


def hammer(dsn: str, key: str, duty: str) -> float:
    """One process's share of the connections; returns calls a second."""
    return asyncio.run(_hammer(dsn, key, duty))


async def _hammer(dsn: str, key: str, duty: str) -> float:
    clock = SystemClock()
    connections = [
        Postgres(dsn, clock=clock, timeout_s=30) for _ in range(CONNECTIONS // PROCESSES)
    ]
    for one in connections:  # one after another: a crowd of connects outlasts the time limit
        await one.ping()
    calls = [_call(one, key, duty) for one in connections]
    started = time.perf_counter()
    counts = await asyncio.gather(*(_repeat(call, started + SECONDS) for call in calls))
    took_s = time.perf_counter() - started
    await asyncio.gather(*(one.close() for one in connections))
    return sum(counts) / took_s


def _call(postgres: Postgres, key: str, duty: str) -> Callable[[], Awaitable[object]]:
    if duty.startswith("plain"):
        query = f"UPDATE {duty} SET n = n + 1 WHERE id = %s".encode()
        return lambda: postgres.fetch(query, (1,))
    gate = Gate(postgres, clock=SystemClock(), config=CONFIG)
    request = AdmissionRequest(credential=key, scope=Scope.CHAT, host=HOST, slot=duty == "slot")
    return lambda: gate.admit(request)


async def _repeat(call: Callable[[], Awaitable[object]], until: float) -> int:
    count = 0
    while time.perf_counter() < until:
        await call()
        count += 1
    return count

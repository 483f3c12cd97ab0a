"""What a durable step costs over a bare acknowledged insert into the same server, one by one."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lambent.clock import SystemClock
from lambent.engine.config import EngineConfig
from lambent.engine.engine import MongoStore, WorkflowEngine
from lambent.engine.registry import Registry
from lambent.engine.step import Step
from local.benches.running import ROOT
from local.services import Mongo, Postgres

ROUNDS = 12
IN_A_ROW = 50
TARGET = 1.5

# In an environment of its own, so that nothing of ours depends on what it needs.
_PEER = ROOT / ".lambent/peers/dbos"
_DBOS = """
import statistics, sys, time
from dbos import DBOS
DBOS(config={"name": "bench", "system_database_url": sys.argv[1], "log_level": "ERROR",
             "run_admin_server": False})
@DBOS.step()
def act(n):
    return n
@DBOS.workflow()
def many(rounds):
    times = []
    for n in range(rounds):
        began = time.perf_counter()
        act(n)
        times.append((time.perf_counter() - began) * 1000)
    return times
DBOS.launch()
many(50)
print(statistics.median(many(300)))
DBOS.destroy()
"""


async def measure(uri: str) -> dict[str, list[float]]:
    """Milliseconds of each call, insert and step by turns, so that both see the same machine."""
    times: dict[str, list[float]] = {"bare insert_one": [], "durable step": []}
    clock, workflows, config = SystemClock(), Registry(), EngineConfig()
    store = MongoStore.connect(uri, f"bench_{secrets.token_hex(4)}", config=config)
    engine = WorkflowEngine(store, workflows=workflows, config=config)
    await engine.ensure_indexes()
    bare = store.mongo.db["bare"]

    async def act(number: int) -> dict[str, Any]:
        return {"number": number}

    async def timed(name: str, call: Callable[[], Awaitable[Any]]) -> None:
        began = time.perf_counter()
        await call()
        times[name].append((time.perf_counter() - began) * 1000)

    async def insert(number: int) -> None:
        now = clock.now()
        await bare.insert_one(
            {
                "_id": f"{secrets.token_hex(8)}/{number}",
                "output": {"number": number},
                "started_at": now,
                "finished_at": now,
            }
        )

    @workflows.workflow("steps")
    async def steps(step: Step, input: Any) -> None:
        for _ in range(ROUNDS):
            for number in range(IN_A_ROW):
                await timed("bare insert_one", partial(insert, number))
            for number in range(IN_A_ROW):
                await timed("durable step", partial(step.do, "act", act, number))

    started = await engine.start("steps", client="bench")
    await engine.advance([started.run["_id"]])
    await store.close()
    return {name: taken[IN_A_ROW:] for name, taken in times.items()}


def dbos_ms(folder: Path) -> float | None:
    """The median of DBOS's step on Postgres on this machine; None if it is not installed."""
    python = _PEER / "bin/python"
    if not python.exists():
        return None
    with Postgres.start(folder) as server:
        dsn = server.create_database("dbos_bench")
        done = subprocess.run(
            [python, "-c", _DBOS, dsn], capture_output=True, text=True, check=False
        )
    if done.returncode != 0:
        print(done.stderr[-2000:], file=sys.stderr)
        return None
    return float(done.stdout.strip().splitlines()[-1])


def install_peer() -> None:
    """Get DBOS into `.lambent/peers`; raises CalledProcessError where the registry has it not."""
    python = str(_PEER / "bin/python")
    subprocess.run(["uv", "venv", "--quiet", "--allow-existing", str(_PEER)], check=True)
    subprocess.run(["uv", "pip", "install", "--quiet", "--python", python, "dbos>=2.9"], check=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="./local/bench step", description=__doc__)
    parser.add_argument("--peers", action="store_true", help="install DBOS first, beside ours")
    if parser.parse_args().peers:
        install_peer()
    with tempfile.TemporaryDirectory(prefix="lambent-bench-") as name:
        folder = Path(name)
        (folder / "mongo").mkdir()
        with Mongo.start(folder / "mongo") as server:
            times = asyncio.run(measure(server.uri))
        (folder / "postgres").mkdir()
        peer_ms = dbos_ms(folder / "postgres")
    table = Table(title="step: sequential, w majority, j true, ms", title_justify="left")
    for title in ("", "p50", "p95", "over the insert", ""):
        table.add_column(title, justify="left" if not title else "right")
    base_ms = statistics.median(times["bare insert_one"])
    for label, taken in times.items():
        ratio = statistics.median(taken) / base_ms
        verdict = ""
        if label == "durable step":
            verdict = "met" if ratio <= TARGET else f"missed ({TARGET} ×)"
        table.add_row(
            label, f"{statistics.median(taken):.2f}",
            f"{statistics.quantiles(taken, n=20)[-1]:.2f}", f"{ratio:.2f} ×", verdict,
        )  # fmt: skip
    if peer_ms is None:
        table.add_row("DBOS step on Postgres", "not installed: --peers", "", "", "")
    else:
        table.add_row("DBOS step on Postgres", f"{peer_ms:.2f}", "", f"{peer_ms / base_ms:.2f} ×")
    Console().print(table)


if __name__ == "__main__":
    main()

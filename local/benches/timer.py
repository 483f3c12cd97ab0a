"""How late runs go on after a sleep while the poller is awake, and what an idle platform asks."""

from __future__ import annotations

import random
import time
from datetime import datetime

from pymongo import MongoClient
from rich.console import Console
from rich.table import Table

from local.benches.durable import Durable, durable_platform, quantiles

RUNS = 100
# Shorter sleeps stay warm inside the slice and say nothing about the poller.
SHORTEST_S, LONGEST_S = 10.0, 40.0
TARGET_MS = 150.0


def main() -> None:
    """Print the table."""
    table = Table(title=f"timer: {RUNS} sleeps, ms late", title_justify="left")
    for name in ("", "p50", "p95", "p99", "target"):
        table.add_column(name, justify="left" if not name else "right")
    with durable_platform() as durable:
        late_ms = _lateness(durable)
        commands = _idle_commands(durable)
    p50, p95, p99 = quantiles(late_ms)
    met = "met" if p99 <= TARGET_MS else "missed"
    table.add_row(
        "step after a sleep", f"{p50:.1f}", f"{p95:.1f}", f"{p99:.1f}", f"p99 ≤ 150 {met}"
    )
    idle = "met" if commands <= 2 else "missed"
    table.add_row("commands of an idle minute", f"{commands:.1f}", "", "", f"≤ 2 {idle}")
    Console().print(table)


def _lateness(durable: Durable) -> list[float]:
    chance = random.Random(1)
    runs = {}
    for _ in range(RUNS):
        seconds = chance.uniform(SHORTEST_S, LONGEST_S)
        runs[durable.start("bench-timer", {"seconds": seconds})] = seconds
    time.sleep(LONGEST_S)
    late_ms = []
    for run_id in runs:
        output = durable.until(run_id, "completed")["output"]
        slept_until = _wake_at(durable, run_id)
        late_ms.append((output - slept_until) * 1000)
    return late_ms


def _wake_at(durable: Durable, run_id: str) -> float:
    steps = durable.api.get(f"/runs/{run_id}/steps").raise_for_status().json()["steps"]
    [sleep] = [one for one in steps if one["kind"] == "sleep"]
    return datetime.fromisoformat(sleep["wake_at"]).timestamp()


def _idle_commands(durable: Durable) -> float:
    """Commands a minute that ask the store for something, over two minutes.

    The server counts an aggregate among the heartbeats of drivers, so the poller's one a tick is
    added here; every find and every write is counted by the server.
    """
    uri = durable.platform.ready["mongo_uri"]
    time.sleep(70)  # the last environments settle, the poller falls asleep
    with MongoClient[dict[str, int]](uri) as client:
        before = _operations(client)
        time.sleep(120)
        return (_operations(client) - before) / 2 + 1


def _operations(client: MongoClient[dict[str, int]]) -> int:
    counted = client.admin.command("serverStatus")["opcounters"]
    return sum(counted[name] for name in ("insert", "query", "update", "delete", "getmore"))


if __name__ == "__main__":
    main()

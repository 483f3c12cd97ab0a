"""Drains due runs through real processes: cost a run at two sizes, and the poller's memory."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

from pymongo import MongoClient
from rich.console import Console
from rich.table import Table

from lambent.clock import SystemClock
from lambent.engine.config import EngineConfig
from lambent.engine.engine import MongoStore, WorkflowEngine
from lambent.engine.registry import Registry
from lambent.ids import new_ulid
from lambent.mongo import Mongo
from local.benches.durable import Durable, durable_platform
from local.emulator.process import peak_memory_mb

SMALL, LARGE = 1_000, 10_000
MOST_MEMORY_MB = 100
MOST_GROWTH = 1.25
LIMIT_S = 1800.0
_PAGE = 250


def main() -> None:
    """Print the table."""
    table = Table(title="backlog: due runs drained", title_justify="left")
    for name in ("runs", "seconds", "ms a run", "poller's peak MB", "target"):
        table.add_column(name, justify="right")
    with durable_platform(STEP_CONCURRENCY="2", STEP_BATCH="20") as durable:
        _drain(durable, 100)
        small_s = _drain(durable, SMALL)
        table.add_row(f"{SMALL}", f"{small_s:.1f}", f"{small_s / SMALL * 1000:.1f}", "", "")
        large_s = _drain(durable, LARGE)
        peak_mb = max(peak_memory_mb(pid) or 0 for pid in durable.platform.pids("poller"))
    growth = (large_s / LARGE) / (small_s / SMALL)
    met = growth <= MOST_GROWTH and peak_mb < MOST_MEMORY_MB
    table.add_row(
        f"{LARGE}",
        f"{large_s:.1f}",
        f"{large_s / LARGE * 1000:.1f}",
        f"{peak_mb}",
        f"{growth:.2f} × ≤ 1.25, < 100 MB: {'met' if met else 'missed'}",
    )
    Console().print(table)


def _drain(durable: Durable, count: int) -> float:
    """Seconds from the first run's start to the last one's end; a tick of the poller begins it."""
    uri = durable.platform.ready["mongo_uri"]
    asyncio.run(_queue(uri, count))
    with MongoClient[dict[str, Any]](uri, tz_aware=True) as client:
        runs = client["lambent"]["runs"]
        until_s = time.monotonic() + LIMIT_S
        left = {"status": {"$in": ["pending", "running", "waiting"]}}
        while runs.count_documents(left, limit=1):
            if time.monotonic() > until_s:
                raise RuntimeError(f"{runs.count_documents(left)} of {count} runs are left")
            time.sleep(1)
        spans = list(runs.find({}, {"started_at": 1, "finished_at": 1}))
        runs.delete_many({})
    first = min(one["started_at"] for one in spans)
    return float((max(one["finished_at"] for one in spans) - first).total_seconds())


async def _queue(uri: str, count: int) -> None:
    """Start the runs without a nudge, as a crowd of publishers that all died would."""
    clock = SystemClock()
    mongo = Mongo(uri, "lambent", clock=clock)
    workflows = Registry()

    @workflows.workflow("bench-start")
    async def never_run_here(step: Any, input: Any) -> None: ...

    config = EngineConfig()
    store = MongoStore(mongo, clock=clock, config=config)
    engine = WorkflowEngine(store, workflows=workflows, config=config)
    # The engine's own document, copied; due in a while, so that none is drained while it waits.
    first = (await engine.start("bench-start", client="bench")).run
    due_at = clock.now() + timedelta(seconds=5 + count / 200)
    for start in range(0, count, _PAGE):
        ids = [new_ulid(clock) for _ in range(start, min(start + _PAGE, count))]
        copies = [{**first, "_id": one, **_identity(one), "due_at": due_at} for one in ids]
        await store.due.collection.insert_many(copies)
    await store.close()


def _identity(run_id: str) -> dict[str, Any]:
    """What the engine keeps unique of a run without a key of its own."""
    return {"key": run_id, "marks": [f"key:bench:{run_id}"]}


if __name__ == "__main__":
    main()

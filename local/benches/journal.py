"""Whether a step stays as cheap at the 10,000th as at the 100th, and what a long replay costs."""

from __future__ import annotations

import asyncio
import secrets
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lambent.engine.config import EngineConfig
from lambent.engine.engine import MongoStore, WorkflowEngine
from lambent.engine.registry import Registry
from lambent.engine.step import Step
from local.services import Mongo

STEPS = 10_000
WINDOW = 400
FLAT_WITHIN = 0.25
REPLAY_OVER_READ = 2.0
REPLAYS = 5


@dataclass(frozen=True, slots=True)
class Measured:
    """Milliseconds. `beside`: a bare insert at the same moments, for a machine that is not calm."""

    first: float
    last: float
    first_beside: float
    last_beside: float
    replay: float
    read: float


async def measure(uri: str) -> Measured:
    """One run of 10,000 steps, then its replay against reading its documents."""
    workflows, config = Registry(), EngineConfig()
    store = MongoStore.connect(uri, f"bench_{secrets.token_hex(4)}", config=config)
    engine = WorkflowEngine(store, workflows=workflows, config=config)
    await engine.ensure_indexes()
    bare = store.mongo.db["bare"]
    times: dict[str, list[float]] = {"step": [], "bare": []}

    async def act(number: int) -> dict[str, Any]:
        return {"number": number, "text": "x" * 100}

    @workflows.workflow("long")
    async def long(step: Step, input: Any) -> None:
        fresh = not times["step"]
        for number in range(STEPS):
            began = time.perf_counter()
            await step.do("act", act, number)
            if fresh:
                between = time.perf_counter()
                times["step"].append((between - began) * 1000)
                if _in_window(number):
                    await bare.insert_one({"_id": number, "text": "x" * 100})
                    times["bare"].append((time.perf_counter() - between) * 1000)
        await step.sleep(86400)

    started = await engine.start("long", client="bench")
    run_id = started.run["_id"]
    while len(times["step"]) < STEPS:
        await engine.advance([run_id])
    replays, reads = [], []
    for _ in range(REPLAYS):
        await engine.wake(run_id)
        began = time.perf_counter()
        await engine.advance([run_id])
        replays.append((time.perf_counter() - began) * 1000)
        began = time.perf_counter()
        found = await store.mongo.db["steps"].find({"run": run_id, "epoch": 0}).to_list()
        reads.append((time.perf_counter() - began) * 1000)
        assert len(found) == STEPS + 1
    await store.close()
    half = len(times["bare"]) // 2
    return Measured(
        first=statistics.median(times["step"][100 : 100 + WINDOW]),
        last=statistics.median(times["step"][-WINDOW:]),
        first_beside=statistics.median(times["bare"][:half]),
        last_beside=statistics.median(times["bare"][half:]),
        replay=statistics.median(replays),
        read=statistics.median(reads),
    )


def _in_window(number: int) -> bool:
    return 100 <= number < 100 + WINDOW or number >= STEPS - WINDOW


def main() -> None:
    """Print the table."""
    folder = tempfile.TemporaryDirectory(prefix="lambent-bench-")
    with folder as name, Mongo.start(Path(name)) as server:
        found = asyncio.run(measure(server.uri))
    table = Table(title=f"journal: one run of {STEPS} steps, medians, ms", title_justify="left")
    for title in ("", "ms", "bare insert beside it", "ratio", ""):
        table.add_column(title, justify="right" if title else "left")
    grown = (found.last / found.last_beside) / (found.first / found.first_beside)
    flat = "met" if grown <= 1 + FLAT_WITHIN else f"missed (1 + {FLAT_WITHIN})"
    table.add_row("steps from the 100th", f"{found.first:.2f}", f"{found.first_beside:.2f}")
    table.add_row(
        f"steps to the {STEPS}th", f"{found.last:.2f}", f"{found.last_beside:.2f}",
        f"{grown:.2f} ×", flat,
    )  # fmt: skip
    ratio = found.replay / found.read
    met = "met" if ratio <= REPLAY_OVER_READ else f"missed ({REPLAY_OVER_READ} ×)"
    table.add_row("reading the steps with pymongo", f"{found.read:.0f}")
    table.add_row("a slice that replays them all", f"{found.replay:.0f}", "", f"{ratio:.2f} ×", met)
    Console().print(table)


if __name__ == "__main__":
    main()

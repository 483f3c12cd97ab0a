"""How long from publishing an event until the run that waits for it goes on, warm."""

from __future__ import annotations

import asyncio
import time
import uuid

from rich.console import Console
from rich.table import Table

from local.benches.durable import Durable, durable_platform, insert_ms, quantiles

ROUNDS = 100
WARM_UP = 10
TARGET_MS = 20.0


def main() -> None:
    """Print the table."""
    table = Table(title=f"signal: {ROUNDS} events, ms until the run goes on", title_justify="left")
    for name in ("", "p50", "p95", "p99", "target"):
        table.add_column(name, justify="left" if not name else "right")
    with durable_platform() as durable:
        floor_ms = asyncio.run(insert_ms(durable, ROUNDS))
        took_ms = [_round(durable) for _ in range(WARM_UP + ROUNDS)][WARM_UP:]
    p50, p95, p99 = quantiles(took_ms)
    met = "met" if p50 <= TARGET_MS else "missed"
    table.add_row(
        "POST /events → step begun", f"{p50:.1f}", f"{p95:.1f}", f"{p99:.1f}", f"p50 ≤ 20 {met}"
    )
    p50, p95, p99 = quantiles(floor_ms)
    table.add_row("one acknowledged insert", f"{p50:.1f}", f"{p95:.1f}", f"{p99:.1f}", "")
    Console().print(table)


def _round(durable: Durable) -> float:
    subject = uuid.uuid4().hex
    run_id = durable.start("bench-signal", {"subject": subject})
    durable.until(run_id, "waiting")
    event = {"specversion": "1.0", "id": subject, "source": "bench", "type": "bench.go"}
    begun = time.time()
    durable.api.post("/events", json={**event, "subject": subject}).raise_for_status()
    return float((durable.until(run_id, "completed")["output"] - begun) * 1000)


if __name__ == "__main__":
    main()

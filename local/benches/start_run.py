"""How long from `POST /runs` until the run's first step begins, warm, through real processes."""

from __future__ import annotations

import time

from rich.console import Console
from rich.table import Table

from local.benches.durable import durable_platform, quantiles

ROUNDS = 100
WARM_UP = 10
TARGET_MS = 25.0


def main() -> None:
    """Print the table."""
    took_ms, answered_ms = [], []
    with durable_platform() as durable:
        for number in range(WARM_UP + ROUNDS):
            begun = time.time()
            run_id = durable.start("bench-start")
            answered = time.time()
            reached = durable.until(run_id, "completed")["output"]
            if number >= WARM_UP:
                took_ms.append((reached - begun) * 1000)
                answered_ms.append((answered - begun) * 1000)
    table = Table(title=f"start_run: {ROUNDS} runs, ms since POST /runs", title_justify="left")
    for name in ("", "p50", "p95", "p99", "target"):
        table.add_column(name, justify="left" if not name else "right")
    p50, p95, p99 = quantiles(took_ms)
    met = "met" if p50 <= TARGET_MS else "missed"
    table.add_row("first step begun", f"{p50:.1f}", f"{p95:.1f}", f"{p99:.1f}", f"p50 ≤ 25 {met}")
    p50, p95, p99 = quantiles(answered_ms)
    table.add_row("answer received", f"{p50:.1f}", f"{p95:.1f}", f"{p99:.1f}", "")
    Console().print(table)


if __name__ == "__main__":
    main()

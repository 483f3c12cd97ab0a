"""What durability costs a turn of five tool rounds, beside the same loop without it."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from typing import Final

import httpx
from rich.console import Console
from rich.table import Table

from local.benches.durable import durable_platform, insert_ms, quantiles
from local.services import ScriptedModel
from local.services.script import Reply
from local.services.scripted import Recorded

TARGET_MS: Final = 40.0
ROUNDS: Final = 5
TURNS: Final = 60
WARM_UP: Final = 5
PLAIN: Final = "bench-plain"
DURABLE: Final = "bench-durable"
# After a turn its function books, and a durable one's run is settled: not to be measured with the
# next turn's.
_REST_S: Final = 0.1


def main() -> None:
    """Print the table. The number of turns may be given."""
    turns = int(sys.argv[1]) if len(sys.argv) > 1 else TURNS
    with ScriptedModel.start() as model:
        model.default = _answer
        with durable_platform(OLLAMA_HOST=model.host) as durable:
            platform = durable.platform
            with httpx.Client(base_url=platform.url, headers=platform.headers, timeout=30) as api:
                took_ms = _measure(api, turns)
            floor_ms = asyncio.run(insert_ms(durable, turns))
    Console(width=110).print(_table(took_ms, floor_ms))


def _measure(api: httpx.Client, turns: int) -> dict[str, list[float]]:
    """Milliseconds of each turn, in pairs, so that both kinds meet the same machine."""
    took_ms: dict[str, list[float]] = {PLAIN: [], DURABLE: []}
    for number in range(-WARM_UP, turns):
        for agent, times in took_ms.items():
            began_s = time.perf_counter()
            answer = api.post("/chat/stream", json={"agent": agent, "input": "Go."})
            took = (time.perf_counter() - began_s) * 1000
            if '"finish_reason": "stop"' not in answer.raise_for_status().text:
                raise RuntimeError(answer.text)
            if number >= 0:
                times.append(took)
            time.sleep(_REST_S)
    return took_ms


def _table(took_ms: dict[str, list[float]], floor_ms: list[float]) -> Table:
    turns = len(took_ms[PLAIN])
    more_ms = [one - other for one, other in zip(took_ms[DURABLE], took_ms[PLAIN], strict=True)]
    title = f"agent: {turns} pairs of turns of {ROUNDS} tool rounds and an answer, ms"
    table = Table(title=title, title_justify="left")
    for name in ("", "p50", "p95", "least", "target"):
        table.add_column(name, justify="left" if not name else "right")
    rows = {
        "the loop without durability": took_ms[PLAIN],
        "the same loop, durably": took_ms[DURABLE],
        "durability costs, turn by turn": more_ms,
        "one acknowledged insert": floor_ms,
    }
    met = "met" if statistics.median(more_ms) <= TARGET_MS else "missed"
    for name, values in rows.items():
        p50, p95, _ = quantiles(values)
        target = f"p50 ≤ {TARGET_MS:g} {met}" if values is more_ms else ""
        table.add_row(name, f"{p50:.1f}", f"{p95:.1f}", f"{min(values):.1f}", target)
    return table


def _answer(asked: Recorded) -> Reply:
    done = sum(one["role"] == "tool" for one in asked.json["messages"])
    return Reply.text("All said.") if done >= ROUNDS else Reply.calls(("echo", {"word": "on"}))


if __name__ == "__main__":
    main()

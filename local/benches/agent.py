"""What durability costs a turn of five tool rounds, beside the same loop without it."""

from __future__ import annotations

import statistics
import sys
import time

import httpx

from local.benches.durable import durable_platform, quantiles
from local.services import ScriptedModel
from local.services.script import Reply
from local.services.scripted import Recorded

TARGET_MS = 40.0
ROUNDS = 5
TURNS = 60
AGENTS = ("bench-plain", "bench-durable")


def main() -> None:
    """Print both, and the difference of their medians."""
    turns = int(sys.argv[1]) if len(sys.argv) > 1 else TURNS
    with ScriptedModel.start() as model:
        model.default = _answer
        with durable_platform(OLLAMA_HOST=model.host) as durable:
            platform = durable.platform
            with httpx.Client(base_url=platform.url, headers=platform.headers, timeout=30) as api:
                took_ms = _measure(api, turns)
    for agent, times in took_ms.items():
        p50, p95, _ = quantiles(times)
        print(f"{agent:14} p50 {p50:6.1f} ms   p95 {p95:6.1f} ms")
    more_ms = statistics.median(took_ms[AGENTS[1]]) - statistics.median(took_ms[AGENTS[0]])
    met = "met" if more_ms <= TARGET_MS else "missed"
    print(f"durability costs {more_ms:.1f} ms a turn of {ROUNDS} rounds ({met}: {TARGET_MS:g} ms)")


def _measure(api: httpx.Client, turns: int) -> dict[str, list[float]]:
    took_ms: dict[str, list[float]] = {agent: [] for agent in AGENTS}
    for number in range(-5, turns):
        for agent in AGENTS:
            began_s = time.perf_counter()
            answer = api.post("/chat/stream", json={"agent": agent, "input": "Go."})
            took = (time.perf_counter() - began_s) * 1000
            if '"finish_reason": "stop"' not in answer.raise_for_status().text:
                raise RuntimeError(answer.text)
            if number >= 0:  # the first ones warm both up
                took_ms[agent].append(took)
    return took_ms


def _answer(asked: Recorded) -> Reply:
    done = sum(one["role"] == "tool" for one in asked.json["messages"])
    return Reply.text("All said.") if done >= ROUNDS else Reply.calls(("echo", {"word": "on"}))


if __name__ == "__main__":
    main()

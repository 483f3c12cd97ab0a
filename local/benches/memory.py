"""Resident memory of each function that clients call, from the first request to the thousandth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from local.benches.running import Running, running_platform
from local.services import ScriptedModel

REQUESTS = 1000
SETTLED = 100
TARGET_MB = 120
# Allocators hand pages back when they like; more growth than this is a leak.
FLAT_MB = 3.0


def main() -> None:
    """Print the table."""
    with (
        ScriptedModel.start() as model,
        running_platform(
            "--max-environments",
            "1",
            OLLAMA_HOST=model.host,
            RATE_LIMIT_MAX_REQUESTS="1000000",
        ) as platform,
    ):
        table = Table(title=f"memory: resident MB of a function over {REQUESTS} requests")
        for name in ("function", "1st", f"{SETTLED}th", f"{REQUESTS}th", "under 120", "flat"):
            table.add_column(name, justify="right")
        with httpx.Client(base_url=platform.url, headers=platform.headers, timeout=30) as client:
            for function, ask in _requests(client).items():
                table.add_row(function, *_measure(platform, function, ask))
        Console().print(table)


def _requests(client: httpx.Client) -> dict[str, Callable[[int], httpx.Response]]:
    return {
        "chat": lambda n: client.post("/chat/stream", json={"input": f"question {n}"}),
        "gateway": lambda n: client.get("/keys") if n % 2 else client.get("/health/ready"),
    }


def _measure(
    platform: Running, function: str, ask: Callable[[int], httpx.Response]
) -> tuple[str, ...]:
    seen: dict[int, float] = {}
    for number in range(1, REQUESTS + 1):
        ask(number).raise_for_status()
        if number in {1, SETTLED, REQUESTS}:
            seen[number] = max(_resident_mb(pid) for pid in platform.pids(function))
    last, grown = seen[REQUESTS], seen[REQUESTS] - seen[SETTLED]
    return (
        *(f"{mb:.1f}" for mb in seen.values()),
        "met" if last < TARGET_MB else "missed",
        "met" if grown <= FLAT_MB else f"missed (+{grown:.1f})",
    )


def _resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    main()

"""Views each admin page over 100,000 runs: the first time, then warm; and what it weighs."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from pymongo import MongoClient
from rich.console import Console
from rich.table import Table

from lambent.clock import FAR_FUTURE
from lambent.engine.documents import new_run
from lambent.ids import ulid_floor
from local.benches.durable import quantiles
from local.benches.running import running_platform

RUNS = 100_000
ROUNDS = 20
TARGET_MS = 300.0
TARGET_BYTES = 100_000
_BATCH = 1_000
_STATUSES = ("completed", "completed", "completed", "failed", "cancelled")
_PAGES = (
    "/admin", "/admin/runs", "/admin/runs?status=failed", "/admin/runs?workflow=bench-3",
    "/admin/workflows", "/admin/events", "/admin/schedules", "/admin/webhooks", "/admin/keys",
    "/admin/usage", "/admin/audit", "/admin/hosts", "/admin/playground",
)  # fmt: skip


def main() -> None:
    """Print the table."""
    title = f"dashboard: {ROUNDS} views of each page over {RUNS} runs, ms; p50 < 300, < 100 kB"
    table = Table(title=title, title_justify="left")
    for name in ("", "first", "p50", "p95", "bytes", "target"):
        table.add_column(name, justify="left" if not name else "right")
    with running_platform() as platform:
        _seed(str(platform.ready["mongo_uri"]))
        with httpx.Client(base_url=platform.url, timeout=120) as browser:
            _sign_in(browser, platform.admin_key)
            for page in _PAGES:
                table.add_row(page, *_viewed(browser, page))
    Console().print(table)


def _viewed(browser: httpx.Client, page: str) -> tuple[str, ...]:
    took_ms, size = [], 0
    for _ in range(1 + ROUNDS):
        begun = time.perf_counter()
        answer = browser.get(page).raise_for_status()
        took_ms.append((time.perf_counter() - begun) * 1000)
        size = len(answer.content)
    p50, p95, _ = quantiles(took_ms[1:])
    met = "met" if p50 < TARGET_MS and size < TARGET_BYTES else "missed"
    return f"{took_ms[0]:.0f}", f"{p50:.0f}", f"{p95:.0f}", f"{size}", met


def _sign_in(browser: httpx.Client, key: str) -> None:
    same = {"sec-fetch-site": "same-origin", "origin": str(browser.base_url).rstrip("/")}
    form = {"key": key, "next": "/admin"}
    answer = browser.post("/admin/sign-in", data=form, headers=same)
    if answer.status_code != 303:
        why = re.sub("<[^>]+>", " ", answer.text)
        raise RuntimeError(f"signing in was refused: {' '.join(why.split())[-300:]}")


def _seed(uri: str) -> None:
    """Runs that have ended, over a month, of ten workflows and fifty clients."""
    began = datetime.now(UTC) - timedelta(days=30)
    step = timedelta(days=30) / RUNS
    with MongoClient[Mapping[str, Any]](uri, tz_aware=True) as client:
        runs = client["lambent"]["runs"]
        for first in range(0, RUNS, _BATCH):
            numbers = range(first, first + _BATCH)
            runs.insert_many([_ended(number, began + number * step) for number in numbers])


def _ended(number: int, at: datetime) -> Mapping[str, Any]:
    made = new_run(
        id=f"{ulid_floor(at)}{number:016d}",
        key=f"bench-{number}",
        workflow=f"bench-{number % 10}",
        version=1,
        client=f"client-{number % 50}",
        input={"number": number},
        now=at,
        priority=1,
        due_at=FAR_FUTURE,
    )
    ended = {"started_at": at, "finished_at": at + timedelta(seconds=3)}
    return {**made, **ended, "status": _STATUSES[number % len(_STATUSES)]}


if __name__ == "__main__":
    main()

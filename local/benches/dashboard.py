"""Views each admin page over 100,000 runs: the first time, then warm; and what it weighs.

./local/bench dashboard [RUNS]
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from pymongo import MongoClient
from pymongo.collection import Collection
from rich.console import Console
from rich.table import Table

from lambent.clock import FAR_FUTURE
from lambent.due import new_due_fields
from lambent.engine.documents import new_run
from lambent.ids import ulid_floor
from local.benches.durable import quantiles
from local.benches.running import running_platform

RUNS = 100_000
EVENTS = 20_000
STEPS = 10_000
ROUNDS = 20
SETTLE_S = 30.0
TARGET_MS = 300.0
TARGET_BYTES = 100_000
_BATCH = 1_000
_STATUSES = ("completed", "completed", "completed", "failed", "cancelled")
_LONG_RUN = "the run of 10,000 steps"
_PAGES = (
    "/admin", "/admin/charts/runs.svg", "/admin/runs", "/admin/runs?status=failed",
    "/admin/runs?workflow=bench-3", "/admin/runs?client=client-7",
    "/admin/runs?client=client-7&workflow=bench-7", "/admin/runs?client=client-7&workflow=bench-3",
    "/admin/workflows",
    "/admin/workflows/bench-3", "/admin/events", "/admin/events?type=bench.3",
    "/admin/schedules", "/admin/webhooks", "/admin/keys", "/admin/usage", "/admin/audit",
    "/admin/hosts", "/admin/playground",
)  # fmt: skip


def main() -> None:
    """Print the table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    with running_platform() as platform:
        began_s = time.perf_counter()
        long_run = _seed(str(platform.ready["mongo_uri"]), count)
        seeded_s = time.perf_counter() - began_s
        table = Table(
            title=f"dashboard: the first of {1 + ROUNDS} views of each page over {count:,} runs, "
            f"then the others, ms; first and p50 < {TARGET_MS:.0f}, < {TARGET_BYTES // 1000} kB",
            caption=f"seeded in {seeded_s:.0f} s; load average {os.getloadavg()[0]:.1f}",
            title_justify="left",
            caption_justify="left",
        )
        for name in ("", "first", "p50", "p95", "bytes", "target"):
            table.add_column(name, justify="left" if not name else "right")
        with httpx.Client(base_url=platform.url, timeout=120) as browser:
            _sign_in(browser, platform.admin_key)
            _until_it_answers(browser, platform.headers)
            for page in _PAGES:
                table.add_row(page, *_viewed(browser, page))
            for query in ("", "?from=start", "?step=n5000"):
                page = f"/admin/runs/{long_run}{query}"
                table.add_row(f"{_LONG_RUN} {query}", *_viewed(browser, page))
    Console().print(table)


def _until_it_answers(browser: httpx.Client, headers: Mapping[str, str]) -> None:
    # Servers were seen to take seconds for the first questions about so much that came at once.
    ends_s = time.monotonic() + 120
    for path in ("/overview", "/runs?status=failed"):
        while browser.get(path, headers=headers).status_code == 503 and time.monotonic() < ends_s:
            time.sleep(1)


def _viewed(browser: httpx.Client, page: str) -> tuple[str, ...]:
    took_ms, size = [], 0
    for _ in range(1 + ROUNDS):
        begun = time.perf_counter()
        answer = browser.get(page).raise_for_status()
        took_ms.append((time.perf_counter() - begun) * 1000)
        size = len(answer.content)
    p50, p95, _ = quantiles(took_ms[1:])
    met = "met" if max(took_ms[0], p50) < TARGET_MS and size < TARGET_BYTES else "missed"
    return f"{took_ms[0]:.0f}", f"{p50:.0f}", f"{p95:.0f}", f"{size}", met


def _sign_in(browser: httpx.Client, key: str) -> None:
    same = {"sec-fetch-site": "same-origin", "origin": str(browser.base_url).rstrip("/")}
    form = {"key": key, "next": "/admin"}
    answer = browser.post("/admin/sign-in", data=form, headers=same)
    if answer.status_code != 303:
        why = re.sub("<[^>]+>", " ", answer.text)
        raise RuntimeError(f"signing in was refused: {' '.join(why.split())[-300:]}")


def _seed(uri: str, count: int) -> str:
    """Runs that have ended, over a month, of ten workflows and fifty clients; events over the same
    time; and a run of very many steps, whose id it answers."""
    began = datetime.now(UTC) - timedelta(days=30)
    with MongoClient[Mapping[str, Any]](uri, tz_aware=True) as client:
        db = client["lambent"]
        step = timedelta(days=30) / count
        _fill(db["runs"], (_ended(number, began + number * step) for number in range(count)))
        step = timedelta(days=30) / EVENTS
        _fill(db["events"], (_event(number, began + number * step) for number in range(EVENTS)))
        now = datetime.now(UTC)
        long = {**_ended(count, now), "records": STEPS}
        run = str(long["_id"])
        db["runs"].insert_one(long)
        _fill(db["steps"], (finished_step(run, number, since=now) for number in range(STEPS)))
        # A store is busy for a while with so much that came at once.
        client.admin.command("fsync")
        time.sleep(SETTLE_S)
        return run


def _fill(
    collection: Collection[Mapping[str, Any]], documents: Iterable[Mapping[str, Any]]
) -> None:
    batch = []
    for document in documents:
        batch.append(document)
        if len(batch) == _BATCH:
            collection.insert_many(batch, ordered=False)
            batch = []
    if batch:
        collection.insert_many(batch, ordered=False)


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


def _event(number: int, at: datetime) -> Mapping[str, Any]:
    return {
        "_id": f"{ulid_floor(at)}{number:016d}",
        "client": f"client-{number % 50}",
        "id": str(number),
        "source": "/bench",
        "type": f"bench.{number % 10}",
        "subject": None,
        "time": at,
        "datacontenttype": "application/json",
        "dataschema": None,
        "extensions": {},
        "data": {"number": number},
        "received_at": at,
        "status": "delivered",
        "attempts": 0,
        **new_due_fields(FAR_FUTURE),
    }


def finished_step(run: str, number: int, *, since: datetime) -> dict[str, Any]:
    """The record of a run's step, as its slice left it: one every half second."""
    begun = since + number * timedelta(milliseconds=500)
    return {
        "_id": f"{run}/0/n{number}",
        "run": run,
        "epoch": 0,
        "key": f"n{number}",
        "kind": "do",
        "status": "completed",
        "order": number,
        "attempts": 1,
        "started_at": begun,
        "finished_at": begun + timedelta(milliseconds=400),
        "output": {"text": "x" * 500},
    }


if __name__ == "__main__":
    main()

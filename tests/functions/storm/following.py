"""Follows single runs from outside: over HTTP, and by the traces that their steps leave."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx

from tests.functions.storm.findings import read_traces

T = TypeVar("T")
Document = dict[str, Any]


def until(look: Callable[[], T | None], limit_s: float, what: str) -> T:
    """The first look that finds something; AssertionError with `what` after `limit_s`."""
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {limit_s:.0f} s")


def started(client: httpx.Client, workflow: str, **input: Any) -> str:
    """The id of a new run."""
    answer = client.post("/runs", json={"workflow": workflow, "input": input})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def published(client: httpx.Client, type: str, subject: str, id: str) -> None:
    event = {"specversion": "1.0", "source": "test", "type": type, "subject": subject, "id": id}
    answer = client.post("/events", json={**event, "data": {"subject": subject, "name": id}})
    assert answer.status_code == 202, answer.text


def read_run(client: httpx.Client, run_id: str) -> Document:
    run: Document = client.get(f"/runs/{run_id}").raise_for_status().json()
    return run


def reached(client: httpx.Client, run_id: str, *statuses: str, limit_s: float) -> Document:
    """The run once it has one of these statuses."""

    def look() -> Document | None:
        run = read_run(client, run_id)
        return run if run["status"] in statuses else None

    return until(look, limit_s, f"run {run_id} is {' or '.join(statuses)}")


def steps_of(client: httpx.Client, run_id: str) -> list[Document]:
    steps: list[Document] = client.get(f"/runs/{run_id}/steps").raise_for_status().json()["steps"]
    return steps


def traces_of(traces: Path, run_id: str) -> list[Document]:
    """What the steps of this run have left so far, in order."""
    if not traces.exists():
        return []
    return [line for line in read_traces(traces) if line["run"] == run_id]


def traced(traces: Path, run_id: str, step: str, *, limit_s: float = 30.0) -> Document:
    """The first trace of this step."""

    def look() -> Document | None:
        lines = traces_of(traces, run_id)
        return next((line for line in lines if line["step"] == step), None)

    return until(look, limit_s, f"step {step} of run {run_id} has begun")

"""A nudge that gets lost costs at most one poll, never the run."""

import time
from pathlib import Path
from typing import Any

import httpx

from tests.functions.storm.deployed import deaf, deployed, tick_every

EVERY_S = 15
# Finding and nudging, with cold starts on a machine that has other things to do.
SLACK_S = 25


def started(client: httpx.Client, workflow: str, traces: Path, **input: Any) -> str:
    body = {"subject": "s", "traces": str(traces), "lasts_s": 0, **input}
    answer = client.post("/runs", json={"workflow": workflow, "input": body})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def ended(client: httpx.Client, run_id: str, limit_s: float) -> dict[str, Any]:
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        run: dict[str, Any] = client.get(f"/runs/{run_id}").raise_for_status().json()
        if run["status"] in ("completed", "failed", "blocked"):
            return run
        time.sleep(0.1)
    raise AssertionError(f"the run is {run['status']} after {limit_s:.0f} s")


def test_a_run_whose_nudge_reaches_nobody_is_found_by_the_next_poll(tmp_path: Path) -> None:
    edits = [tick_every(EVERY_S), deaf("gateway")]
    with deployed(tmp_path / "data", edits=edits) as stack, stack.client() as client:
        run_id = started(client, "storm-leaf", tmp_path / "traces")
        run = ended(client, run_id, EVERY_S + SLACK_S)
        assert run["status"] == "completed", run
        assert "nudge failed" in (stack.data / "logs/gateway.log").read_text()


def test_with_no_nudge_but_the_pollers_a_whole_run_still_completes(tmp_path: Path) -> None:
    edits = [tick_every(EVERY_S), *map(deaf, ("gateway", "step", "deliver"))]
    with deployed(tmp_path / "data", edits=edits) as stack, stack.client() as client:
        run_id = started(client, "storm", tmp_path / "traces", sleep_s=2.5, leaf=True)
        for name in ("first", "pair", "pair", "late"):
            event = {"specversion": "1.0", "id": f"{name}-{time.time_ns()}", "source": "test"}
            event |= {"type": f"storm.{name}", "subject": "s", "data": {"subject": "s"}}
            assert client.post("/events", json=event).status_code == 202
        run = ended(client, run_id, 2 * EVERY_S + SLACK_S)
        assert run["status"] == "completed", run
        assert "nudge failed" in (stack.data / "logs/step.log").read_text()

"""A nudge that gets lost costs at most one poll, never the run."""

import time
from pathlib import Path

from tests.functions.storm.deployed import deaf, deployed, tick_every
from tests.functions.storm.following import published, reached, started

EVERY_S = 15
# Finding and nudging, with cold starts on a machine that has other things to do.
SLACK_S = 25
ENDED = ("completed", "failed", "blocked")


def test_a_run_whose_nudge_reaches_nobody_is_found_by_the_next_poll(tmp_path: Path) -> None:
    edits = [tick_every(EVERY_S), deaf("gateway")]
    with deployed(tmp_path / "data", edits=edits) as stack, stack.client() as client:
        run_id = started(client, "plod", traces=str(tmp_path / "traces"), lasts_s=0, steps=3)
        run = reached(client, run_id, *ENDED, limit_s=EVERY_S + SLACK_S)
        assert run["status"] == "completed", run
        assert "nudge failed" in (stack.data / "logs/gateway.log").read_text()


def test_with_no_nudge_but_the_pollers_a_whole_run_still_completes(tmp_path: Path) -> None:
    edits = [tick_every(EVERY_S), *map(deaf, ("gateway", "step", "deliver"))]
    whole = {"traces": str(tmp_path / "traces"), "lasts_s": 0, "sleep_s": 2.5, "leaf": True}
    with deployed(tmp_path / "data", edits=edits) as stack, stack.client() as client:
        run_id = started(client, "storm", subject="s", **whole)
        for name in ("first", "pair", "pair", "late"):
            published(client, f"storm.{name}", "s", f"{name}-{time.time_ns()}")
        run = reached(client, run_id, *ENDED, limit_s=2 * EVERY_S + SLACK_S)
        assert run["status"] == "completed", run
        assert "nudge failed" in (stack.data / "logs/step.log").read_text()

"""A process that is told to go hands its runs on; one that was frozen comes back too late."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lambent.due import LEASE_S
from tests.functions.stack import Stack, is_running
from tests.functions.storm.deployed import deployed, tick_every
from tests.functions.storm.following import reached, started, steps_of, traced, traces_of

STEPS = 24
LASTS_S = 0.3
# A cold start on a machine that has other things to do; far from a lease that has to lapse.
SECONDS_S = 15.0
# The lease, the next poll, a cold start.
RECOVERY_S = LEASE_S + 30.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with deployed(tmp_path_factory.mktemp("signals") / "data", edits=[tick_every(10)]) as running:
        yield running


def test_a_step_process_that_is_terminated_hands_its_runs_on_within_seconds(
    stack: Stack, tmp_path: Path
) -> None:
    traces = tmp_path / "traces"
    with stack.client() as client:
        run_id = started(client, "plod", traces=str(traces), lasts_s=LASTS_S, steps=STEPS)
        first = traced(traces, run_id, "n3")
        os.kill(first["pid"], signal.SIGTERM)
        told_s = time.monotonic()
        later = traced(traces, run_id, "n5", limit_s=SECONDS_S)
        print(f"went on elsewhere {time.monotonic() - told_s:.1f} s after SIGTERM")
        assert later["pid"] != first["pid"]
        assert reached(client, run_id, "completed", limit_s=60)["error"] is None
        assert len(steps_of(client, run_id)) == STEPS
    assert not is_running(first["pid"])


def test_a_process_that_was_frozen_past_its_lease_changes_nothing_when_it_wakes(
    stack: Stack, tmp_path: Path
) -> None:
    traces = tmp_path / "traces"
    with stack.client() as client:
        run_id = started(client, "plod", traces=str(traces), lasts_s=LASTS_S, steps=STEPS)
        zombie = traced(traces, run_id, "n3")["pid"]
        os.kill(zombie, signal.SIGSTOP)
        frozen_at = len(traces_of(traces, run_id))
        # Long enough for its successor to be in the middle of the run.
        successor = traced(traces, run_id, "n8", limit_s=RECOVERY_S)["pid"]
        os.kill(zombie, signal.SIGCONT)
        run = reached(client, run_id, "completed", limit_s=60)
        after = traces_of(traces, run_id)[frozen_at:]
        assert {line["pid"] for line in after} == {successor}, "the zombie went on"
        by_step = {step["key"]: step["output"] for step in steps_of(client, run_id)}
        tokens = {line["step"]: line["token"] for line in traces_of(traces, run_id)}
        assert by_step == tokens, "what counts is what the successor recorded"
        assert (run["error"], len(by_step)) == (None, STEPS)
        # It has thawed, and is of use again.
        again = started(client, "plod", traces=str(traces), lasts_s=0, steps=2)
        reached(client, again, "completed", limit_s=SECONDS_S)
    assert is_running(zombie)

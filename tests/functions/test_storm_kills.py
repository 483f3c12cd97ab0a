"""Runs survive the death of every process that has to do with them, and of the store."""

from pathlib import Path

from tests.functions.storm.deployed import deployed, full, tick_every
from tests.functions.storm.storm import Plan, Storm

# In short: fewer runs, and pollers that come more often than AWS would let them.
SHORT = (tick_every(10),)


async def test_every_run_completes_though_processes_are_killed_each_second(tmp_path: Path) -> None:
    plan = Plan(runs=200, kills_s=60) if full() else Plan(runs=60, kills_s=10, patience_s=150)
    with deployed(tmp_path / "data", edits=() if full() else SHORT) as stack:
        toll = await Storm(stack, plan).rage()
    print(toll)
    assert not toll.findings.problems, "\n".join(toll.findings.problems[:20])
    assert toll.killed["step"] >= plan.kills_s / 3


async def test_an_outage_of_the_store_fails_no_run_and_loses_nothing(tmp_path: Path) -> None:
    short = Plan(runs=40, kills_s=8, outage_at_s=3, outage_s=5, patience_s=150)
    plan = Plan(runs=200, kills_s=60, outage_at_s=20, outage_s=20) if full() else short
    with deployed(tmp_path / "data", edits=() if full() else SHORT) as stack:
        toll = await Storm(stack, plan).rage()
    print(toll)
    assert not toll.findings.problems, "\n".join(toll.findings.problems[:20])
    assert toll.killed["mongo"] == 1

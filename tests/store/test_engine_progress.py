"""`step.progress`: what watchers are told, at least once and in order."""

from __future__ import annotations

from typing import Any

import pytest

from lambent.engine.registry import Registry
from lambent.engine.step import Step
from lambent.intercept import StoreCall
from lambent.testing import CLIENT, WorkflowTest


def reports(call: StoreCall) -> bool:
    return call.name == "update_one" and "progress" in call.args[1].get("$set", {})


def watched(test: WorkflowTest) -> list[Any]:
    """The values as the run document has come to show them."""
    told: list[Any] = []

    async def gate(call: StoreCall, make: Any) -> Any:
        answer = await make()
        if reports(call) and answer.matched_count:
            told.append(call.args[1]["$set"]["progress"]["value"])
        return answer

    test.gate = gate
    return told


@pytest.mark.parametrize("after", [True, False])
async def test_a_report_is_told_though_the_slice_died_after_its_record(
    test: WorkflowTest, workflows: Registry, after: bool
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await step.progress("first")
        await step.progress("second")
        await step.wait_for_event("e", type="e")

    run_id = await test.start("w")
    test.crash_at(reports, nth=2, after=after)
    assert not await test.advance([run_id])
    await test.pass_time(31)
    run = await test.run(run_id)
    assert run.progress is not None
    assert run.progress["value"] == "second"


async def test_reports_of_branches_are_told_in_the_order_of_their_records_and_once(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        async def branch(n: int) -> None:
            await step.progress(n)
            await step.sleep(10)
            await step.progress(-n)

        await step.map("m", list(range(1, 6)), branch)

    told = watched(test)
    run_id = await test.start("w")
    await test.finish(run_id)
    steps = [one for one in await test.journal(run_id) if one.kind == "progress"]
    assert told == [one.output for one in sorted(steps, key=lambda one: one.order)]
    assert sorted(told) == [-5, -4, -3, -2, -1, 1, 2, 3, 4, 5]


async def test_a_run_from_its_start_again_tells_its_progress_again(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        for n in range(3):
            await step.progress(n)

    told = watched(test)
    run_id = await test.start("w")
    await test.finish(run_id)
    await test.engine.control.restart(run_id, client=CLIENT)
    await test.finish(run_id)
    assert told == [0, 1, 2, 0, 1, 2]

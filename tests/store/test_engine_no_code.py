"""Commands for runs whose version is not deployed: whom a cancel reaches, who is in the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lambent.engine.registry import Registry, Workflow
from lambent.engine.step import Step
from lambent.testing import CLIENT, WorkflowTest
from tests.store.conftest import Effects
from tests.store.test_engine_races import Paused, advance
from tests.store.test_engine_recovery import deployed


async def without_code(
    test: WorkflowTest, workflows: Registry, effects: Effects, *, undoable: bool
) -> tuple[str, str, Workflow]:
    """A run that is blocked for want of its version, its child, and that version."""

    @workflows.workflow("child")
    async def child(step: Step, input: Any) -> Any:
        await step.wait_for_event("never", type="never")

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        undo = (lambda _: effects.seen.append("undo")) if undoable else None
        await step.do("act", effects.do, "act", undo=undo)
        await step.start("child")
        await step.sleep(100)

    run_id = await test.start("w")
    await test.settle()
    there = workflows.latest("w")
    deployed(workflows, replace(there, version=2))
    await test.pass_time(101)
    run = await test.run(run_id)
    assert run.blocked is not None
    assert run.blocked["reason"] == "no code"
    (found,) = await test.store.mongo.db["runs"].find({"parent.run": run_id}).to_list()
    return run_id, found["_id"], there


async def test_a_cancel_without_code_reaches_the_children_and_ends_what_needs_no_undoing(
    test: WorkflowTest, workflows: Registry, effects: Effects
) -> None:
    run_id, child, _ = await without_code(test, workflows, effects, undoable=False)
    await test.engine.control.cancel(run_id, client=CLIENT)
    await test.settle()
    assert [(await test.run(one)).status for one in (run_id, child)] == ["cancelled"] * 2


async def test_a_cancel_without_code_waits_for_it_where_something_is_to_be_undone(
    test: WorkflowTest, workflows: Registry, effects: Effects
) -> None:
    run_id, child, there = await without_code(test, workflows, effects, undoable=True)
    await test.engine.control.cancel(run_id, client=CLIENT)
    await test.settle()
    run = await test.run(run_id)
    assert (await test.run(child)).status == "cancelled"
    assert run.status == "blocked"
    assert run.blocked is not None
    assert "cancel again to end it without" in run.blocked["detail"]
    deployed(workflows, there)
    await test.pass_time(301)
    assert (await test.run(run_id)).status == "cancelled"
    assert effects.seen == ["act", "undo"]


async def test_a_second_cancel_without_code_ends_the_run_and_says_what_was_skipped(
    test: WorkflowTest, workflows: Registry, effects: Effects
) -> None:
    run_id, _, _ = await without_code(test, workflows, effects, undoable=True)
    for _ in range(2):
        await test.engine.control.cancel(run_id, client=CLIENT)
        await test.settle()
    run = await test.run(run_id)
    assert run.status == "cancelled"
    assert run.error is not None
    assert run.error["undo_skipped"] is True
    assert effects.seen == ["act"]


@pytest.mark.parametrize("nth", [1, 2])
async def test_a_slice_that_dies_between_the_children_and_the_end_leaves_no_child_behind(
    test: WorkflowTest, workflows: Registry, effects: Effects, nth: int
) -> None:
    run_id, child, _ = await without_code(test, workflows, effects, undoable=False)
    await test.engine.control.cancel(run_id, client=CLIENT)
    test.crash_at(lambda call: call.name == "update_one" and call.about == child, nth=nth)
    await test.pass_time(65)
    assert [(await test.run(one)).status for one in (run_id, child)] == ["cancelled"] * 2


@pytest.mark.parametrize("there_again", [False, True])
async def test_a_restart_takes_the_run_from_the_slice_that_looks_for_its_code(
    test: WorkflowTest, workflows: Registry, effects: Effects, there_again: bool
) -> None:
    run_id, _, there = await without_code(test, workflows, effects, undoable=False)
    test.clock.move_s(301)
    if there_again:
        deployed(workflows, there)
    # It is about to mark the run as running, or to give it back until it looks again.
    late = Paused(lambda call: (call.collection, call.name) == ("runs", "update_one")
                  and "status" in call.args[1]["$set"])  # fmt: skip
    slice = await advance(test, run_id, late)
    assert (await test.engine.control.restart(run_id, client=CLIENT)).status == "waiting"
    late.let_go()
    await slice
    deployed(workflows, there)
    await test.pass_time(101)
    run = await test.run(run_id)
    assert (run.status, run.epoch, effects.seen) == ("completed", 1, ["act", "act"])


async def test_a_restart_need_not_wait_for_the_lease_of_a_slice_that_died_over_a_blocked_run(
    test: WorkflowTest, workflows: Registry, effects: Effects
) -> None:
    run_id, _, there = await without_code(test, workflows, effects, undoable=False)
    test.clock.move_s(301)
    test.crash_at(lambda call: call.name == "update_one" and "blocked" in str(call.args))
    assert not await test.advance([run_id])
    await test.engine.control.restart(run_id, client=CLIENT)
    assert (await test.document(run_id))["claims"] == 0, "his death counts against the next epoch"
    deployed(workflows, there)
    await test.settle()
    assert effects.seen == ["act", "act"]

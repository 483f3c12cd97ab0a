"""What a run does side by side, through children, or backwards when it is undone."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from lambent.engine.listing import RunFilter
from lambent.engine.registry import Registry
from lambent.engine.step import Step
from lambent.errors import (
    ChildFailed,
    NonRetryable,
    StepFailed,
    WorkflowError,
)
from lambent.testing import CLIENT, WorkflowTest
from tests.store.conftest import Effects


async def test_map_keeps_the_order_and_its_limit(test: WorkflowTest, workflows: Registry) -> None:
    at_once: list[int] = [0, 0]

    async def work(n: int) -> int:
        import asyncio

        at_once[0] += 1
        at_once[1] = max(at_once)
        await asyncio.sleep(0.01)
        at_once[0] -= 1
        return n * n

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        return await step.map("squares", range(7), lambda n: step.do("square", work, n), limit=3)

    run_id = await test.start("w")
    assert await test.finish(run_id) == [0, 1, 4, 9, 16, 25, 36]
    assert at_once[1] == 3
    assert {one.key for one in await test.journal(run_id)} == {
        f"squares[{n}]/square" for n in range(7)
    }


async def test_branches_wait_side_by_side(test: WorkflowTest, workflows: Registry) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        async def branch(hours: int) -> Any:
            await step.sleep(timedelta(hours=hours))
            return await step.do("after", lambda: hours)

        return await step.gather(branch(3), branch(1), step.do("now", lambda: 0))

    began = test.clock.now()
    assert await test.finish(await test.start("w")) == [3, 1, 0]
    assert (test.clock.now() - began).total_seconds() == pytest.approx(3 * 3600, abs=1)


async def test_the_first_failing_branch_gives_the_others_up_for_good(
    test: WorkflowTest, workflows: Registry, effects: Effects
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        async def slow() -> None:
            await step.sleep(1000)
            await step.do("never", effects.do, "never")

        async def bad() -> None:
            await step.sleep(10)
            await step.do("bad", effects.failing(NonRetryable("bad")))

        try:
            await step.gather(slow(), bad())
        except StepFailed:
            await step.sleep(5000)
            return "recovered"

    assert await test.finish(await test.start("w")) == "recovered"
    assert "never" not in effects.seen


async def test_a_parent_gets_the_output_of_its_child_or_its_failure(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("child")
    async def child(step: Step, input: Any) -> Any:
        await step.sleep(100)
        if input < 0:
            raise ValueError("negative")
        return input * 2

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        good = await step.start("child", 4)
        bad = await step.start("child", -1)
        with pytest.raises(ChildFailed, match="negative"):
            await bad
        return await good

    assert await test.finish(await test.start("w")) == 8


async def test_a_cancel_reaches_children_of_before_the_run_continued_as_new(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("child")
    async def child(step: Step, input: Any) -> Any:
        await step.sleep(40 * 86400)

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        if input is None:
            await step.start("child")
            await step.continue_as_new("again")
        await step.sleep(50 * 86400)

    run_id = await test.start("w")
    await test.pass_time(3 * 86400)
    found = await test.engine.control.list_runs(RunFilter(client=CLIENT, workflow="child"))
    await test.engine.control.cancel(run_id, client=CLIENT)
    await test.settle()
    assert (await test.run(run_id)).status == "cancelled"
    assert (await test.run(found.runs[0].id)).status == "cancelled"


async def test_steps_side_by_side_outside_gather_are_refused(
    test: WorkflowTest, workflows: Registry
) -> None:
    import asyncio

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await asyncio.gather(step.sleep(5), step.do("other", lambda: 1))

    with pytest.raises(WorkflowError, match=r"only inside step\.gather or step\.map"):
        await test.finish(await test.start("w"))


async def test_what_was_done_is_undone_last_step_first_when_the_run_fails(
    test: WorkflowTest, workflows: Registry, effects: Effects
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await step.do("a", effects.do, "a", undo=lambda out: effects.seen.append(f"undo {out}"))
        await step.sleep(100)
        await step.do("b", effects.do, "b", undo=lambda out: effects.seen.append(f"undo {out}"))
        await step.do("c", effects.failing(NonRetryable("c")))

    run_id = await test.start("w")
    with pytest.raises(WorkflowError, match="failed"):
        await test.finish(run_id)
    assert effects.seen == ["a", "b", "done", "undo b", "undo a"]

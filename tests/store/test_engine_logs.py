"""`step.log`: each line once, when it is new, however often the run is replayed."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from lambent.engine.options import NO_RETRY
from lambent.engine.registry import Registry
from lambent.engine.step import Step
from lambent.errors import NonRetryable, StepFailed
from lambent.testing import CLIENT, WorkflowTest


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Any:
    """What `w` has logged so far."""
    caplog.set_level(logging.INFO, logger="lambent.workflows.w")

    def read() -> list[str]:
        return [one.message for one in caplog.records if one.name == "lambent.workflows.w"]

    return read


async def broken() -> None:
    raise NonRetryable("as asked")


async def test_what_comes_after_a_failed_gather_is_logged_once(
    test: WorkflowTest, workflows: Registry, lines: Any
) -> None:
    @workflows.workflow("w", retry=NO_RETRY)
    async def w(step: Step, input: Any) -> Any:
        async def branch(n: int) -> None:
            await step.do("first", lambda: n)
            step.log(f"branch {n}")
            await step.sleep(10 * n)
            await step.do("second", broken if n == 1 else lambda: n)

        try:
            await step.map("m", [1, 2, 3], branch)
        except StepFailed:
            step.log("caught")
        for n in range(3):
            await step.sleep(100)
            step.log(f"later {n}")

    await test.finish(await test.start("w"))
    assert sorted(lines()[:3]) == ["branch 1", "branch 2", "branch 3"]
    assert lines()[3:] == ["caught", "later 0", "later 1", "later 2"]


async def test_a_branch_logs_what_is_new_in_it_though_another_is_replayed_still(
    test: WorkflowTest, workflows: Registry, lines: Any
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        async def branch(n: int) -> None:
            await step.sleep(10)
            step.log(f"{n} slept")
            await step.sleep(1000 * n)
            step.log(f"{n} is done")

        await step.map("m", [1, 2], branch, limit=2)
        step.log("all")

    await test.finish(await test.start("w"))
    assert sorted(lines()[:2]) == ["1 slept", "2 slept"]
    assert lines()[2:] == ["1 is done", "2 is done", "all"]


async def test_a_failure_that_was_caught_silences_nothing_and_repeats_nothing(
    test: WorkflowTest, workflows: Registry, lines: Any
) -> None:
    @workflows.workflow("w", retry=NO_RETRY)
    async def w(step: Step, input: Any) -> Any:
        try:
            await step.do("broken", broken)
        except StepFailed:
            step.log("caught")
        await step.sleep(100)
        step.log("after")

    await test.finish(await test.start("w"))
    assert lines() == ["caught", "after"]


async def test_the_replay_that_finds_what_is_to_be_undone_is_silent_and_the_undoing_is_not(
    test: WorkflowTest, workflows: Registry, lines: Any
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await step.do("act", lambda: 1, undo=lambda _: step.log("undo"))
        step.log("acted")
        await step.wait_for_event("e", type="e")

    run_id = await test.start("w")
    await test.settle()
    await test.engine.control.cancel(run_id, client=CLIENT)
    await test.settle()
    assert (await test.run(run_id)).status == "cancelled"
    assert lines() == ["acted", "undo"]


async def test_lines_that_no_step_follows_are_not_repeated_by_a_later_slice(
    test: WorkflowTest, workflows: Registry, lines: Any
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        async def branch(n: int) -> None:
            step.log(f"{n} begins")
            await step.map("inner", [1], inner)
            step.log(f"{n} ends")

        async def inner(n: int) -> None:
            await step.sleep(10)
            step.log("inner ends")

        await step.gather(branch(1), step.sleep(100))
        step.log("first gather")
        await step.gather(branch(2), step.sleep(200))
        step.log("second gather")
        step.log("end")

    await test.finish(await test.start("w"))
    one, two = ([f"{n} begins", "inner ends", f"{n} ends"] for n in (1, 2))
    assert lines() == [*one, "first gather", *two, "second gather", "end"]


async def test_a_slice_out_of_time_has_no_line_repeated(
    test: WorkflowTest, workflows: Registry, lines: Any
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        for n in range(3):
            await step.do("act", lambda: 1)
            step.log(f"line {n}")

    run_id = await test.start("w")
    for _ in range(3):  # time for one step, and none for a second
        await test.engine.advance([run_id], ends_s=test.clock.monotonic_s() + 0.1)
    await test.finish(run_id)
    assert lines() == ["line 0", "line 1", "line 2"]


async def test_a_retried_run_logs_anew_what_it_does_again(
    test: WorkflowTest, workflows: Registry, lines: Any
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await step.do("kept", lambda: 1)
        await step.do("tried", (lambda: 1) if step.attempt_of_run else broken)
        step.log("tried")
        await step.sleep(10)
        step.log("end")

    run_id = await test.start("w")
    await test.settle()
    await test.engine.control.retry(run_id, client=CLIENT)
    await test.finish(run_id)
    assert lines() == ["tried", "end"]

"""Writes that reach the store late, after those that their owner made since."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pymongo.errors import AutoReconnect

from lambent.engine.registry import Registry
from lambent.engine.step import Step
from lambent.engine.tenure import Did
from lambent.errors import NonRetryable
from lambent.intercept import StoreCall
from lambent.testing import CLIENT, WorkflowTest
from tests.store.test_engine_faults import changes, ends_a_run


@pytest.fixture
def test(test: WorkflowTest) -> WorkflowTest:
    async def briefly(seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.001))

    test.clock.sleep = briefly  # type: ignore[method-assign]
    return test


def come_late(
    test: WorkflowTest, of: Callable[[StoreCall], bool], after: Callable[[StoreCall], bool]
) -> list[str]:
    """The first such call is done only after another, though whoever made it heard of a broken
    connection at once and made it again; which ones were."""
    seen: list[str] = []
    held: list[Any] = []

    async def gate(call: StoreCall, make: Any) -> Any:
        if of(call) and not seen:
            seen.append(str(call))
            held.append(make)
            raise AutoReconnect("nobody knows whether it was done")
        answer = await make()
        if held and after(call):
            seen.append(str(call))
            await held.pop()()
        return answer

    test.gate = gate
    return seen


async def test_a_new_epoch_that_is_written_late_does_not_take_the_run_back(
    test: WorkflowTest, workflows: Registry
) -> None:
    passes: list[int] = []

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        passes.append(input)
        if input < 2:
            await step.continue_as_new(input + 1)
        return input

    run_id = await test.start("w", 0)
    seen = come_late(
        test,
        lambda call: changes(call, "base_epoch"),
        lambda call: changes(call, "base_epoch") and call.args[1]["$set"]["epoch"] == 2,
    )
    assert (await test.engine.advance([run_id]))[run_id].did is Did.ENDED
    assert len(seen) == 2
    run = await test.run(run_id)
    assert (run.output, run.epoch, passes) == (2, 2, [0, 1, 2])


def decides(call: StoreCall) -> bool:
    return changes(call, "ending") and call.args[1]["$set"]["ending"] is not None


async def test_a_decision_that_is_written_late_does_not_decide_about_the_retry(
    test: WorkflowTest, workflows: Registry
) -> None:
    done: list[str] = []

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await step.do("act", lambda: done.append("act"), undo=lambda _: done.append("undo"))
        if step.attempt_of_run == 0:
            raise NonRetryable("as asked")
        return "well"

    run_id = await test.start("w")
    seen = come_late(test, decides, lambda call: changes(call, "ending") and not decides(call))
    gate = test.gate

    async def retry_at_its_end(call: StoreCall, make: Any) -> Any:
        assert gate is not None
        answer = await gate(call, make)
        if ends_a_run(call) and len(seen) == 1:
            await test.engine.control.retry(run_id, client=CLIENT)
        return answer

    test.gate = retry_at_its_end
    await test.settle()
    assert len(seen) == 2
    run = await test.run(run_id)
    assert (run.status, run.output, run.epoch) == ("completed", "well", 1)
    assert done == ["act", "undo", "act"]

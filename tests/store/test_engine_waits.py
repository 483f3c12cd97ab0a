"""Events, callbacks and conditions that a run waits for, over the real store with virtual time."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from lambent.engine.listing import RunFilter
from lambent.engine.registry import Registry
from lambent.engine.step import Step
from lambent.errors import (
    CallbackFailed,
    WaitTimedOut,
)
from lambent.testing import CLIENT, WorkflowTest
from tests.store.conftest import Effects


async def test_an_event_that_came_before_the_wait_is_not_lost(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await step.sleep(3600)
        event = await step.wait_for_event("paid", type="paid", subject="o-1")
        return event.data["amount"]

    run_id = await test.start("w")
    await test.settle()
    await test.send("paid", {"amount": 1}, subject="o-2")
    await test.send("paid", {"amount": 2}, subject="o-1")
    assert await test.finish(run_id) == 2


async def test_each_event_counts_once_for_a_run_in_the_order_of_arrival(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        return [(await step.wait_for_event("next", type="n")).data for _ in range(3)]

    run_id = await test.start("w")
    await test.settle()
    for number in range(3):
        await test.send("n", number, id=f"n-{number}")
        await test.send("n", number, id=f"n-{number}")
        test.clock.move_s(0.001)
    assert await test.finish(run_id) == [0, 1, 2]


async def test_a_wait_takes_only_what_its_where_allows_and_only_of_its_client(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        event = await step.wait_for_event("big", type="n", where={"data.n": {"gte": 10}})
        return event.data["n"]

    run_id = await test.start("w")
    await test.settle()
    await test.send("n", {"n": 9})
    await test.bus.publish(
        client="other", id="1", source="x", type="n", subject=None, data={"n": 99}
    )
    await test.send("n", {"n": 10})
    assert await test.finish(run_id) == 10


async def test_a_wait_without_an_event_times_out(test: WorkflowTest, workflows: Registry) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        with pytest.raises(WaitTimedOut):
            await step.wait_for_event("never", type="n", timeout=timedelta(days=2))
        return "gave up"

    run_id = await test.start("w")
    assert await test.finish(run_id) == "gave up"
    assert [one.status for one in await test.journal(run_id)] == ["timed out"]


async def test_wait_until_asks_until_it_is_true(
    test: WorkflowTest, workflows: Registry, effects: Effects
) -> None:
    answers = [None, None, "there"]

    async def check() -> Any:
        effects.seen.append(1)
        return answers.pop(0)

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        return await step.wait_until("there", check, every=600)

    began = test.clock.now()
    assert await test.finish(await test.start("w")) == "there"
    assert (test.clock.now() - began).total_seconds() == pytest.approx(1200, abs=1)
    assert len(effects.seen) == 3


async def test_a_callback_is_answered_once_by_whoever_holds_its_token(
    test: WorkflowTest, workflows: Registry
) -> None:
    tokens: list[str] = []

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        approval = await step.callback("approval", timeout=3600)
        await step.do("ask", lambda: tokens.append(approval.token))
        return await approval

    run_id = await test.start("w")
    await test.settle()
    await test.engine.callbacks.complete(tokens[0], {"ok": Decimal("1.0")})
    assert await test.finish(run_id) == {"ok": Decimal("1.0")}
    with pytest.raises(Exception, match="answered"):
        await test.engine.callbacks.complete(tokens[0], "again")


async def test_a_callback_can_be_failed_and_dies_of_silence(
    test: WorkflowTest, workflows: Registry
) -> None:
    tokens: list[str] = []

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        job = await step.callback("job", heartbeat=60)
        await step.do("tell", lambda: tokens.append(job.token))
        try:
            return await job
        except CallbackFailed as error:
            return f"failed: {error.detail}"
        except WaitTimedOut:
            return "silent"

    failed, silent = await test.start("w"), await test.start("w")
    await test.settle()
    await test.engine.callbacks.fail(tokens[0], "no disk")
    assert await test.finish(failed) == "failed: no disk"
    await test.pass_time(50)
    await test.engine.callbacks.heartbeat(tokens[1])
    await test.pass_time(50)
    assert (await test.run(silent)).status == "waiting"
    assert await test.finish(silent) == "silent"


async def test_a_run_goes_on_through_many_slices_after_callbacks_were_answered(
    test: WorkflowTest, workflows: Registry, effects: Effects
) -> None:
    tokens: list[str] = []

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        for number in range(2):
            approval = await step.callback("approval")
            await step.do("tell", tokens.append, approval.token)
            await approval
            await step.do("act", effects.do, number)
            await step.sleep(10)
        return "done"

    run_id = await test.start("w")
    for number in range(2):
        await test.settle()
        await test.engine.callbacks.complete(tokens[number])
        await test.pass_time(11)
    assert await test.finish(run_id) == "done"
    assert effects.seen == [0, 1]


async def test_a_published_event_is_published_once(test: WorkflowTest, workflows: Registry) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await step.publish("done", {"n": 1}, subject="s")
        await step.sleep(60)

    test.crash_at("/publish done", after=False)
    await test.finish(await test.start("w"))
    assert [(one["type"], one["data"]) for one in test.bus.published] == [("done", {"n": 1})]


async def test_a_type_of_the_platforms_own_is_not_published(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await step.publish("lambent.callback", {"ok": True})

    run_id = await test.start("w")
    await test.settle()
    run = await test.engine.control.get(run_id, client=CLIENT)
    assert run.status == "failed"
    assert "step.publish('lambent.callback')" in str(run.error)
    assert test.bus.published == []


async def test_an_event_starts_the_workflows_that_name_its_type_once(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w", on="news.requested")
    async def w(step: Step, input: Any) -> Any:
        return input["data"]

    await test.send("news.requested", {"topic": "x"}, id="e1")
    await test.bus.deliver(test.bus.published[0])
    await test.settle()

    page = await test.engine.control.list_runs(RunFilter(client=CLIENT))
    assert [(run.status, run.output) for run in page.runs] == [("completed", {"topic": "x"})]


async def test_an_authors_except_does_not_swallow_a_suspension(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        try:
            await step.sleep(1000)
        except Exception:
            return "swallowed"
        return "slept"

    assert await test.finish(await test.start("w")) == "slept"

"""Retries of runs that failed because a child of theirs did."""

from __future__ import annotations

from typing import Any

import pytest

from lambent.engine.options import Singleton
from lambent.engine.registry import Registry
from lambent.engine.step import Step
from lambent.errors import NonRetryable
from lambent.testing import CLIENT, WorkflowTest
from tests.store.conftest import Effects


def families(workflows: Registry, effects: Effects, *, failures: int = 1, **options: Any) -> None:
    """`top` awaits `parent`, that awaits `child`, which fails so many times after a good step."""
    broken = effects.failing(*[NonRetryable(f"failure {n}") for n in range(failures)])

    @workflows.workflow("child", **options)
    async def child(step: Step, input: Any) -> Any:
        await step.do("good", effects.do, "child's good")
        return await step.do("broken", broken, "child's broken")

    @workflows.workflow("parent")
    async def parent(step: Step, input: Any) -> Any:
        await step.do("before", effects.do, "parent's before")
        return await (await step.start("child"))

    @workflows.workflow("top")
    async def top(step: Step, input: Any) -> Any:
        return await (await step.start("parent"))


async def of_workflow(test: WorkflowTest, name: str) -> list[Any]:
    return await test.store.mongo.db["runs"].find({"workflow": name}).sort("_id", 1).to_list()


@pytest.mark.parametrize("name", ["parent", "top"])
async def test_a_retry_of_a_parent_retries_the_failed_child_and_keeps_what_was_done(
    test: WorkflowTest, workflows: Registry, effects: Effects, name: str
) -> None:
    families(workflows, effects)
    run_id = await test.start(name)
    await test.settle()
    assert (await test.run(run_id)).status == "failed"
    await test.engine.control.retry(run_id, client=CLIENT)
    assert await test.finish(run_id) == "child's broken"
    assert effects.seen == ["parent's before", "child's good", "child's broken", "child's broken"]
    (child,) = await of_workflow(test, "child")
    assert (child["status"], child["epoch"]) == ("completed", 1)


async def test_each_retry_of_a_parent_is_one_more_try_of_the_child(
    test: WorkflowTest, workflows: Registry, effects: Effects
) -> None:
    families(workflows, effects, failures=2)
    run_id = await test.start("parent")
    await test.settle()
    for _ in range(2):
        run = await test.run(run_id)
        assert run.status == "failed"
        assert "failure" in str(run.error)
        await test.engine.control.retry(run_id, client=CLIENT)
        await test.settle()
    assert (await test.run(run_id)).status == "completed"
    assert effects.seen.count("child's broken") == 3


async def test_a_child_that_was_retried_on_its_own_is_taken_as_it_ended_then(
    test: WorkflowTest, workflows: Registry, effects: Effects
) -> None:
    families(workflows, effects)
    run_id = await test.start("parent")
    await test.settle()
    (child,) = await of_workflow(test, "child")
    await test.engine.control.retry(child["_id"], client=CLIENT)
    await test.settle()
    await test.engine.control.retry(run_id, client=CLIENT)
    assert await test.finish(run_id) == "child's broken"
    assert effects.seen.count("child's broken") == 2


@pytest.mark.parametrize("why", ["deleted", "a singleton of somebody else"])
async def test_a_child_that_is_gone_or_not_ours_is_started_anew(
    test: WorkflowTest, workflows: Registry, effects: Effects, why: str
) -> None:
    families(workflows, effects, singleton=Singleton())
    if why != "deleted":
        await test.start("child")
    run_id = await test.start("parent")
    await test.advance([run_id])
    await test.pass_time(60)
    (child,) = await of_workflow(test, "child")
    assert (await test.run(run_id)).status == "failed"
    if why == "deleted":
        await test.engine.control.delete(child["_id"], client=CLIENT)
    await test.engine.control.retry(run_id, client=CLIENT)
    assert await test.finish(run_id) == "child's broken"
    newest = (await of_workflow(test, "child"))[-1]
    assert newest["_id"] != child["_id"]
    assert newest["parent"]["run"] == run_id


async def test_a_cancelled_child_is_run_again_from_its_start(
    test: WorkflowTest, workflows: Registry, effects: Effects
) -> None:
    @workflows.workflow("child")
    async def child(step: Step, input: Any) -> Any:
        await step.do("good", effects.do, "good")
        return (await step.wait_for_event("e", type="e")).data

    @workflows.workflow("parent")
    async def parent(step: Step, input: Any) -> Any:
        return await (await step.start("child"))

    run_id = await test.start("parent")
    await test.settle()
    (one,) = await of_workflow(test, "child")
    await test.engine.control.cancel(one["_id"], client=CLIENT)
    await test.settle()
    assert (await test.run(run_id)).status == "failed"
    await test.engine.control.retry(run_id, client=CLIENT)
    await test.settle()
    await test.send("e", 7)
    assert await test.finish(run_id) == 7
    assert effects.seen == ["good", "good"]


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("after", [True, False])
async def test_a_slice_that_dies_while_it_retries_the_child_retries_it_once(
    test: WorkflowTest, workflows: Registry, effects: Effects, nth: int, after: bool
) -> None:
    families(workflows, effects, failures=1)
    run_id = await test.start("parent")
    await test.settle()
    await test.engine.control.retry(run_id, client=CLIENT)
    (child,) = await of_workflow(test, "child")
    test.crash_at(lambda call: call.about == child["_id"], nth=nth, after=after)
    assert not await test.advance([run_id])
    assert await test.finish(run_id) == "child's broken"
    (child,) = await of_workflow(test, "child")
    assert child["epoch"] == 1

"""A singleton stays one, also where a run is taken on after its end."""

from __future__ import annotations

from typing import Any

import pytest

from lambent.engine.listing import RunFilter
from lambent.engine.options import Singleton
from lambent.engine.registry import Registry
from lambent.engine.step import Step
from lambent.errors import Conflict, NonRetryable
from lambent.testing import CLIENT, WorkflowTest


@pytest.fixture
def bad() -> list[bool]:
    """Whether a run with the input "bad" fails."""
    return [True]


@pytest.fixture(params=[False, True], ids=["skips", "replaces"])
def test(
    test: WorkflowTest, workflows: Registry, bad: list[bool], request: pytest.FixtureRequest
) -> WorkflowTest:
    @workflows.workflow("w", singleton=Singleton(replace=request.param))
    async def w(step: Step, input: Any) -> Any:
        if input == "bad" and bad[0]:
            raise NonRetryable("as asked")
        if input != "short":
            await step.sleep(100)
        return input

    return test


async def ended(test: WorkflowTest, how: str) -> str:
    """A run that has failed, was cancelled, or is completed."""
    run = await test.start("w", {"failed": "bad", "completed": "short"}.get(how, "long"))
    await test.settle()
    if how == "cancelled":
        await test.engine.control.cancel(run, client=CLIENT)
        await test.settle()
    assert (await test.run(run)).status == how
    return run


@pytest.mark.parametrize(
    ("command", "how"),
    [
        ("retry", "failed"),
        ("retry", "cancelled"),
        ("restart", "failed"),
        ("restart", "cancelled"),
        ("restart", "completed"),
    ],
)
async def test_an_ended_run_is_not_taken_on_while_another_has_its_place(
    test: WorkflowTest, bad: list[bool], command: str, how: str
) -> None:
    first = await ended(test, how)
    second = await test.start("w", "other")
    await test.settle()
    bad[0] = False
    take_on = getattr(test.engine.control, command)
    with pytest.raises(Conflict, match=f"Run {second} has the place") as refused:
        await take_on(first, client=CLIENT)
    assert refused.value.fields == {"status": how, "run": second}
    assert (await test.run(first)).status == how
    await test.finish(second)
    await take_on(first, client=CLIENT)
    await test.finish(first)


async def test_a_run_that_is_taken_on_has_its_place_again(
    test: WorkflowTest, workflows: Registry, bad: list[bool]
) -> None:
    first = await ended(test, "failed")
    bad[0] = False
    await test.engine.control.retry(first, client=CLIENT)
    await test.settle()
    second = await test.start("w", "other")
    await test.settle()
    singleton = workflows.latest("w").flow.singleton
    assert singleton is not None
    if singleton.replace:
        assert (await test.run(first)).status == "cancelled"
        with pytest.raises(Conflict, match=f"Run {second} has the place"):
            await test.engine.control.retry(first, client=CLIENT)
    else:
        assert second == first


async def test_many_are_retried_but_for_those_whose_place_is_taken(
    test: WorkflowTest, bad: list[bool]
) -> None:
    first = await ended(test, "failed")
    second = await ended(test, "failed")
    bad[0] = False
    mine = RunFilter(client=CLIENT, workflow="w")
    assert await test.engine.control.retry_all(mine) == 1
    await test.settle()
    statuses = sorted([(await test.run(run)).status for run in (first, second)])
    assert statuses == ["failed", "waiting"]


async def test_a_retried_parent_takes_the_end_of_a_child_whose_place_is_taken(
    test: WorkflowTest, workflows: Registry, bad: list[bool]
) -> None:
    @workflows.workflow("parent")
    async def parent(step: Step, input: Any) -> Any:
        return await (await step.start("w", "bad"))

    run = await test.start("parent")
    await test.settle()
    assert (await test.run(run)).status == "failed"
    other = await test.start("w", "other")
    bad[0] = False
    await test.engine.control.retry(run, client=CLIENT)
    await test.settle()
    error = (await test.run(run)).error
    assert error is not None
    assert "child run" in error["message"]
    await test.finish(other)
    await test.engine.control.retry(run, client=CLIENT)
    assert await test.finish(run) == "bad"

"""Flow control: how many runs go on at once, when they start, and which are one."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from lambent.engine.listing import RunFilter
from lambent.engine.model import Level, Status
from lambent.engine.options import Batch, Concurrency, Debounce, RateLimit, Singleton
from lambent.engine.registry import Registry
from lambent.engine.step import Step
from lambent.errors import ConfigError, Conflict, NonRetryable, RequestError, Unprocessable
from lambent.testing import CLIENT, WorkflowTest


async def statuses(test: WorkflowTest, run_ids: list[str]) -> list[str]:
    return [(await test.run(run_id)).status for run_id in run_ids]


async def test_no_more_runs_of_a_group_go_on_than_its_limit(
    test: WorkflowTest, workflows: Registry
) -> None:
    inside: dict[str, int] = {"a": 0, "b": 0}
    most: dict[str, int] = {"a": 0, "b": 0}

    @workflows.workflow("w", concurrency=Concurrency(limit=2, key=lambda i: i["group"]))
    async def w(step: Step, input: Any) -> Any:
        group = input["group"]

        async def enter() -> None:
            inside[group] += 1
            most[group] = max(most[group], inside[group])

        async def leave() -> None:
            inside[group] -= 1

        await step.do("enter", enter)
        await step.sleep(100)
        await step.do("leave", leave)

    run_ids = [await test.start("w", {"group": group}) for group in "aaaaab"]
    for run_id in run_ids:
        await test.finish(run_id)
    assert most == {"a": 2, "b": 1}


async def test_a_waiter_that_is_cancelled_passes_its_turn_on(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w", concurrency=Concurrency(limit=1))
    async def w(step: Step, input: Any) -> Any:
        await step.sleep(100)

    first, second, third = [await test.start("w") for _ in range(3)]
    await test.settle()
    assert await statuses(test, [first, second, third]) == ["waiting", "pending", "pending"]
    await test.engine.control.cancel(second, client=CLIENT)
    await test.finish(third)
    assert await statuses(test, [first, second, third]) == ["completed", "cancelled", "completed"]


async def test_no_more_runs_start_in_a_window_than_the_rate_allows(
    test: WorkflowTest, workflows: Registry
) -> None:
    started: list[float] = []

    @workflows.workflow("w", rate_limit=RateLimit(limit=2, period_s=60))
    async def w(step: Step, input: Any) -> Any:
        started.append((await step.now()).timestamp() // 60)

    run_ids = [await test.start("w") for _ in range(5)]
    for run_id in run_ids:
        await test.finish(run_id)
    assert [started.count(window) for window in sorted(set(started))] == [2, 2, 1]


async def test_a_debounced_start_waits_for_quiet_and_takes_the_last_input(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w", debounce=Debounce(period_s=10, longest_s=25))
    async def w(step: Step, input: Any) -> Any:
        return input

    run_ids = set()
    for number in range(3):
        run_ids.add(await test.start("w", number, key=f"k{number}"))
        await test.pass_time(9)
    assert len(run_ids) == 1
    assert await test.finish(run_ids.pop()) == 2
    later = await test.start("w", 7)
    assert await test.finish(later) == 7


async def test_a_debounced_start_does_not_wait_for_ever(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w", debounce=Debounce(period_s=10, longest_s=25))
    async def w(step: Step, input: Any) -> Any:
        return input

    run_ids = []
    for number in range(4):
        run_ids.append(await test.start("w", number))
        await test.pass_time(9)
    assert run_ids[0] == run_ids[2] != run_ids[3]


async def test_starts_are_batched_by_number_and_by_time(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w", on="e", batch=Batch(size=3, timeout_s=60))
    async def w(step: Step, input: Any) -> Any:
        return [event["data"] for event in input]

    for number in range(4):
        await test.send("e", number, id=f"e{number}")
    await test.bus.deliver(test.bus.published[0])
    await test.settle()
    await test.pass_time(61)
    page = await test.engine.control.list_runs(RunFilter(client=CLIENT))
    assert sorted(run.output for run in page.runs) == [[0, 1, 2], [3]]


async def test_a_singleton_skips_or_replaces(test: WorkflowTest, workflows: Registry) -> None:
    @workflows.workflow("skips", singleton=Singleton(key=str))
    async def skips(step: Step, input: Any) -> Any:
        await step.sleep(100)

    @workflows.workflow("replaces", singleton=Singleton(replace=True))
    async def replaces(step: Step, input: Any) -> Any:
        await step.sleep(100)

    assert await test.start("skips", 1) == await test.start("skips", 1)
    assert await test.start("skips", 1) != await test.start("skips", 2)
    first = await test.start("replaces", 1)
    await test.settle()
    second = await test.start("replaces", 2)
    await test.finish(second)
    assert await statuses(test, [first, second]) == ["cancelled", "completed"]


async def test_urgent_runs_go_first(test: WorkflowTest, workflows: Registry) -> None:
    order: list[str] = []

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        order.append(input)

    await test.start("w", "humble", priority=Level.LOW)
    await test.start("w", "usual")
    await test.start("w", "urgent", priority=Level.HIGH)
    await test.settle()
    assert order == ["urgent", "usual", "humble"]
    with pytest.raises(Unprocessable, match="no priority 9"):
        await test.start("w", priority=9)


async def test_the_same_key_is_the_same_run_and_another_input_a_conflict(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        return input

    first = await test.start("w", {"n": 1, "more": [{"a": 1, "b": 2}]}, key="order-1")
    again = {"more": [{"b": 2, "a": 1}], "n": 1}
    assert await test.start("w", again, key="order-1") == first
    with pytest.raises(Conflict, match="another input"):
        await test.start("w", {"n": 2}, key="order-1")
    other = await test.engine.start("w", {"n": 2}, client="other", key="order-1")
    assert other.created


async def test_an_input_without_its_group_is_refused(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w", concurrency=Concurrency(limit=1, key=lambda i: i["group"]))
    async def w(step: Step, input: Any) -> Any:
        return input

    with pytest.raises(RequestError, match="which group"):
        await test.start("w", {})


async def test_a_workflow_that_an_event_does_not_fit_keeps_no_other_from_starting(
    test: WorkflowTest, workflows: Registry
) -> None:
    in_shops = Concurrency(limit=1, key=lambda event: event["data"]["shop"])

    @workflows.workflow("picky", on="e", concurrency=in_shops)
    async def picky(step: Step, input: Any) -> Any: ...

    @workflows.workflow("w", on="e")
    async def w(step: Step, input: Any) -> Any: ...

    with pytest.raises(RequestError, match="which group"):
        await test.send("e", {})
    found = await test.engine.control.list_runs(RunFilter(client=CLIENT))
    assert [one.workflow for one in found.runs] == ["w"]


def test_a_workflow_that_cannot_work_is_refused_when_it_is_registered() -> None:
    workflows = Registry(longest_step_s=60)

    async def fn(step: Step, input: Any) -> Any: ...

    with pytest.raises(ConfigError, match="within the function's 60 s"):
        workflows.workflow("w", step_timeout_s=61)(fn)
    with pytest.raises(ConfigError, match="only one of debounce, batch and singleton"):
        workflows.workflow("w", singleton=Singleton(), batch=Batch(size=1, timeout_s=1))(fn)


async def test_many_runs_are_cancelled_and_retried_by_a_filter(
    test: WorkflowTest, workflows: Registry
) -> None:
    bad = [True]

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        if bad[0]:
            raise NonRetryable("as asked")
        await step.sleep(timedelta(days=1))

    run_ids = [await test.start("w") for _ in range(4)]
    await test.settle()
    bad[0] = False
    control = test.engine.control
    mine = RunFilter(client=CLIENT, workflow="w")
    assert await control.retry_all(mine) == 4
    await test.settle()
    assert await control.cancel_all(mine) == 4
    await test.settle()
    assert await statuses(test, run_ids) == ["cancelled"] * 4
    assert await control.cancel_all(RunFilter(client="other")) == 0


async def test_runs_are_listed_newest_first_in_pages(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        return input

    began = test.clock.now()
    for number in range(5):
        test.clock.move_s(1)
        await test.start("w", number)
    await test.settle()
    seen: list[Any] = []
    cursor = None
    while True:
        page = await test.engine.control.list_runs(
            RunFilter(client=CLIENT, status=Status.COMPLETED), limit=2, cursor=cursor
        )
        seen += [run.input for run in page.runs]
        cursor = page.cursor
        if cursor is None:
            break
    assert seen == [4, 3, 2, 1, 0]
    span = RunFilter(
        client=CLIENT,
        created_from=began + timedelta(seconds=2),
        created_to=began + timedelta(seconds=4),
    )
    assert [run.input for run in (await test.engine.control.list_runs(span)).runs] == [2, 1]

"""Flow control that a deploy changes: what waits, and what comes new, goes by the new limits."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from lambent.engine.options import Concurrency, RateLimit
from lambent.engine.registry import Registry
from lambent.engine.step import Step
from lambent.testing import WorkflowTest


def deploy(workflows: Registry, fn: Any, **flow: Any) -> None:
    """The same workflow and version, with another flow control."""
    workflows._found.pop("w", None)
    workflows.workflow("w", **flow)(fn)


def begun_in_windows(period_s: float) -> tuple[Any, Counter[int]]:
    """A workflow that tells in which window each of its runs started."""
    windows = Counter[int]()

    async def w(step: Step, input: Any) -> None:
        windows[int((await step.now()).timestamp() // period_s)] += 1

    return w, windows


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (RateLimit(limit=10, period_s=60), RateLimit(limit=5, period_s=60)),
        (RateLimit(limit=5, period_s=60), RateLimit(limit=10, period_s=60)),
        (RateLimit(limit=10, period_s=60), RateLimit(limit=10, period_s=120)),
        (RateLimit(limit=10, period_s=1), RateLimit(limit=600, period_s=3600)),
    ],
)
async def test_a_changed_rate_limit_holds_no_start_longer_than_it_says(
    test: WorkflowTest, workflows: Registry, before: RateLimit, after: RateLimit
) -> None:
    w, windows = begun_in_windows(after.period_s)
    deploy(workflows, w, rate_limit=before)
    await test.finish(await test.start("w"))
    deploy(workflows, w, rate_limit=after)
    await test.pass_time(2 * after.period_s)
    windows.clear()
    for _ in range(after.limit + 1 if after.limit < 100 else 5):
        await test.start("w")
    await test.pass_time(2 * after.period_s)
    assert list(windows.values()) == ([after.limit, 1] if after.limit < 100 else [5])


async def test_runs_that_wait_for_their_start_go_by_a_lowered_limit(
    test: WorkflowTest, workflows: Registry
) -> None:
    w, windows = begun_in_windows(60)
    deploy(workflows, w, rate_limit=RateLimit(limit=4, period_s=60))
    for _ in range(12):
        await test.start("w")
    await test.settle()
    deploy(workflows, w, rate_limit=RateLimit(limit=2, period_s=60))
    await test.pass_time(600)
    assert list(windows.values()) == [4, 2, 2, 2, 2]


async def test_a_run_numbered_by_the_release_before_starts(
    test: WorkflowTest, workflows: Registry
) -> None:
    w, windows = begun_in_windows(60)
    deploy(workflows, w, rate_limit=RateLimit(limit=5, period_s=60))
    run = await test.start("w")
    of_old = await test.document(run)
    number = int(test.clock.now().timestamp() // 60) * 10
    group = of_old["rate_group"]
    old = {"rate_no": number, "groups": [f"start:{group}"]}
    update = {"$set": old, "$push": {"marks": f"start:{group}:{number}"}}
    await test._mongo.db["runs"].update_one({"_id": run}, update)
    await test.start("w")
    await test.pass_time(120)
    assert windows.total() == 2


async def rest(step: Step, input: Any) -> None:
    await step.sleep(input or 3600)


async def inside(test: WorkflowTest, runs: list[str]) -> list[str]:
    """Those of the runs that hold a slot."""
    return [run for run in runs if "slot_key" in await test.document(run)]


async def test_a_raised_limit_lets_as_many_in_as_it_says(
    test: WorkflowTest, workflows: Registry
) -> None:
    deploy(workflows, rest, concurrency=Concurrency(limit=1))
    runs = [await test.start("w") for _ in range(8)]
    await test.settle()
    assert len(await inside(test, runs)) == 1
    deploy(workflows, rest, concurrency=Concurrency(limit=5))
    await test.pass_time(3601)
    assert len(await inside(test, runs)) == 5
    await test.pass_time(3601)
    assert len(await inside(test, runs)) == 2


async def nothing(step: Step, input: Any) -> None: ...


async def one_inside_and_a_raised_limit(test: WorkflowTest, workflows: Registry) -> list[str]:
    """Eight runs, of which one has the only slot; then five slots by a deploy."""
    workflows.workflow("other")(nothing)
    deploy(workflows, rest, concurrency=Concurrency(limit=1))
    runs = [await test.start("w") for _ in range(8)]
    await test.settle()
    assert len(await inside(test, runs)) == 1
    deploy(workflows, rest, concurrency=Concurrency(limit=5))
    return runs


async def test_a_raised_limit_lets_them_in_with_the_first_slice_after_its_deploy(
    test: WorkflowTest, workflows: Registry
) -> None:
    runs = await one_inside_and_a_raised_limit(test, workflows)
    await test.finish(await test.start("other"), within=timedelta(seconds=10))
    assert len(await inside(test, runs)) == 5


async def test_a_slice_that_dies_once_a_raised_limit_is_on_record_has_woken_them(
    test: WorkflowTest, workflows: Registry
) -> None:
    runs = await one_inside_and_a_raised_limit(test, workflows)
    test.crash_at("limits.update_one(", after=True)
    await test.finish(await test.start("other"), within=timedelta(seconds=60))
    assert len(await inside(test, runs)) == 5


@pytest.mark.parametrize(("limit", "ends"), [(1, [4, 3]), (2, [0, 1, 4]), (3, [0, 3, 4])])
async def test_a_lowered_limit_lets_none_in_until_enough_have_ended(
    test: WorkflowTest, workflows: Registry, limit: int, ends: list[int]
) -> None:
    """`ends`: which of five that hold a slot end first, in this order."""
    deploy(workflows, rest, concurrency=Concurrency(limit=5))
    spans = [10 * ends.index(one) + 10 if one in ends else 1000 for one in range(5)]
    former = [await test.start("w", span) for span in spans]
    await test.settle()
    deploy(workflows, rest, concurrency=Concurrency(limit=limit))
    runs = [*former, *[await test.start("w", 5000) for _ in range(4)]]
    await test.settle()
    for after in range(len(ends) + 1):
        left = 5 - after
        assert len(await inside(test, runs)) == max(left, limit), f"{after} have ended"
        await test.pass_time(10)
    await test.pass_time(1000)
    assert len(await inside(test, runs)) == limit


async def test_two_slots_that_are_freed_at_once_wake_two(
    test: WorkflowTest, workflows: Registry
) -> None:
    deploy(workflows, rest, concurrency=Concurrency(limit=2))
    runs = [await test.start("w") for _ in range(4)]
    await test.settle()
    test.clock.move_s(3601)
    for run in runs[:2]:  # the first waiter, whom both find, is not looked at between the two
        await test.advance([run])
    due = [run for run in runs[2:] if (await test.document(run))["due_at"] <= test.clock.now()]
    assert due == runs[2:]


async def test_a_slot_is_passed_on_to_a_version_that_has_room(
    test: WorkflowTest, workflows: Registry
) -> None:
    workflows.workflow("w", concurrency=Concurrency(limit=1))(rest)
    workflows.workflow("w", version=2, concurrency=Concurrency(limit=2))(rest)
    long = await test.start("w", 10_000, version=2)
    short = await test.start("w", 10, version=2)
    await test.settle()
    narrow = await test.start("w", version=1)
    wide = await test.start("w", 50_000, version=2)
    await test.settle()
    await test.pass_time(11)
    assert await inside(test, [long, short, narrow, wide]) == [long, wide]
    await test.pass_time(60_000)
    assert await test.finish(narrow) is None

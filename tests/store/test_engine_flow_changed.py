"""Flow control that a deploy changes: what waits, and what comes new, goes by the new limits."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from lambent.engine.options import RateLimit
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

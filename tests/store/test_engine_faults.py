"""Faults that are no crash: acknowledgements that get lost, and what they must not leave behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import pytest
from pymongo.errors import AutoReconnect

from lambent.engine.engine import WorkflowEngine
from lambent.engine.options import Batch, Concurrency, Debounce, RateLimit
from lambent.engine.registry import Registry
from lambent.engine.step import Step
from lambent.intercept import StoreCall
from lambent.testing import CLIENT, WorkflowTest


@pytest.fixture
def test(test: WorkflowTest) -> WorkflowTest:
    test.clock.sleep = _briefly  # type: ignore[method-assign]
    return test


async def _briefly(seconds: float) -> None:
    await asyncio.sleep(min(seconds, 0.001))


def lose_the_acknowledgement(
    test: WorkflowTest, of: Callable[[StoreCall], bool], *, nth: int = 1
) -> list[str]:
    """The call is done, but whoever made it hears of a broken connection; which ones were."""
    seen: list[str] = []

    async def gate(call: StoreCall, make: Any) -> Any:
        answer = await make()
        if test.in_slice and of(call):
            seen.append(str(call))
            if len(seen) == nth:
                raise AutoReconnect("the acknowledgement was lost")
        return answer

    test.gate = gate
    return seen


def changes(call: StoreCall, name: str) -> bool:
    return call.name == "update_one" and name in call.args[1].get("$set", {})


async def test_a_slot_whose_taking_was_not_acknowledged_is_taken_once_and_given_back(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w", concurrency=Concurrency(limit=2))
    async def w(step: Step, input: Any) -> Any:
        await step.sleep(10)

    first = await test.start("w")
    seen = lose_the_acknowledgement(test, lambda call: changes(call, "slot_key"))
    await test.settle()
    assert seen
    held = [mark for mark in (await test.document(first))["marks"] if mark.startswith("slot:")]
    assert len(held) == 1
    test.gate = None
    await test.finish(first)
    left = [mark for mark in (await test.document(first))["marks"] if mark.startswith("slot:")]
    assert left == []


async def test_a_start_whose_number_was_not_acknowledged_counts_once(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w", rate_limit=RateLimit(limit=2, period_s=3600))
    async def w(step: Step, input: Any) -> Any: ...

    first = await test.start("w")
    seen = lose_the_acknowledgement(test, lambda call: changes(call, "rate_no"))
    await test.settle()
    assert seen
    marks = [one for one in (await test.document(first))["marks"] if one.startswith("start:")]
    assert len(marks) == 1


async def test_the_input_of_a_start_that_joins_another_run_expires_with_that_run(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("last", debounce=Debounce(period_s=5))
    async def last(step: Step, input: Any) -> Any:
        return len(input)

    @workflows.workflow("all", batch=Batch(size=2, timeout_s=5))
    async def every(step: Step, input: Any) -> Any:
        return [len(one) for one in input]

    for name, expected in (("last", 2_000_000), ("all", [1_500_000, 2_000_000])):
        run_id = await test.start(name, "x" * 1_500_000)
        assert await test.start(name, "y" * 2_000_000) == run_id
        assert await test.finish(run_id) == expected
    chunks = await test.store.mongo.db["chunks"].find({}, {"expire_at": 1}).to_list()
    assert chunks
    assert all("expire_at" in one for one in chunks), "left for ever"


async def test_the_input_of_a_start_that_is_known_already_leaves_nothing_behind(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any: ...

    big = "x" * 1_500_000
    run_id = await test.start("w", big, key="k")
    before = await test.store.mongo.db["chunks"].count_documents({})
    assert await test.start("w", big, key="k") == run_id
    assert await test.store.mongo.db["chunks"].count_documents({}) == before


class Heard:
    """What the engine says to the functions."""

    def __init__(self) -> None:
        self.nudged: list[str] = []
        self.rung: list[datetime] = []

    async def nudge(self, run_ids: Sequence[str]) -> None:
        self.nudged += run_ids

    async def ring(self, due_at: datetime) -> None:
        self.rung.append(due_at)


async def test_a_poller_is_rung_for_a_start_that_waits_for_others(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("last", debounce=Debounce(period_s=5))
    async def last(step: Step, input: Any) -> Any: ...

    @workflows.workflow("plain")
    async def plain(step: Step, input: Any) -> Any: ...

    heard = Heard()
    engine = WorkflowEngine(test.store, workflows=workflows, nudger=heard)
    gathered = (await engine.start("last", client=CLIENT)).run
    at_once = (await engine.start("plain", client=CLIENT)).run
    assert (heard.rung, heard.nudged) == ([gathered["due_at"]], [at_once["_id"]])

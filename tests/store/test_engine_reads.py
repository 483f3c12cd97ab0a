"""How the engine reads what it goes on from: so that no failover takes it back, and no more of it
than a replay goes by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pymongo.monitoring
import pytest

from lambent.engine.model import STEPS
from lambent.engine.options import Retry
from lambent.engine.registry import Registry
from lambent.engine.step import Step
from lambent.errors import NonRetryable, StepFailed
from lambent.testing import CLIENT, WorkflowTest
from tests.store.conftest import Effects


class Finds(pymongo.monitoring.CommandListener):
    """The read concern of each find that was sent, by its collection; and what it brought."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None]] = []
        self.found: list[dict[str, Any]] = []

    def started(self, event: pymongo.monitoring.CommandStartedEvent) -> None:
        if event.command_name == "find":
            concern = event.command.get("readConcern", {}).get("level")
            self.seen.append((event.command["find"], concern))

    def succeeded(self, event: pymongo.monitoring.CommandSucceededEvent) -> None:
        if event.command_name == "find":
            self.found += event.reply["cursor"]["firstBatch"]

    def failed(self, event: pymongo.monitoring.CommandFailedEvent) -> None: ...


@pytest.fixture
def finds() -> Iterator[Finds]:
    listeners = pymongo.monitoring._LISTENERS
    before = list(listeners.command_listeners)
    listener = Finds()
    pymongo.monitoring.register(listener)
    yield listener
    listeners.command_listeners[:] = before


async def test_a_replay_reads_its_journal_with_majority_concern_and_once(
    finds: Finds, test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("child")
    async def child(step: Step, input: Any) -> Any:
        return 1

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        started = await step.start("child")
        await step.sleep(10)
        return await started

    run_id = await test.start("w")
    await test.pass_time(5)
    test.clock.move_s(6)
    finds.seen.clear()
    await test.engine.advance([run_id])
    # The run under its lease; its records, in one read each; and how the child has ended.
    assert sorted(finds.seen, key=str) == [
        ("runs", "majority"),
        ("runs", None),
        ("steps", "majority"),
        ("waits", "majority"),
    ]


async def test_each_slice_of_a_retried_run_finds_what_was_recorded_since_its_retry(
    test: WorkflowTest, workflows: Registry, effects: Effects
) -> None:
    broken = effects.failing(NonRetryable("the first time"))

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await step.do("broken", broken, "act")
        for _ in range(3):
            await step.sleep(10)
            await step.do("after", effects.do, "after")

    run_id = await test.start("w")
    await test.settle()
    await test.engine.control.retry(run_id, client=CLIENT)
    await test.finish(run_id)
    assert effects.seen == ["act", "act", "after", "after", "after"]


async def test_what_only_people_look_at_does_not_travel_with_a_replay(
    finds: Finds, test: WorkflowTest, workflows: Registry, effects: Effects
) -> None:
    act = effects.failing(ValueError("one"), ValueError("two"))

    @workflows.workflow("w", retry=Retry(attempts=2, first_s=1))
    async def w(step: Step, input: Any) -> Any:
        step.log("It begins.")
        with suppress(StepFailed):
            await step.do("act", act)
        await step.do("again", effects.do, 1)
        await step.sleep(1000)

    run_id = await test.start("w")
    await test.pass_time(500)
    finds.found.clear()
    await test.engine.wake(run_id)
    await test.settle()
    steps = [one for one in finds.found if "kind" in one]
    assert sorted(one["key"] for one in steps) == ["act", "again", "sleep"]
    shown = {"_id", "run", "log", "tries", "traceback", "started_at", "finished_at"}
    assert not shown & {name for one in steps for name in (*one, *one.get("error", ()))}


async def test_an_instant_that_an_earlier_release_recorded_stays_what_it_was(
    test: WorkflowTest, workflows: Registry
) -> None:
    seen: list[Any] = []

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        seen.append(await step.now())
        await step.sleep(1000)

    run_id = await test.start("w")
    await test.settle()
    await test.store.mongo.db[STEPS].update_one({"key": "now"}, {"$unset": {"at": ""}})
    await test.finish(run_id)
    assert len(seen) == 2
    assert seen[0] == seen[1]


async def test_a_step_that_is_tried_again_in_another_slice_keeps_when_it_was_begun(
    test: WorkflowTest, workflows: Registry, effects: Effects
) -> None:
    act = effects.failing(ValueError("one"))

    @workflows.workflow("w", retry=Retry(attempts=3, first_s=50, jitter=False))
    async def w(step: Step, input: Any) -> Any:
        return await step.do("act", act)

    began = test.clock.now()
    run_id = await test.start("w")
    await test.finish(run_id)
    (step,) = await test.journal(run_id)
    assert (step.attempts, step.started_at) == (2, began)
    assert step.finished_at is not None
    assert (step.finished_at - began).total_seconds() >= 50

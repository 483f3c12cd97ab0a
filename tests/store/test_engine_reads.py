"""How the engine reads what it goes on from: so that no failover takes it back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pymongo.monitoring
import pytest

from lambent.engine.registry import Registry
from lambent.engine.step import Step
from lambent.errors import NonRetryable
from lambent.testing import CLIENT, WorkflowTest
from tests.store.conftest import Effects


class Finds(pymongo.monitoring.CommandListener):
    """The read concern of each find that was sent, by its collection."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None]] = []

    def started(self, event: pymongo.monitoring.CommandStartedEvent) -> None:
        if event.command_name == "find":
            concern = event.command.get("readConcern", {}).get("level")
            self.seen.append((event.command["find"], concern))

    def succeeded(self, event: pymongo.monitoring.CommandSucceededEvent) -> None: ...

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

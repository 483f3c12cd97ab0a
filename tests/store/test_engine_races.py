"""The races by name: one side is paused between its two operations while the other goes by."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from lambent.engine.registry import Registry
from lambent.engine.step import Step
from lambent.engine.tenure import Did
from lambent.intercept import StoreCall
from lambent.testing import CLIENT, WorkflowTest


class Paused:
    """Stops the first call that matches, before it is sent, until it is let go."""

    def __init__(self, matches: Callable[[StoreCall], bool]) -> None:
        self._matches = matches
        self._open = asyncio.Event()
        self.reached = asyncio.Event()

    async def gate(self, call: StoreCall, make: Callable[[], Awaitable[Any]]) -> Any:
        if not self.reached.is_set() and self._matches(call):
            self.reached.set()
            await self._open.wait()
        return await make()

    def let_go(self) -> None:
        self._open.set()


def settles(call: StoreCall) -> bool:
    """Whether this is the update that gives a run back."""
    return (call.collection, call.name) == ("runs", "update_one") and call.args[1].get(
        "$set", {}
    ).get("lease", "") is None


async def advance(
    test: WorkflowTest, run_id: str, paused: Paused | None = None
) -> asyncio.Task[Any]:
    """A slice that goes on beside the test, up to where it is paused."""
    test.gate = paused.gate if paused else None
    task = asyncio.create_task(test.engine.advance([run_id]))
    if paused is not None:
        await paused.reached.wait()
        test.gate = None
    return task


def waiting_for_one(workflows: Registry) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        return (await step.wait_for_event("e", type="e")).data


async def test_an_event_between_the_look_back_and_the_settle_wakes_the_run(
    test: WorkflowTest, workflows: Registry
) -> None:
    waiting_for_one(workflows)
    run_id = await test.start("w")
    paused = Paused(settles)
    slice_ = await advance(test, run_id, paused)
    await test.send("e", 1)
    paused.let_go()
    assert (await slice_)[run_id].did is Did.ENDED
    assert (await test.run(run_id)).output == 1


async def test_an_event_between_the_wait_and_its_look_back_is_taken_once(
    test: WorkflowTest, workflows: Registry
) -> None:
    waiting_for_one(workflows)
    run_id = await test.start("w")
    paused = Paused(lambda call: (call.collection, call.name) == ("events", "find"))
    slice_ = await advance(test, run_id, paused)
    await test.send("e", 1)
    paused.let_go()
    await slice_
    assert await test.finish(run_id) == 1


async def test_an_event_before_the_wait_is_inserted_is_found_by_its_look_back(
    test: WorkflowTest, workflows: Registry
) -> None:
    waiting_for_one(workflows)
    run_id = await test.start("w")
    paused = Paused(lambda call: (call.collection, call.name) == ("waits", "insert_one"))
    slice_ = await advance(test, run_id, paused)
    await test.send("e", 1)
    paused.let_go()
    assert (await slice_)[run_id].did is Did.ENDED


async def test_a_cancel_before_the_settle_is_obeyed_by_the_same_slice(
    test: WorkflowTest, workflows: Registry
) -> None:
    waiting_for_one(workflows)
    run_id = await test.start("w")
    paused = Paused(settles)
    slice_ = await advance(test, run_id, paused)
    await test.engine.control.cancel(run_id, client=CLIENT)
    paused.let_go()
    assert (await slice_)[run_id].did is Did.ENDED
    assert (await test.run(run_id)).status == "cancelled"


async def test_a_child_that_ends_before_its_parent_settles_wakes_it(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("child")
    async def child(step: Step, input: Any) -> Any:
        return "c"

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        return await (await step.start("child"))

    run_id = await test.start("w")
    paused = Paused(settles)
    slice_ = await advance(test, run_id, paused)
    children = await test.store.mongo.db["runs"].find({"parent.run": run_id}).to_list()
    await test.engine.advance([children[0]["_id"]])
    paused.let_go()
    assert (await slice_)[run_id].did is Did.ENDED
    assert (await test.run(run_id)).output == "c"


async def test_two_slices_never_have_one_run(test: WorkflowTest, workflows: Registry) -> None:
    waiting_for_one(workflows)
    run_id = await test.start("w")
    verdicts = await asyncio.gather(*(test.engine.advance([run_id]) for _ in range(5)))
    did = sorted(verdict[run_id].did for verdict in verdicts)
    assert did == [Did.NOTHING] * 4 + [Did.WAITING]


async def test_two_starts_with_one_key_are_one_run(test: WorkflowTest, workflows: Registry) -> None:
    waiting_for_one(workflows)
    run_ids = await asyncio.gather(*(test.start("w", 1, key="k") for _ in range(5)))
    assert len(set(run_ids)) == 1


async def test_a_zombie_keeps_its_step_only_if_it_was_first_and_never_its_run(
    test: WorkflowTest, workflows: Registry
) -> None:
    effects: list[int] = []

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        async def act() -> int:
            effects.append(len(effects))
            return effects[-1]

        return await step.do("act", act)

    run_id = await test.start("w")
    paused = before_a_step_is_recorded()
    zombie = await advance(test, run_id, paused)
    test.clock.move_s(31)
    assert (await test.engine.advance([run_id]))[run_id].did is Did.ENDED
    paused.let_go()
    assert (await zombie)[run_id].did is Did.LOST
    assert effects == [0, 1]
    assert (await test.run(run_id)).output == 1
    assert [one.output for one in await test.journal(run_id)] == [1]


async def test_a_zombies_first_checkpoint_is_what_its_heir_goes_on_with(
    test: WorkflowTest, workflows: Registry
) -> None:
    effects: list[int] = []

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        async def act() -> int:
            effects.append(len(effects))
            return effects[-1]

        return await step.do("act", act)

    run_id = await test.start("w")
    late = before_a_step_is_recorded()
    zombie = await advance(test, run_id, late)
    test.clock.move_s(31)
    later = before_a_step_is_recorded()
    heir = await advance(test, run_id, later)
    late.let_go()
    await zombie
    later.let_go()
    assert (await heir)[run_id].did is Did.ENDED
    assert (await test.run(run_id)).output == 0


async def test_a_slot_freed_while_a_waiter_registers_is_not_missed(
    test: WorkflowTest, workflows: Registry
) -> None:
    from lambent.engine.options import Concurrency

    @workflows.workflow("w", concurrency=Concurrency(limit=1))
    async def w(step: Step, input: Any) -> Any:
        if input == "first":
            await step.wait_for_event("e", type="e")

    first = await test.start("w", "first")
    await test.settle()
    second = await test.start("w", "second")
    paused = Paused(settles)
    slice_ = await advance(test, second, paused)
    await test.send("e", 1)
    await test.engine.advance([first])
    paused.let_go()
    await slice_
    await test.settle()
    assert (await test.run(second)).status == "completed"


def undoable(workflows: Registry) -> list[str]:
    """Registers `w`, a step that can be undone and then a wait; what they did is told here."""
    seen: list[str] = []

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        async def act() -> None:
            seen.append("act")

        await step.do("act", act, undo=lambda _: seen.append("undo"))
        await step.wait_for_event("e", type="e")

    return seen


def before_a_step_is_recorded() -> Paused:
    return Paused(lambda call: (call.collection, call.name) == ("steps", "insert_one"))


async def test_a_zombie_cannot_record_a_step_after_the_run_was_undone(
    test: WorkflowTest, workflows: Registry
) -> None:
    seen = undoable(workflows)
    run_id = await test.start("w")
    paused = before_a_step_is_recorded()
    zombie = await advance(test, run_id, paused)
    test.clock.move_s(31)
    await test.engine.control.cancel(run_id, client=CLIENT)
    assert (await test.engine.advance([run_id]))[run_id].did is Did.ENDED
    paused.let_go()
    assert (await zombie)[run_id].did is Did.LOST
    assert [(one.key, one.status) for one in await test.journal(run_id)] == [("act", "tombstone")]
    assert seen == ["act"]


async def test_a_zombies_step_that_came_first_is_undone_too(
    test: WorkflowTest, workflows: Registry
) -> None:
    seen = undoable(workflows)
    run_id = await test.start("w")
    late = before_a_step_is_recorded()
    zombie = await advance(test, run_id, late)
    test.clock.move_s(31)
    await test.engine.control.cancel(run_id, client=CLIENT)
    burying = before_a_step_is_recorded()
    heir = await advance(test, run_id, burying)
    late.let_go()
    await zombie
    burying.let_go()
    assert (await heir)[run_id].did is Did.ENDED
    assert (await test.run(run_id)).status == "cancelled"
    assert seen == ["act", "undo"]


async def test_an_error_in_the_slice_of_one_run_is_no_affair_of_the_others(
    test: WorkflowTest, workflows: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await step.sleep(10)

    broken, fine = await test.start("w"), await test.start("w")

    async def gate(call: StoreCall, make: Callable[[], Awaitable[Any]]) -> Any:
        if call.about == broken and settles(call):
            raise RuntimeError("a bug of ours")
        return await make()

    test.gate = gate
    verdicts = await test.engine.advance([broken, fine])
    assert verdicts[fine].did is Did.WAITING
    assert verdicts[fine].due_at == (await test.document(fine))["due_at"]
    # Its lease lapses then: who rings a bell for these runs rings it in time for both.
    assert verdicts[broken].did is Did.BROKEN
    assert verdicts[broken].due_at > test.clock.now()
    assert isinstance(verdicts[broken].error, RuntimeError)
    assert [one.run for one in caplog.records if one.message == "A slice failed"] == [broken]

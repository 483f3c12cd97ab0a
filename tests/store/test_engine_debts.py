"""What an ended run owes, and commands that come before it is paid."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lambent.engine.options import Concurrency
from lambent.engine.registry import Registry
from lambent.engine.step import Step
from lambent.engine.tenure import Did
from lambent.errors import Conflict, NonRetryable, NotFound
from lambent.intercept import StoreCall
from lambent.testing import CLIENT, Crash, WorkflowTest
from tests.store.conftest import Effects
from tests.store.test_engine_races import Paused, advance


def failing_once(workflows: Registry, effects: Effects, **options: Any) -> None:
    """`w` fails at its first try, after a step that stays done."""
    broken = effects.failing(NonRetryable("the first time"))

    @workflows.workflow("w", **options)
    async def w(step: Step, input: Any) -> Any:
        await step.do("kept", effects.do, "kept")
        return await step.do("broken", broken)


def ends(call: StoreCall) -> bool:
    """Whether this is the update that ends a run, with its debts."""
    return call.name == "update_one" and "owes" in call.args[1].get("$set", {})


def after_the_end(call: StoreCall) -> bool:
    """Whether this is the settle that forgets the debts."""
    changes = call.args[1].get("$set", {}) if call.name == "update_one" else {}
    return changes.get("owes") == [] and "expire_at" in changes


class Dying(Paused):
    """Stops whoever makes the first such call before it, and once let go kills him after it."""

    async def gate(self, call: StoreCall, make: Any) -> Any:
        first = not self.reached.is_set() and self._matches(call)
        answer = await super().gate(call, make)
        if first:
            raise Crash
        return answer


async def test_an_owner_that_is_late_and_dies_takes_no_expiry_from_what_ended_since(
    test: WorkflowTest, workflows: Registry, effects: Effects
) -> None:
    failing_once(workflows, effects)
    run_id = await test.start("w")
    await test.settle()
    await test.engine.control.retry(run_id, client=CLIENT)
    late = Dying(lambda call: (call.collection, call.name) == ("steps", "update_many"))
    slice = await advance(test, run_id, late)
    test.clock.move_s(31)
    await test.settle()
    assert (await test.run(run_id)).status == "completed"
    late.let_go()
    with pytest.raises(Crash):
        await slice
    steps = await test.store.mongo.db["steps"].find({"run": run_id}).to_list()
    assert steps
    assert all("expire_at" in one for one in steps), "left for ever"


async def brought_to_debts(test: WorkflowTest, run_id: str) -> None:
    """The run has ended, but its slice has died before it paid anything."""
    test.crash_at(ends, after=True)
    assert not await test.advance([run_id])
    run = await test.document(run_id)
    assert run["owes"]
    assert run["lease"]


async def test_a_retry_before_the_debts_are_paid_is_accepted_and_nothing_expires(
    test: WorkflowTest, workflows: Registry, effects: Effects
) -> None:
    failing_once(workflows, effects)
    run_id = await test.start("w")
    await brought_to_debts(test, run_id)
    assert (await test.engine.control.retry(run_id, client=CLIENT)).status == "waiting"
    await test.pass_time(31)
    run = await test.document(run_id)
    assert (run["status"], run["epoch"], run["owes"]) == ("completed", 1, [])
    assert effects.seen == ["kept", "done", "done"]


async def test_a_retry_while_the_debts_are_being_paid_is_obeyed_by_the_same_slice(
    test: WorkflowTest, workflows: Registry, effects: Effects
) -> None:
    failing_once(workflows, effects)
    run_id = await test.start("w")
    paused = Paused(after_the_end)
    slice_ = await advance(test, run_id, paused)
    await test.engine.control.retry(run_id, client=CLIENT)
    paused.let_go()
    assert (await slice_)[run_id].did is Did.ENDED
    run = await test.document(run_id)
    assert (run["status"], run["owes"], run["lease"]) == ("completed", [], None)
    assert "expire_at" in run


@pytest.mark.parametrize("died", [True, False], ids=["dead payer", "live payer"])
async def test_a_run_that_is_retried_early_still_passes_on_its_slot(
    test: WorkflowTest, workflows: Registry, effects: Effects, died: bool
) -> None:
    @workflows.workflow("w", concurrency=Concurrency(limit=1))
    async def w(step: Step, input: Any) -> Any:
        if input == "first" and step.attempt_of_run == 0:
            raise NonRetryable("as asked")
        await step.do("act", effects.do, input)

    first, second = await test.start("w", "first"), await test.start("w", "second")
    if died:
        await brought_to_debts(test, first)
        await test.advance([second])
        await test.engine.control.retry(first, client=CLIENT)
    else:
        paused = Paused(after_the_end)
        slice_ = await advance(test, first, paused)
        await test.advance([second])
        await test.engine.control.retry(first, client=CLIENT)
        paused.let_go()
        await slice_
    await test.pass_time(31)
    assert sorted(effects.seen) == ["first", "second"]
    assert [(await test.run(one)).status for one in (first, second)] == ["completed"] * 2


@pytest.mark.parametrize("died", [True, False], ids=["dead payer", "live payer"])
async def test_a_child_that_is_deleted_early_has_woken_its_parent_and_left_nothing(
    test: WorkflowTest, workflows: Registry, died: bool
) -> None:
    @workflows.workflow("child")
    async def child(step: Step, input: Any) -> Any:
        return await step.do("big", lambda: b"x" * 2_000_000)

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        return await (await step.start("child"))

    parent = await test.start("w")
    await test.advance([parent])
    (found,) = await test.store.mongo.db["runs"].find({"parent.run": parent}).to_list()
    slice_: asyncio.Task[Any] | None = None
    if died:
        await brought_to_debts(test, found["_id"])
    else:
        paused = Paused(after_the_end)
        slice_ = await advance(test, found["_id"], paused)
    await test.engine.control.delete(found["_id"], client=CLIENT)
    if slice_ is not None:
        paused.let_go()
        assert (await slice_)[found["_id"]].did is Did.LOST
    with pytest.raises(NotFound):
        await test.run(found["_id"])
    for name in ("steps", "chunks"):
        assert await test.store.mongo.db[name].count_documents({"run": found["_id"]}) == 0
    await test.settle()
    assert (await test.run(parent)).status in {"failed", "completed"}


async def test_a_run_that_is_being_deleted_is_not_retried_any_more(
    test: WorkflowTest, workflows: Registry, effects: Effects
) -> None:
    failing_once(workflows, effects)
    run_id = await test.start("w")
    await brought_to_debts(test, run_id)
    test.in_slice = True  # the deleter dies as well, before it has deleted anything
    test.crash_at("runs.delete_one")
    with pytest.raises(BaseException, match="delete_one"):
        await test.engine.control.delete(run_id, client=CLIENT)
    test.in_slice = False
    with pytest.raises(Conflict):
        await test.engine.control.retry(run_id, client=CLIENT)
    await test.pass_time(31)
    assert "expire_at" in await test.document(run_id)
    await test.engine.control.delete(run_id, client=CLIENT)


async def test_a_wait_of_a_branch_beside_the_failed_one_is_open_again_after_a_retry(
    test: WorkflowTest, workflows: Registry, effects: Effects
) -> None:
    broken = effects.failing(NonRetryable("the first time"))

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        async def failing() -> Any:
            await step.sleep(10)
            return await step.do("broken", broken)

        async def waiting() -> Any:
            return (await step.wait_for_event("e", type="e")).data

        return await step.gather(failing(), waiting())

    run_id = await test.start("w")
    await test.pass_time(11)
    assert (await test.run(run_id)).status == "failed"
    await test.engine.control.retry(run_id, client=CLIENT)
    await test.settle()
    await test.send("e", 5)
    assert await test.finish(run_id) == ["done", 5]

"""What happens when things go wrong around a run: deploys, deaths, deadlines, lost leases."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from lambent.clock import SystemClock
from lambent.due import LEASE_S
from lambent.engine.config import EngineConfig
from lambent.engine.engine import MongoStore, WorkflowEngine
from lambent.engine.options import NO_RETRY
from lambent.engine.registry import Registry, Workflow
from lambent.engine.step import Step
from lambent.engine.tenure import Did
from lambent.errors import NonRetryable, StepFailed
from lambent.leases import Held, LeaseKeeper
from lambent.testing import CLIENT, WorkflowTest


def deployed(workflows: Registry, *versions: Workflow) -> None:
    """Only these versions of the workflow are there from now on."""
    workflows._found[versions[0].name] = {one.version: one for one in versions}


async def reason(test: WorkflowTest, run_id: str) -> Any:
    run = await test.run(run_id)
    return run.status, (run.blocked or {}).get("reason"), (run.blocked or {}).get("detail")


async def test_a_run_stays_on_its_version_across_a_deploy(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w", version=1)
    async def old(step: Step, input: Any) -> Any:
        await step.sleep(100)
        return "old"

    before = await test.start("w")
    await test.settle()

    @workflows.workflow("w", version=2)
    async def new(step: Step, input: Any) -> Any:
        return "new"

    assert await test.finish(await test.start("w")) == "new"
    assert await test.finish(before) == "old"


async def test_an_unknown_version_is_blocked_and_taken_up_once_it_is_deployed(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        return "done"

    there = workflows.latest("w")
    run_id = await test.start("w")
    deployed(workflows, replace(there, version=2))
    await test.pass_time(3600)
    assert (await reason(test, run_id))[:2] == ("blocked", "no code")
    deployed(workflows, there)
    await test.pass_time(301)
    assert (await test.run(run_id)).status == "completed"


async def test_another_kind_of_step_under_a_recorded_key_blocks_the_run(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await step.do("thing", lambda: 1)
        await step.sleep(100)

    @workflows.workflow("w", version=2)
    async def changed(step: Step, input: Any) -> Any:
        await step.wait_for_event("thing", type="e")

    run_id = await test.start("w", version=1)
    await test.settle()
    good, bad = workflows.named("w", 1), replace(workflows.named("w", 2), version=1)
    deployed(workflows, bad)
    await test.pass_time(101)
    status, why, detail = await reason(test, run_id)
    assert (status, why) == ("blocked", "nondeterministic")
    assert "'thing'" in detail
    deployed(workflows, good)
    await test.engine.control.resume(run_id, client=CLIENT)
    await test.finish(run_id)


async def test_code_that_ends_without_a_recorded_step_blocks_the_run(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await step.do("forgotten", lambda: 1)
        await step.sleep(100)

    @workflows.workflow("w", version=2)
    async def changed(step: Step, input: Any) -> Any:
        await step.sleep(100)

    run_id = await test.start("w", version=1)
    await test.settle()
    deployed(workflows, replace(workflows.named("w", 2), version=1))
    await test.pass_time(101)
    status, why, detail = await reason(test, run_id)
    assert (status, why) == ("blocked", "nondeterministic")
    assert "'forgotten'" in detail


@pytest.mark.parametrize("names", [["new"], ["new", "old"]], ids=["renamed", "put in front"])
async def test_a_step_in_the_place_of_a_recorded_one_blocks_the_run_before_it_is_run(
    test: WorkflowTest, workflows: Registry, names: list[str]
) -> None:
    seen: list[str] = []

    def version(number: int, names: list[str]) -> None:
        @workflows.workflow("w", version=number)
        async def w(step: Step, input: Any) -> Any:
            async def branch(n: int) -> None:
                for name in names:
                    await step.do(name, seen.append, f"{name} {n}")
                await step.sleep(100)

            await step.map("m", [1, 2], branch)

    version(1, ["old"])
    version(2, names)
    run_id = await test.start("w", version=1)
    await test.settle()
    deployed(workflows, replace(workflows.named("w", 2), version=1))
    await test.pass_time(101)
    status, why, detail = await reason(test, run_id)
    assert (status, why) == ("blocked", "nondeterministic")
    assert "'m[0]/old'" in detail or "'m[1]/old'" in detail
    assert sorted(seen) == ["old 1", "old 2"]


async def test_what_branches_that_were_given_up_have_recorded_is_missed_by_nobody(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w", retry=NO_RETRY)
    async def w(step: Step, input: Any) -> Any:
        async def bad() -> None:
            raise NonRetryable("bad")

        async def branch(n: int) -> None:
            await step.do("first", lambda: n)
            await step.sleep(10 * n)
            await step.do("second", bad if n == 1 else lambda: n)
            await step.sleep(100)

        try:
            await step.map("m", [1, 2, 3], branch)
        except StepFailed:
            for number in range(3):
                await step.do("after", lambda n=number: n)
                await step.sleep(10)
        return "done"

    assert await test.finish(await test.start("w")) == "done"


async def test_a_run_that_kills_its_slices_goes_alone_and_is_then_blocked(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await step.do("before", lambda: 1)
        await step.do("deadly", lambda: 2)

    run_id, other = await test.start("w"), await test.start("w")
    for nth in range(1, 7):
        test.crash_at(f"steps.insert_one({run_id}/0/deadly", nth=nth)
    assert not await test.advance([run_id])
    test.clock.move_s(LEASE_S + 1)
    verdicts = await test.engine.advance([run_id, other])
    assert (verdicts[run_id].did, verdicts[other].did) == (Did.RELEASED, Did.ENDED)
    await test.pass_time(LEASE_S * 10)
    status, why, detail = await reason(test, run_id)
    assert (status, why) == ("blocked", "poison")
    assert "before" in detail


async def test_deaths_that_come_with_progress_are_no_poison(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        return [await step.do("s", lambda n=n: n) for n in range(9)]

    run_id = await test.start("w")
    for number in range(2, 10):
        test.crash_at(f"steps.insert_one({run_id}/0/s#{number})")
    assert await test.finish(run_id) == list(range(9))


async def test_a_retry_keeps_what_completed_and_runs_what_failed(
    test: WorkflowTest, workflows: Registry
) -> None:
    seen: list[str] = []
    bad = [True]

    @workflows.workflow("w", retry=NO_RETRY)
    async def w(step: Step, input: Any) -> Any:
        async def act(n: int) -> int:
            seen.append(f"act {n}")
            if n == 2 and bad[0]:
                raise NonRetryable("two")
            return n

        await step.do("first", act, 0)
        return await step.map("acts", [1, 2, 3], lambda n: step.do("act", act, n), limit=1)

    run_id = await test.start("w")
    await test.settle()
    assert (await test.run(run_id)).status == "failed"
    bad[0] = False
    await test.engine.control.retry(run_id, client=CLIENT)
    assert await test.finish(run_id) == [1, 2, 3]
    assert seen == ["act 0", "act 1", "act 2", "act 2", "act 3"]


async def test_a_restart_from_a_step_keeps_what_was_before_it(
    test: WorkflowTest, workflows: Registry
) -> None:
    seen: list[str] = []

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        async def note(what: str) -> int:
            seen.append(what)
            return len(seen)

        return [await step.do(name, note, name) for name in ("a", "b", "c")]

    run_id = await test.start("w")
    assert await test.finish(run_id) == [1, 2, 3]
    await test.engine.control.restart(run_id, client=CLIENT, step="b")
    assert await test.finish(run_id) == [1, 4, 5]
    await test.engine.control.restart(run_id, client=CLIENT)
    assert await test.finish(run_id) == [6, 7, 8]
    assert (await test.document(run_id))["epoch"] == 2


async def test_a_slice_out_of_time_gives_the_run_on_and_a_fresh_one_begins_a_step(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w", step_timeout_s=100)
    async def w(step: Step, input: Any) -> Any:
        return [await step.do("s", lambda n=n: n) for n in range(3)]

    run_id = await test.start("w")
    slices = 0
    while (await test.run(run_id)).status != "completed":
        soon_s = test.clock.monotonic_s() + 50
        await test.engine.advance([run_id], ends_s=soon_s)
        slices += 1
    assert slices == 3


async def test_a_termination_signal_settles_at_once_and_loses_nothing(
    test: WorkflowTest, workflows: Registry
) -> None:
    begun = asyncio.Event()
    slow = [True]

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        async def act() -> str:
            begun.set()
            await asyncio.sleep(30 if slow[0] else 0)
            return "done"

        return await step.do("act", act)

    run_id = await test.start("w")
    going_on = asyncio.create_task(test.engine.advance([run_id]))
    await begun.wait()
    slow[0] = False
    test.engine.stop()
    verdicts = await asyncio.wait_for(going_on, timeout=30)
    assert verdicts[run_id].did is Did.STOPPED
    document = await test.document(run_id)
    assert (document["lease"], document["claims"]) == (None, 0)
    assert await test.finish(run_id) == "done"


async def test_a_run_whose_slices_record_nothing_is_blocked(
    mongo_uri: str, mongo_db_name: str, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await asyncio.sleep(30)

    quick = EngineConfig(unwind_s=0.02)
    async with WorkflowTest(
        mongo_uri, workflows=workflows, db_name=mongo_db_name, config=quick
    ) as test:
        run_id = await test.start("w")
        for _ in range(30):
            await test.engine.advance([run_id], ends_s=test.clock.monotonic_s() + 4.9)
        assert (await reason(test, run_id))[:2] == ("blocked", "no progress")


async def test_a_termination_signal_waits_for_no_code_that_waits_for_no_step(
    mongo_uri: str, mongo_db_name: str, workflows: Registry
) -> None:
    begun = asyncio.Event()

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        begun.set()
        await asyncio.sleep(600)

    patient = EngineConfig(unwind_s=300.0)
    async with WorkflowTest(
        mongo_uri, workflows=workflows, db_name=mongo_db_name, config=patient
    ) as test:
        run_id = await test.start("w")
        going_on = asyncio.create_task(test.engine.advance([run_id]))
        await begun.wait()
        test.engine.stop()
        verdicts = await asyncio.wait_for(going_on, timeout=60)
        assert verdicts[run_id].did is Did.STOPPED


async def test_the_keeper_renews_while_the_event_loop_is_blocked(
    mongo_uri: str, mongo_db_name: str, workflows: Registry
) -> None:
    clock, config = SystemClock(), EngineConfig()
    keeper = LeaseKeeper(mongo_uri, mongo_db_name, clock=clock, every_s=0.2)
    store = MongoStore.connect(mongo_uri, mongo_db_name, config=config)
    engine = WorkflowEngine(store, workflows=workflows, config=config)

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any: ...

    run_id = (await engine.start("w", client=CLIENT)).run["_id"]
    claimed = await store.due.claim(run_id)
    assert claimed is not None
    told: list[bool] = []
    held = Held(claimed.lease, claimed.document["signals"])
    with keeper.keep(held, told.append):
        time.sleep(0.7)  # noqa: ASYNC251  (the loop is blocked, as by an author's own call)
        after = await store.due.collection.find_one({"_id": run_id}) or {}
        assert after["lease_until"] > claimed.document["lease_until"]
        assert held.lease.ends_s > claimed.lease.ends_s
        await store.due.wake(run_id)
        await asyncio.sleep(0.7)
        await store.due.collection.update_one({"_id": run_id}, {"$set": {"lease": "other"}})
        await asyncio.sleep(0.7)
    await asyncio.to_thread(keeper.close)
    await store.close()
    assert told[0] is False
    assert told[-1] is True


async def test_a_long_step_is_interrupted_by_a_cancel_through_the_keeper(
    mongo_uri: str, mongo_db_name: str, workflows: Registry
) -> None:
    clock, config = SystemClock(), EngineConfig()
    keeper = LeaseKeeper(mongo_uri, mongo_db_name, clock=clock, every_s=0.2)
    from lambent.mongo import Mongo

    mongo = Mongo(mongo_uri, mongo_db_name, clock=clock)
    store = MongoStore(mongo, clock=clock, config=config, keeper=keeper)
    engine = WorkflowEngine(store, workflows=workflows, config=config)
    begun = asyncio.Event()

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        async def long() -> None:
            begun.set()
            await asyncio.sleep(60)

        await step.do("long", long)

    run_id = (await engine.start("w", client=CLIENT)).run["_id"]
    going_on = asyncio.create_task(engine.advance([run_id]))
    await begun.wait()
    await engine.control.cancel(run_id, client=CLIENT)
    verdicts = await asyncio.wait_for(going_on, timeout=30)
    assert verdicts[run_id].did is Did.ENDED
    assert (await engine.control.get(run_id, client=CLIENT)).status == "cancelled"
    await store.close()


async def test_an_ended_run_and_what_it_left_expire_and_only_then(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await step.do("big", lambda: b"x" * 2_000_000)
        await step.wait_for_event("e", type="e")

    run_id = await test.start("w")
    await test.settle()
    db = test.store.mongo.db
    for name in ("steps", "waits", "chunks"):
        assert await db[name].find_one({"run": run_id, "expire_at": {"$exists": True}}) is None
    await test.send("e")
    await test.finish(run_id)
    run = await test.document(run_id)
    assert run["expire_at"] - run["finished_at"] == timedelta(days=30)
    for name in ("steps", "waits", "chunks"):
        left = await db[name].find({"run": run_id}).to_list()
        assert left
        assert all(one["expire_at"] - run["expire_at"] == timedelta(days=1) for one in left)


async def test_what_a_run_of_a_single_slice_put_into_chunks_expires_too(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        return await step.do("big", lambda: b"x" * 2_000_000)

    await test.finish(await test.start("w"))
    left = await test.store.mongo.db["chunks"].find({}, {"expire_at": 1}).to_list()
    assert len(left) == 2
    assert all("expire_at" in one for one in left), "left for ever"

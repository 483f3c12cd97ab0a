"""What a run tells of its steps before anything of them is on record, and what that costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest

from lambent.clock import SystemClock
from lambent.engine.config import EngineConfig
from lambent.engine.engine import MongoStore, WorkflowEngine
from lambent.engine.options import Retry
from lambent.engine.registry import Registry
from lambent.engine.step import Step
from lambent.engine.views import RunView
from lambent.leases import Held, LeaseKeeper
from lambent.mongo import Mongo
from lambent.testing import CLIENT, WorkflowTest

AT_ONCE = Retry(attempts=3, first_s=0, jitter=False)


@pytest.fixture
async def engine(
    mongo_uri: str, mongo_db_name: str, workflows: Registry
) -> AsyncIterator[WorkflowEngine]:
    """With leases that are looked at so often that nobody has to wait long."""
    clock, config = SystemClock(), EngineConfig()
    keeper = LeaseKeeper(mongo_uri, mongo_db_name, clock=clock, look_every_s=0.05)
    mongo = Mongo(mongo_uri, mongo_db_name, clock=clock)
    store = MongoStore(mongo, clock=clock, config=config, keeper=keeper)
    yield WorkflowEngine(store, workflows=workflows, config=config)
    await store.close()


async def seen(engine: WorkflowEngine, run_id: str, fits: Callable[[RunView], bool]) -> RunView:
    async with asyncio.timeout(60):
        while not fits(run := await engine.control.get(run_id, client=CLIENT)):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return run


def names(run: RunView) -> set[str]:
    return {one.step for one in run.under_way}


async def test_steps_side_by_side_are_told_while_they_go_on_and_no_longer(
    engine: WorkflowEngine, workflows: Registry
) -> None:
    gates = {"bake": asyncio.Event(), "wash": asyncio.Event()}

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await step.do("first", lambda: 1)
        await step.gather(*(step.do(name, gate.wait) for name, gate in gates.items()))

    run_id = (await engine.start("w", client=CLIENT)).run["_id"]
    going_on = asyncio.create_task(engine.advance([run_id]))
    both = await seen(engine, run_id, lambda run: len(run.under_way) == 2)
    assert names(both) == {"gather[0]/bake", "gather[1]/wash"}
    assert [one.attempt for one in both.under_way] == [1, 1]
    assert both.recorded == 1
    gates["bake"].set()
    # Its record comes before the next renewal does: from then on it is not told.
    one = await seen(engine, run_id, lambda run: names(run) == {"gather[1]/wash"})
    assert both.started_at is not None
    assert one.under_way[0].started_at >= both.started_at
    gates["wash"].set()
    await going_on
    ended = await engine.control.get(run_id, client=CLIENT)
    assert (ended.status, ended.under_way, ended.recorded) == ("completed", (), 3)


async def test_an_attempt_after_one_that_failed_is_told_with_its_number(
    engine: WorkflowEngine, workflows: Registry
) -> None:
    gate, tried = asyncio.Event(), 0

    async def shaky() -> None:
        nonlocal tried
        tried += 1
        if tried < 3:
            raise ConnectionError("not yet")
        await gate.wait()

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await step.do("shaky", shaky, retry=AT_ONCE)

    run_id = (await engine.start("w", client=CLIENT)).run["_id"]
    going_on = asyncio.create_task(engine.advance([run_id]))
    run = await seen(engine, run_id, lambda run: [one.attempt for one in run.under_way] == [3])
    assert run.recorded == 1  # what its first attempts left
    gate.set()
    await going_on


async def test_nobody_is_told_of_a_step_by_a_dead_slice_but_its_end_says_what_it_was_at(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await step.do("first", lambda: 1)
        await step.do("deadly", lambda: 2)

    run_id = await test.start("w")
    for _ in range(EngineConfig().deaths + 1):  # the first of them got on: it recorded a step
        test.crash_at("/deadly")
        await test.advance([run_id])
        run = await test.store.due.collection.find_one({"_id": run_id}) or {}
        step = {"key": "deadly", "kind": "do", "epoch": 0, "order": 1, "attempt": 1}
        told = {"token": run["lease"], "epoch": 0, "recorded": 1}
        told["steps"] = [{**step, "at": test.clock.now()}]  # as its renewal would have
        await test.store.due.collection.update_one({"_id": run_id}, {"$set": {"under_way": told}})
        assert names(await test.engine.control.get(run_id, client=CLIENT)) == {"deadly"}
        test.clock.move_s(31)
        assert names(await test.engine.control.get(run_id, client=CLIENT)) == set()
    slices = (await test.engine.records.history(run_id)).slices
    assert [(one.end, one.heard) for one in slices] == [("crashed", ("deadly",))] * len(slices)
    await test.advance([run_id])
    blocked = (await test.run(run_id)).blocked or {}
    assert blocked["reason"] == "poison"
    assert "under way when it was last heard of: deadly" in blocked["detail"]
    slices = (await test.engine.records.history(run_id)).slices
    assert {one.heard for one in slices if one.end == "crashed"} == {("deadly",)}


async def test_a_renewal_is_brought_forward_by_news_alone(
    mongo_uri: str, mongo_db_name: str, workflows: Registry
) -> None:
    keeper = LeaseKeeper(
        mongo_uri, mongo_db_name, clock=SystemClock(), every_s=3600, look_every_s=0.02
    )
    store = MongoStore.connect(mongo_uri, mongo_db_name, config=EngineConfig())
    engine = WorkflowEngine(store, workflows=workflows, config=EngineConfig())
    workflows.workflow("w")(lambda step, input: None)
    run_id = (await engine.start("w", client=CLIENT)).run["_id"]
    claimed = await store.due.claim(run_id)
    assert claimed is not None
    said: dict[str, Any] = {}
    looks = 0

    def news() -> dict[str, Any]:
        nonlocal looks
        looks += 1
        return dict(said)

    async def until(fits: Callable[[], Any]) -> dict[str, Any]:
        async with asyncio.timeout(60):
            while not fits():  # noqa: ASYNC110  (it is another thread that changes it)
                await asyncio.sleep(0.01)
        return await store.due.collection.find_one({"_id": run_id}) or {}

    held = Held(claimed.lease, claimed.document["signals"], news=news)
    with keeper.keep(held, lambda lost: None):
        quiet = await until(lambda: looks >= 5)
        assert quiet["lease_until"] == claimed.document["lease_until"]
        said["under_way"] = {"steps": ["one"]}
        told = await until(lambda: held.lease != claimed.lease)
        assert told["under_way"] == {"steps": ["one"]}
        assert told["lease_until"] > quiet["lease_until"]
        looks, before = 0, held.lease
        await until(lambda: looks >= 5)
        assert held.lease == before  # told once
    await asyncio.to_thread(keeper.close)
    await store.close()


async def test_short_steps_cost_one_insert_and_are_not_told(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        for number in range(20):
            await step.do(f"n{number}", lambda: None)

    run_id = await test.start("w")
    await test.finish(run_id)
    run = await test.store.due.collection.find_one({"_id": run_id}) or {}
    assert run["under_way"] is None
    assert (await test.run(run_id)).recorded == 20


async def test_a_late_word_about_a_step_is_not_believed(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await step.do("done", lambda: 1)
        await step.do("shaky", lambda: 1 / 0, retry=Retry(attempts=2, first_s=60, jitter=False))

    run_id = await test.start("w")
    await test.settle()
    now = test.clock.now()
    step = {"kind": "do", "epoch": 0, "order": 0, "attempt": 1, "at": now}
    steps = [{**step, "key": key} for key in ("done", "shaky", "fresh")]
    told = {"token": "t", "epoch": 0, "recorded": 2, "steps": steps}
    held = {"status": "running", "lease": "t", "lease_until": now + timedelta(seconds=9)}
    change = {"$set": {**held, "under_way": told}}
    await test.store.due.collection.update_one({"_id": run_id}, change)
    # The one has ended, the other rests.
    assert names(await test.engine.control.get(run_id, client=CLIENT)) == {"fresh"}

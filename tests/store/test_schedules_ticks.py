"""Schedules against a real store: one run a tick, whoever ticks and whoever dies."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from lambent.clock import FAR_FUTURE
from lambent.due import DueDocuments
from lambent.errors import Conflict, NotFound
from lambent.mongo import Document, Mongo
from lambent.schedules.schedules import Plan, Schedules
from lambent.schedules.ticker import CatchUp, Ticker
from lambent.schedules.transitions import SCHEDULES
from tests.store.bus_world import KeyedStarts, Killed, MortalMongo, TurnedClock

HOURLY = Plan(name="report", cron="0 * * * *", workflow="report", input={"$a.b": 1})


class ScheduleWorld:
    def __init__(self, uri: str, db_name: str) -> None:
        self.clock = TurnedClock()
        self.mongo = Mongo(uri, db_name, clock=TurnedClock())
        self.schedules = Schedules(self.mongo, clock=self.clock)

    def ticker(self, mongo: Any = None) -> Ticker:
        mongo = mongo or self.mongo
        starts = KeyedStarts(mongo, {})
        return Ticker(mongo, clock=self.clock, starts=starts)

    async def poll(self, mongo: Any = None) -> int:
        due = DueDocuments(self.mongo, SCHEDULES, clock=self.clock)
        return await self.ticker(mongo).tick_due([one.id for one in await due.find(100)])

    async def runs(self) -> list[Document]:
        return await self.mongo.db["runs"].find({}).sort("_id", 1).to_list()


@pytest_asyncio.fixture
async def world(mongo_uri: str, mongo_db_name: str) -> AsyncIterator[ScheduleWorld]:
    made = ScheduleWorld(mongo_uri, mongo_db_name)
    await made.schedules.ensure_indexes()
    yield made
    await made.mongo.close()


async def test_each_tick_starts_one_run_with_the_input_as_given(world: ScheduleWorld) -> None:
    schedule = await world.schedules.create("acme", HOURLY)
    assert await world.poll() == 0
    for _ in range(3):
        world.clock.passed_s += 3600
        assert await world.poll() == 1
        assert await world.poll() == 0
    runs = await world.runs()
    assert [run["_id"][-25:-9] for run in runs] == [
        "2026-03-01T13:00",
        "2026-03-01T14:00",
        "2026-03-01T15:00",
    ]
    found = await world.schedules.get(schedule["_id"], client="acme")
    assert found["last_run"] == runs[-1]["_id"]
    assert found["recent"] == [run["_id"] for run in runs]
    assert found["tick_at"] == world.clock.now() + timedelta(hours=1)


async def test_many_pollers_at_once_start_one_run(world: ScheduleWorld) -> None:
    await world.schedules.create("acme", HOURLY)
    world.clock.passed_s += 3600
    await asyncio.gather(*(world.poll() for _ in range(8)))
    assert len(await world.runs()) == 1


async def test_wherever_the_ticker_dies_each_tick_has_its_one_run(world: ScheduleWorld) -> None:
    await world.schedules.create("acme", HOURLY)
    for dies_at in range(6):
        world.clock.passed_s += 3600
        try:
            await world.poll(MortalMongo(world.mongo, dies_at))
        except Killed:
            world.clock.passed_s += 31
            await world.poll()
            world.clock.passed_s -= 31
        assert len(await world.runs()) == dies_at + 1


@pytest.mark.parametrize(
    ("policy", "limit", "expected"),
    [(CatchUp.NONE, 9, 0), (CatchUp.LAST, 9, 1), (CatchUp.ALL, 9, 5), (CatchUp.ALL, 3, 3)],
)
async def test_missed_ticks_are_caught_up_as_the_policy_says(
    world: ScheduleWorld, policy: CatchUp, limit: int, expected: int
) -> None:
    plan = Plan(name="r", cron="0 * * * *", workflow="w", catch_up=policy, catch_up_limit=limit)
    await world.schedules.create("acme", plan)
    world.clock.passed_s += 5 * 3600 + 1800
    assert await world.poll() == expected
    world.clock.passed_s += 1800
    assert await world.poll() == 1, "and then it goes on in time"


async def test_a_paused_schedule_does_not_tick_and_resumes_with_the_next(
    world: ScheduleWorld,
) -> None:
    made = await world.schedules.create("acme", HOURLY)
    paused = await world.schedules.pause(made["_id"], client="acme")
    assert (paused["status"], paused["due_at"]) == ("paused", FAR_FUTURE)
    with pytest.raises(Conflict):
        await world.schedules.pause(made["_id"], client="acme")
    world.clock.passed_s += 5 * 3600
    assert await world.poll() == 0
    resumed = await world.schedules.resume(made["_id"], client="acme")
    assert resumed["tick_at"] == world.clock.now() + timedelta(hours=1)


async def test_a_pause_during_a_tick_is_not_undone_by_its_settle(world: ScheduleWorld) -> None:
    made = await world.schedules.create("acme", HOURLY)
    world.clock.passed_s += 3600
    due = DueDocuments(world.mongo, SCHEDULES, clock=world.clock)
    claimed = await due.claim(made["_id"])
    assert claimed is not None
    await world.schedules.pause(made["_id"], client="acme")
    await world.ticker()._tick(claimed)
    found = await world.schedules.get(made["_id"], client="acme")
    assert (found["status"], found["due_at"]) == ("paused", FAR_FUTURE)
    assert found["lease"] is None


async def test_a_pause_is_not_undone_where_the_next_tick_is_due_before_the_settle(
    world: ScheduleWorld,
) -> None:
    made = await world.schedules.create(
        "acme", Plan(name="often", cron="* * * * * *", workflow="report")
    )
    world.clock.passed_s += 1

    class Slow(KeyedStarts):
        async def start(self, workflow: str, input: Any = None, **rest: Any) -> Any:
            world.clock.passed_s += 5
            await world.schedules.pause(made["_id"], client="acme")
            return await super().start(workflow, input, **rest)

    await Ticker(world.mongo, clock=world.clock, starts=Slow(world.mongo, {})).tick_due(
        [made["_id"]]
    )
    found = await world.schedules.get(made["_id"], client="acme")
    assert (found["status"], found["due_at"]) == ("paused", FAR_FUTURE)
    assert found["lease"] is None


async def test_names_are_unique_and_schedules_are_their_clients_own(world: ScheduleWorld) -> None:
    made = await world.schedules.create("acme", HOURLY)
    with pytest.raises(Conflict):
        await world.schedules.create("acme", HOURLY)
    await world.schedules.create("umbrella", HOURLY)
    with pytest.raises(NotFound):
        await world.schedules.delete(made["_id"], client="umbrella")
    assert len(await world.schedules.all_of("acme")) == 1
    assert len(await world.schedules.all_of(None)) == 2
    await world.schedules.delete(made["_id"], client="acme")
    assert await world.schedules.all_of("acme") == []


async def test_a_new_plan_counts_its_ticks_from_now(world: ScheduleWorld) -> None:
    made = await world.schedules.create("acme", HOURLY)
    daily = Plan(name="ignored", cron="0 6 * * *", workflow="other", timezone="Asia/Tokyo")
    changed = await world.schedules.change(made["_id"], daily, client="acme")
    assert (changed["name"], changed["workflow"]) == ("report", "other")
    assert f"{changed['tick_at']:%d %H:%M}" == "01 21:00"

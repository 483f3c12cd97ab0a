"""Scenarios with pollers: what they find they nudge for, and each nudge is one function more."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from lambent.clock import FAR_FUTURE
from lambent.dispatch import Work
from lambent.due import LEASE_S
from lambent.engine.options import Concurrency
from lambent.engine.registry import Registry
from lambent.engine.step import Step
from lambent.errors import Conflict, WaitTimedOut
from lambent.schedules.cron import Cron
from lambent.schedules.schedules import Plan
from tests.store.engine_explorer import Act
from tests.store.engine_scenario import Scenario, canceller, outcome, publish_again
from tests.store.engine_world import World

# A poller that looks twice or so; drains look again.
_LIFE_S = 1.5
_YEARLY = "0 0 1 1 *"

# Everybody at once: a slice, a publisher with its delivery, somebody who cancels, a poller that
# invokes further slices and deliverers.


def _polled(workflows: Registry, world: Callable[[], World]) -> None:
    @workflows.workflow("polled")
    async def polled(step: Step, input: Any) -> Any:
        here = world()
        await step.do("a", here.effect, "a", undo=here.undo)
        return (await step.wait_for_event("e", type="e")).data


async def _polled_setup(world: World) -> dict[str, Act]:
    run = await world.start("polled")
    world.fleet.polls = (Work.RUNS, Work.EVENTS)
    return {
        "slice": lambda: world.fleet.step([run]),
        "publisher": lambda: world.publish("e", 1),
        "poller": world.fleet.poller(_LIFE_S),
        "canceller": canceller(world, run),
    }


async def polled_check(world: World) -> None:
    await publish_again(world, 1)
    status, output = await outcome(world)
    recorded = any(key.endswith("/a") and one["status"] == "completed"
                   for key, one in world.finals.items())  # fmt: skip
    if status == "completed":
        assert (output, "undo a" in world.effects) == (1, False)
    else:
        assert status == "cancelled"
        assert ("undo a" in world.effects) == recorded, world.effects
    if not world.faulty:
        assert world.effects.count("a") <= 1, "a step ran twice though nobody died"


# Two pollers that find the same: a run between two of its sleeps, taken up once at a time.


def _sleeper(workflows: Registry, world: Callable[[], World]) -> None:
    @workflows.workflow("sleeper")
    async def sleeper(step: Step, input: Any) -> Any:
        await step.do("a", world().effect, "a")
        await step.sleep(3)
        return await step.do("b", world().effect, "b")


async def _pollers_setup(world: World) -> dict[str, Act]:
    run = await world.start("sleeper")
    await world.advance(run)
    world.clock.move_s(2)
    world.fleet.polls = (Work.RUNS,)
    return {
        "poller": world.fleet.poller(_LIFE_S),
        "another": world.fleet.poller(_LIFE_S),
        "slice": lambda: world.fleet.step([run]),
    }


async def _slept_check(world: World) -> None:
    assert await outcome(world) == ("completed", "b")
    if not world.faulty:
        assert world.effects == ["a", "b"]


# A run that goes to sleep for a moment while the only poller does: the bell wakes another.


async def _bell_setup(world: World) -> dict[str, Act]:
    run = await world.start("sleeper")
    world.fleet.polls = (Work.RUNS,)
    world.fleet.rings, world.fleet.most = True, 12
    return {
        "slice": lambda: world.fleet.step([run]),
        "poller": world.fleet.poller(60),
    }


async def _prompt(world: World) -> None:
    """Nobody had to wait for the poller of the next minute."""
    (run,) = await world.runs()
    assert (run["status"], run["due_at"]) == ("completed", FAR_FUTURE), "nobody was awake for it"
    (slept,) = (one for key, one in world.finals.items() if key.endswith("/sleep"))
    late_s = (run["finished_at"] - slept["until"]).total_seconds()
    # Whoever was invoked may take his time, up to what counts as a stall.
    assert late_s < LEASE_S / 2, f"it was {late_s} s late"


# A tick of a schedule that two pollers find; or that is ticked while somebody pauses the schedule
# and resumes it, or one pauses it while another changes it.


def _ticked(workflows: Registry, world: Callable[[], World]) -> None:
    @workflows.workflow("ticked")
    async def ticked(step: Step, input: Any) -> Any:
        return await step.do("a", world().effect, "a")


async def _schedule(world: World) -> str:
    plan = Plan(name="yearly", cron=_YEARLY, workflow="ticked")
    schedule = await world.schedules.create(world.client, plan)
    world.told |= {"schedule": schedule["_id"], "tick": schedule["tick_at"]}
    world.clock.move_to(schedule["tick_at"])
    world.fleet.polls = (Work.SCHEDULES, Work.RUNS)
    return str(schedule["_id"])


async def _tick_setup(world: World) -> dict[str, Act]:
    await _schedule(world)
    return {"poller": world.fleet.poller(_LIFE_S), "another": world.fleet.poller(_LIFE_S)}


async def _resumed_setup(world: World) -> dict[str, Act]:
    schedule = await _schedule(world)

    async def pause_and_resume() -> None:
        with contextlib.suppress(Conflict):
            await world.schedules.pause(schedule, client=world.client)
            world.told["paused"] = True
        with contextlib.suppress(Conflict):
            await world.schedules.resume(schedule, client=world.client)
            world.told["paused"] = False

    return {
        "poller": world.fleet.poller(0.5),
        "pauser": pause_and_resume,
        "deliver": lambda: world.fleet.tick([schedule]),
    }


async def _changed_setup(world: World) -> dict[str, Act]:
    schedule = await _schedule(world)
    plan = Plan(name="yearly", cron=_YEARLY, workflow="ticked", input="changed")

    async def pause() -> None:
        with contextlib.suppress(Conflict):
            await world.schedules.pause(schedule, client=world.client)

    async def change() -> None:
        with contextlib.suppress(Conflict):
            await world.schedules.change(schedule, plan, client=world.client)

    return {
        "changer": change,
        "pauser": pause,
        "deliver": lambda: world.fleet.tick([schedule]),
    }


async def _changed_check(world: World) -> None:
    await _schedule_at_rest(world)
    assert len(world.last) <= 1


async def _schedule_at_rest(world: World) -> None:
    schedule = await world.schedules.get(world.told["schedule"], client=world.client)
    # A dead owner's token may stand there until the next claim; it holds nothing any more.
    assert schedule["lease_until"] <= world.clock.now(), "a schedule is left leased"
    assert world.faulty or schedule["lease"] is None, "a schedule is left leased"
    following = Cron(_YEARLY, "UTC").next_after(world.told["tick"])
    if schedule["status"] == "paused":
        assert (schedule["tick_at"], schedule["due_at"]) == (None, FAR_FUTURE)
    else:
        assert schedule["tick_at"] == schedule["due_at"] == following


async def _tick_check(world: World) -> None:
    await _schedule_at_rest(world)
    (run,) = world.last
    assert run["key"].endswith(datetime(run["created_at"].year, 1, 1, tzinfo=UTC).isoformat())
    assert (run["status"], run["output"]) == ("completed", "a")
    if not world.faulty:
        assert world.effects == ["a"]


async def _resumed_check(world: World) -> None:
    await _schedule_at_rest(world)
    schedule = await world.schedules.get(world.told["schedule"], client=world.client)
    if "paused" in world.told and not world.faulty:
        # What was answered to who paused and resumed is what the schedule is.
        assert (schedule["status"] == "paused") == world.told["paused"]
    assert len(world.last) <= 1
    assert all(run["status"] == "completed" for run in world.last)


# Two runs, one slot, somebody who cancels the first, a poller.


def _slots(workflows: Registry, world: Callable[[], World]) -> None:
    @workflows.workflow("slots", concurrency=Concurrency(limit=1))
    async def slots(step: Step, input: Any) -> Any:
        return await step.do("work", world().effect, f"work {input}")


async def _slots_setup(world: World) -> dict[str, Act]:
    runs = [await world.start("slots", number) for number in range(2)]
    world.told["runs"] = runs
    world.fleet.polls = (Work.RUNS,)
    return {
        "one": lambda: world.fleet.step([runs[0]]),
        "two": lambda: world.fleet.step([runs[1]]),
        "canceller": canceller(world, runs[0]),
        "poller": world.fleet.poller(0.5),
    }


async def _slots_check(world: World) -> None:
    by_id = {run["_id"]: run["status"] for run in world.last}
    first, second = (by_id[run] for run in world.told["runs"])
    assert first in {"completed", "cancelled"}
    assert second == "completed", "the slot was not passed on"
    if not world.faulty:
        assert len(world.effects) == len(set(world.effects))


# A condition that two slices may look at while it becomes true, and somebody cancels: looked at
# once each time, and what the code was told is what is on record.

_EVERY_S, _LATEST_S = 10, 25


def _until(workflows: Registry, world: Callable[[], World]) -> None:
    @workflows.workflow("until")
    async def until(step: Step, input: Any) -> Any:
        here = world()

        async def look() -> str | None:
            looks = here.told["looks"]
            ready = here.told.get("ready", False)
            looks.append((here.clock.now(), ready))
            return f"seen at look {len(looks)}" if ready else None

        try:
            return await step.wait_until("ready", look, every=_EVERY_S, timeout=_LATEST_S)
        except WaitTimedOut:
            return "late"


async def _until_setup(world: World) -> dict[str, Act]:
    world.told |= {"looks": [], "began_at": world.clock.now()}
    run = await world.start("until")

    async def make_ready() -> None:
        world.told["ready"] = True

    return {
        "maker": make_ready,
        "slice": lambda: world.advance(run),
        "second": lambda: world.advance(run),
        "canceller": canceller(world, run),
    }


async def _until_check(world: World) -> None:
    status, output = await outcome(world)
    records = [one for key, one in world.finals.items() if key.endswith("/ready")]
    looks = world.told["looks"]
    if not world.faulty:
        apart_s = [(after - at).total_seconds() for (at, _), (after, _) in pairwise(looks)]
        assert all(one >= _EVERY_S for one in apart_s), f"looked twice at once: {apart_s}"
    if status == "cancelled":
        assert all(one["status"] in {"completed", "tombstone"} for one in records), records
        return
    (record,) = records
    assert status == "completed"
    if output == "late":
        assert record["status"] == "failed"
        over_at = world.told["began_at"] + timedelta(seconds=_LATEST_S)
        assert any(at >= over_at and not ready for at, ready in looks), "no look at the end"
    else:
        assert (record["status"], record["output"]) == ("completed", output)


# A run that is blocked until its version is deployed: somebody restarts it while a slice looks
# whether it is, and somebody deploys it.


def _undeployed(workflows: Registry, world: Callable[[], World]) -> None:
    @workflows.workflow("undeployed")
    async def undeployed(step: Step, input: Any) -> Any:
        first = await step.do("a", world().effect, "a")
        await step.sleep(20)
        return first + await step.do("b", world().effect, "b")


async def _undeployed_setup(world: World) -> dict[str, Act]:
    versions = world.engine.workflows._found["undeployed"]
    there = world.told.setdefault("there", versions.get(1) or versions[2])
    versions.clear()
    versions[1] = there
    run = await world.start("undeployed")
    await world.advance(run)
    versions[2] = versions.pop(1)
    world.clock.move_s(21)
    await world.advance(run)
    world.clock.move_s(6)

    async def deploy() -> None:
        versions[1] = there

    async def restart() -> None:
        try:
            await world.engine.control.restart(run, client=world.client)
            world.told["restarted"] = True
        except Conflict as error:
            world.told["refused"] = error.fields["status"]

    world.fleet.polls = (Work.RUNS,)
    return {
        "deployer": deploy,
        "slice": lambda: world.fleet.step([run]),
        "restarter": restart,
        "poller": world.fleet.poller(0.5),
    }


async def _undeployed_check(world: World) -> None:
    (run,) = world.last
    assert (run["status"], run["output"]) == ("completed", "ab")
    assert run["epoch"] == 0 or world.faulty or "restarted" in world.told
    assert run["epoch"] == 1 or "restarted" not in world.told, "who was told yes restarted nothing"
    assert world.told.get("refused") != "blocked", "refused in a state that allows it"
    if not world.faulty:
        assert world.effects.count("a") == 1 + run["epoch"], world.effects


POLLED = (
    Scenario("polled", _polled, _polled_setup, polled_check, weight=2),
    Scenario("pollers", _sleeper, _pollers_setup, _slept_check, weight=0.5),
    Scenario("bell", _sleeper, _bell_setup, _slept_check, weight=0.25, prompt=_prompt),
    Scenario("tick", _ticked, _tick_setup, _tick_check, weight=0.5),
    Scenario("resumed", _ticked, _resumed_setup, _resumed_check),
    Scenario("changed", _ticked, _changed_setup, _changed_check, weight=0.5),
    Scenario("slots", _slots, _slots_setup, _slots_check),
    Scenario("until", _until, _until_setup, _until_check),
    Scenario("undeployed", _undeployed, _undeployed_setup, _undeployed_check, weight=0.25),
)

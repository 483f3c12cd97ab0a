"""Scenarios of callbacks, maps, big values, fresh starts, debounced starts and chained events."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from lambent.engine.model import ENDED
from lambent.engine.options import Debounce, Retry
from lambent.engine.registry import Registry
from lambent.engine.step import Step
from lambent.errors import CallbackFailed, Conflict, Gone, NonRetryable, StepFailed, WaitTimedOut
from tests.store.engine_explorer import Act
from tests.store.engine_scenario import CONFIG, Scenario, canceller, outcome
from tests.store.engine_world import World

# A callback: completed, failed, kept alive, against its silence and a cancel.

_HEARTBEAT_S = 10


def _callback(workflows: Registry, world: Callable[[], World]) -> None:
    @workflows.workflow("callback")
    async def callback(step: Step, input: Any) -> Any:
        asked = await step.callback("asked", timeout=60, heartbeat=_HEARTBEAT_S)
        world().told["token"] = asked.token
        try:
            return await asked
        except WaitTimedOut:
            return "late"
        except CallbackFailed:
            return "failed"


async def _asked(world: World) -> str:
    run = await world.start("callback")
    await world.advance(run)
    return run


def _answer(world: World, name: str, answer: Callable[[], Awaitable[None]]) -> Act:
    async def act() -> None:
        asked_at = world.clock.now()  # what follows may take as long as a stall
        try:
            await answer()
        except Gone:
            return
        world.told[name] = asked_at

    return act


def _holders(world: World) -> dict[str, Act]:
    callbacks, token = world.engine.callbacks, world.told["token"]
    return {
        "completer": _answer(world, "completed", lambda: callbacks.complete(token, "done")),
        "failer": _answer(world, "failed", lambda: callbacks.fail(token, "no")),
        "beater": _answer(world, "beaten", lambda: callbacks.heartbeat(token)),
    }


async def _answers_setup(world: World) -> dict[str, Act]:
    run = await _asked(world)
    holders = _holders(world)
    return {
        "slice": lambda: world.advance(run),
        "completer": holders["completer"],
        "failer": holders["failer"],
        "canceller": canceller(world, run),
    }


async def _silence_setup(world: World) -> dict[str, Act]:
    run = await _asked(world)
    holders = _holders(world)
    world.clock.move_s(_HEARTBEAT_S + 1)
    return {
        "slice": lambda: world.advance(run),
        "completer": holders["completer"],
        "beater": holders["beater"],
        "second": lambda: world.advance(run),
    }


async def _answers_check(world: World) -> None:
    status, output = await outcome(world)
    assert status in {"completed", "cancelled"}
    if status == "completed":
        assert output in {"done", "failed", "late"}
        told = {"done": "completed", "failed": "failed"}
        heard = {told[one] for one in told if told[one] in world.told}
        # Whoever was told that his answer is taken was told the truth.
        assert heard <= {told.get(output)}, f"{heard} were told yes, and the run got {output!r}"
    (wait,) = await world.mongo.db["waits"].find({"run": world.last[0]["_id"]}).to_list()
    if wait["status"] == "timed out" and "beaten" in world.told:
        until = world.told["beaten"] + timedelta(seconds=_HEARTBEAT_S)
        assert wait["closed_at"] >= until, "it was given up though somebody was at it"


# A map with a limit, a branch that is tried twice, two slices.


def _mapped(workflows: Registry, world: Callable[[], World]) -> None:
    @workflows.workflow("mapped", retry=Retry(attempts=2, first_s=0))
    async def mapped(step: Step, input: Any) -> Any:
        here = world()

        async def work(number: int) -> Any:
            async def once_bad() -> int:
                await here.effect(f"work {number}")
                if number == 1 and here.effects.count("work 1") == 1:
                    raise ValueError
                return number * 10

            return await step.do("work", once_bad)

        return await step.map("all", [0, 1, 2], work, limit=2)


async def _mapped_setup(world: World) -> dict[str, Act]:
    run = await world.start("mapped")
    return {"slice": lambda: world.advance(run), "second": lambda: world.advance(run)}


async def _mapped_check(world: World) -> None:
    if world.faulty and world.effects.count("work 1") == 1:
        # Its only try died unrecorded, and cost nothing.
        return
    assert await outcome(world) == ("completed", [0, 10, 20])
    if not world.faulty:
        assert sorted(world.effects) == ["work 0", "work 1", "work 1", "work 2"]


# A map of which a branch fails for good: the others are given up, and a replay agrees on whose
# failure it was.


def _torn(workflows: Registry, world: Callable[[], World]) -> None:
    @workflows.workflow("torn")
    async def torn(step: Step, input: Any) -> Any:
        here = world()

        async def work(number: int) -> Any:
            async def bad() -> None:
                await here.effect(f"work {number}")
                raise NonRetryable(f"bad {number}")

            await step.do("first", here.effect, f"first {number}")
            return await step.do("work", bad)

        try:
            await step.map("all", [0, 1], work)
        except StepFailed as error:
            await step.do("told", here.effect, error.detail)
            return error.detail


async def _torn_setup(world: World) -> dict[str, Act]:
    run = await world.start("torn")
    return {"slice": lambda: world.advance(run), "second": lambda: world.advance(run)}


async def _torn_check(world: World) -> None:
    status, output = await outcome(world)
    assert status == "completed", world.last[0]["blocked"]
    assert output in {"bad 0", "bad 1"}
    assert {one for one in world.effects if one.startswith("bad")} == {output}


# Values too big for their documents: started twice, kept by a step, handed to a child.

_BIG = replace(CONFIG, chunk_over_bytes=100, chunk_bytes=160)


def _big(workflows: Registry, world: Callable[[], World]) -> None:
    @workflows.workflow("big")
    async def big(step: Step, input: Any) -> Any:
        async def grow() -> Any:
            return input + "y" * 200

        grown = await step.do("grow", grow)
        await step.progress(grown)
        return grown + await (await step.start("bigger", grown))

    @workflows.workflow("bigger")
    async def bigger(step: Step, input: Any) -> Any:
        return input + "z" * 200


async def _big_setup(world: World) -> dict[str, Act]:
    run = await world.start("big", "x" * 200, key="big")
    return {
        "slice": lambda: world.advance(run),
        "second": lambda: world.advance(run),
        "canceller": canceller(world, run),
    }


async def _first_setup(world: World) -> dict[str, Act]:
    async def start() -> None:
        await world.start("bigger", "x" * 200, key="first")

    async def first() -> None:
        for run in await world.engine.store.due.collection.find({"client": world.client}).to_list():
            await world.advance(run["_id"])

    return {"starter": start, "again": start, "slice": first}


async def _big_check(world: World) -> None:
    for run in world.last:
        if run["status"] == "completed":
            grown = "x" * 200 + "y" * 200
            wanted = {"big": grown * 2 + "z" * 200, "bigger": grown + "z" * 200}
            assert await world.engine.result(run["_id"]) == wanted[run["workflow"]]
        else:
            assert run["status"] == "cancelled"


async def _first_check(world: World) -> None:
    # A starter that died is one who tries again.
    await world.start("bigger", "x" * 200, key="first")
    await world.drain()
    (run,) = world.last
    assert await world.engine.result(run["_id"]) == "x" * 200 + "z" * 200


# A run that begins again twice, each time with a step and a child of its own, and a cancel.


def _loop(workflows: Registry, world: Callable[[], World]) -> None:
    @workflows.workflow("loop")
    async def loop(step: Step, input: Any) -> Any:
        turn, here = input or 0, world()
        await step.do("work", here.effect, f"work {turn}", undo=here.undo)
        if turn < 2:
            await step.continue_as_new(turn + 1)
        return turn


async def _loop_setup(world: World) -> dict[str, Act]:
    run = await world.start("loop")
    return {
        "slice": lambda: world.advance(run),
        "canceller": canceller(world, run),
        "second": lambda: world.advance(run),
    }


async def _loop_check(world: World) -> None:
    status, output = await outcome(world)
    run = world.last[0]
    works = [one for one in world.effects if one.startswith("work")]
    if status == "completed":
        assert (output, run["epoch"]) == (2, 2)
        assert sorted(set(works)) == ["work 0", "work 1", "work 2"]
    else:
        assert status == "cancelled"
        recorded = f"{run['_id']}/{run['epoch']}/work"
        done = world.finals.get(recorded, {}).get("status") == "completed"
        assert (f"undo work {run['epoch']}" in world.effects) == done, world.effects
    if not world.faulty:
        assert len(works) == len(set(works)), "a step ran twice though nobody died"


# Starts that put one run off, and the slice that begins it.


def _debounced(workflows: Registry, world: Callable[[], World]) -> None:
    @workflows.workflow("debounced", debounce=Debounce(period_s=5))
    async def debounced(step: Step, input: Any) -> Any:
        return await step.do("a", world().effect, f"a {input}")


async def _debounced_setup(world: World) -> dict[str, Act]:
    run = await world.start("debounced", 0, key="k0")
    world.clock.move_s(6)

    async def start(number: int) -> None:
        world.told[f"k{number}"] = await world.start("debounced", number, key=f"k{number}")

    return {
        "slice": lambda: world.advance(run),
        "one": lambda: start(1),
        "two": lambda: start(2),
    }


async def _debounced_check(world: World) -> None:
    for number in (1, 2):
        run = await world.start("debounced", number, key=f"k{number}")
        assert world.told.get(f"k{number}", run) == run, "a start counted twice"
    await world.drain()
    assert all(run["status"] == "completed" for run in world.last)
    assert sum(run["gathered"] for run in world.last) == 3, "a start is lost, or counts twice"
    if not world.faulty:
        assert len(world.effects) == len(world.last)


# Starts that meet somebody who cancels the run they could join, or pauses and resumes it: whoever
# starts after the cancel was accepted is not part of what is cancelled.


async def _swept_setup(world: World) -> dict[str, Act]:
    run = await world.start("debounced", 0, key="k0")
    world.told["first"] = run
    world.clock.move_s(6)
    cancel, control = canceller(world, run), world.engine.control

    async def start(number: int) -> None:
        late = "cancelled" in world.told
        started = await world.start("debounced", number, key=f"k{number}")
        assert not (late and started == run), "a start joined what was cancelled before"

    async def rest() -> None:
        with contextlib.suppress(Conflict):
            await control.pause(run, client=world.client)
        await world.advance(run)
        with contextlib.suppress(Conflict):
            await control.resume(run, client=world.client)

    return {"one": lambda: start(1), "two": lambda: start(2), "canceller": cancel, "rester": rest}


async def _swept_check(world: World) -> None:
    for number in (1, 2):
        await world.start("debounced", number, key=f"k{number}")
    await world.drain()
    with contextlib.suppress(Conflict):  # whoever was to resume it died
        await world.engine.control.resume(world.told["first"], client=world.client)
        await world.drain()
    assert {run["status"] for run in world.last} <= {"completed", "cancelled"}
    assert sum(run["gathered"] for run in world.last) == 3, "a start is lost, or counts twice"
    going_on = [run["_id"] for run in world.last if run["status"] != "cancelled"]
    assert set(going_on) | {world.told["first"]} >= {run["_id"] for run in world.last}


# A step that publishes, and the workflow that its event starts.


def _chain(workflows: Registry, world: Callable[[], World]) -> None:
    @workflows.workflow("teller")
    async def teller(step: Step, input: Any) -> Any:
        await step.publish("told", {"n": 1})
        return "said"

    @workflows.workflow("hearer", on="told")
    async def hearer(step: Step, input: Any) -> Any:
        return input["data"]["n"]


async def _chain_setup(world: World) -> dict[str, Act]:
    run = await world.start("teller")

    async def deliver() -> None:
        ends_s = world.clock.monotonic_s() + 60
        await world.deliverer.deliver_due(sorted(world.undelivered), deadline_s=ends_s)

    return {
        "slice": lambda: world.advance(run),
        "second": lambda: world.advance(run),
        "deliverer": deliver,
    }


async def _chain_check(world: World) -> None:
    outputs = {run["workflow"]: run["output"] for run in world.last}
    assert (len(world.last), outputs) == (2, {"teller": "said", "hearer": 1})
    assert all(run["status"] in ENDED for run in world.last)


VALUES = (
    Scenario("answers", _callback, _answers_setup, _answers_check, weight=2),
    Scenario("silence", _callback, _silence_setup, _answers_check, weight=2),
    Scenario("mapped", _mapped, _mapped_setup, _mapped_check),
    Scenario("torn", _torn, _torn_setup, _torn_check),
    Scenario("big", _big, _big_setup, _big_check, weight=0.5, config=_BIG),
    Scenario("first", _big, _first_setup, _first_check, config=_BIG),
    Scenario("loop", _loop, _loop_setup, _loop_check),
    Scenario("debounced", _debounced, _debounced_setup, _debounced_check),
    Scenario("swept", _debounced, _swept_setup, _swept_check, weight=0.5),
    Scenario("chain", _chain, _chain_setup, _chain_check),
)

"""Small workflows and the actors that meet over them, for every order of their store calls."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lambent.engine.options import NO_RETRY, Batch, Concurrency, Flow, Retry, Singleton
from lambent.engine.registry import Registry
from lambent.engine.step import Step
from lambent.errors import Conflict, Interrupted, NonRetryable, StepFailed, WaitTimedOut
from tests.store.engine_explorer import Act
from tests.store.engine_scenario import Scenario, canceller, outcome, publish_again, retrier
from tests.store.engine_scenarios_hooks import HOOKS
from tests.store.engine_scenarios_polled import POLLED
from tests.store.engine_scenarios_values import VALUES
from tests.store.engine_world import World

# An event, published while the run gets to its wait: never lost, never twice.


def _event(workflows: Registry, world: Callable[[], World]) -> None:
    @workflows.workflow("event")
    async def event(step: Step, input: Any) -> Any:
        return (await step.wait_for_event("e", type="e")).data


async def _event_setup(world: World) -> dict[str, Act]:
    run = await world.start("event")
    return {
        "slice": lambda: world.advance(run),
        "second": lambda: world.advance(run),
        "publisher": lambda: world.publish("e", 1),
    }


async def _event_check(world: World) -> None:
    await publish_again(world, 1)
    assert await outcome(world) == ("completed", 1)


# The same with somebody who cancels, and a step that has to be undone.


def _cancel(workflows: Registry, world: Callable[[], World]) -> None:
    @workflows.workflow("cancel")
    async def cancel(step: Step, input: Any) -> Any:
        here = world()
        await step.do("a", here.effect, "a", undo=here.undo)
        return (await step.wait_for_event("e", type="e")).data


async def _cancel_setup(world: World) -> dict[str, Act]:
    run = await world.start("cancel")

    return {
        "slice": lambda: world.advance(run),
        "canceller": canceller(world, run),
        "publisher": lambda: world.publish("e", 1),
    }


async def _cancel_check(world: World) -> None:
    await publish_again(world, 1)
    status, output = await outcome(world)
    done = world.effects.count("a") > 0
    if status == "completed":
        assert (output, done, "undo a" in world.effects) == (1, True, False)
        return
    assert status == "cancelled"
    recorded = any(key.endswith("/a") and one["status"] == "completed"
                   for key, one in world.finals.items())  # fmt: skip
    assert ("undo a" in world.effects) == recorded, world.effects


# A cancel while a zombie may still record the step that is not there to be undone.


async def _bury_setup(world: World) -> dict[str, Act]:
    run = await world.start("cancel")

    return {
        "slice": lambda: world.advance(run),
        "canceller": canceller(world, run),
        "second": lambda: world.advance(run),
    }


# An event and the deadline of its wait: one of the two, and the event counts if it came in time.


def _deadline(workflows: Registry, world: Callable[[], World]) -> None:
    @workflows.workflow("deadline")
    async def deadline(step: Step, input: Any) -> Any:
        try:
            return (await step.wait_for_event("e", type="e", timeout=10)).data
        except WaitTimedOut:
            return "late"


async def _deadline_setup(world: World) -> dict[str, Act]:
    run = await world.start("deadline")
    await world.advance(run)
    world.clock.move_s(11)
    return {
        "slice": lambda: world.advance(run),
        "second": lambda: world.advance(run),
        "publisher": lambda: world.publish("e", 1),
    }


async def _deadline_check(world: World) -> None:
    status, output = await outcome(world)
    assert status == "completed"
    assert output in (1, "late")


# A child that ends while its parent goes to sleep over it.


def _child(workflows: Registry, world: Callable[[], World]) -> None:
    @workflows.workflow("child")
    async def child(step: Step, input: Any) -> Any:
        return "of the child"

    @workflows.workflow("parent")
    async def parent(step: Step, input: Any) -> Any:
        return await (await step.start("child"))


async def _child_setup(world: World) -> dict[str, Act]:
    run = await world.start("parent")

    async def children() -> None:
        for one in await world.engine.store.due.collection.find({"parent.run": run}).to_list():
            await world.advance(one["_id"])

    return {"parent": lambda: world.advance(run), "child": children, "again": children}


async def _child_check(world: World) -> None:
    for run in world.last:
        assert (run["status"], run["output"]) == ("completed", "of the child")


# Two runs, one slot.


def _slot(workflows: Registry, world: Callable[[], World]) -> None:
    @workflows.workflow("slot", concurrency=Concurrency(limit=1))
    async def slot(step: Step, input: Any) -> Any:
        await world().effect(f"in {input}")
        await step.do("work", world().effect, f"work {input}")
        return input


async def _slot_setup(world: World) -> dict[str, Act]:
    runs = [await world.start("slot", number) for number in range(2)]
    return {
        "one": lambda: world.advance(runs[0]),
        "two": lambda: world.advance(runs[1]),
    }


async def _slot_check(world: World) -> None:
    assert sorted([await outcome(world, 0), await outcome(world, 1)]) == [
        ("completed", 0),
        ("completed", 1),
    ]


# Steps of every kind, two slices, one of them perhaps a zombie.


def _steps(workflows: Registry, world: Callable[[], World]) -> None:
    @workflows.workflow("steps", retry=Retry(attempts=3, first_s=0))
    async def steps(step: Step, input: Any) -> Any:
        here = world()

        async def flaky() -> str:
            await here.effect("flaky")
            if here.effects.count("flaky") == 1:
                raise ValueError
            return "ok"

        try:
            paid = await step.do("pay", here.effect, "paid", at_most_once=True)
        except Interrupted:
            paid = "unknown"
        got = await step.gather(step.do("x", here.effect, "x"), step.do("flaky", flaky))
        return [paid, *got]


async def _steps_setup(world: World) -> dict[str, Act]:
    run = await world.start("steps")
    return {"slice": lambda: world.advance(run), "second": lambda: world.advance(run)}


async def _steps_check(world: World) -> None:
    status, output = await outcome(world)
    assert (status, output[1:]) == ("completed", ["x", "ok"])
    assert world.effects.count("paid") <= 1
    assert output[0] == "unknown" or world.effects.count("paid") == 1
    if not world.faulty:
        # Nobody died: then no step may have run twice, however the slices met.
        assert sorted(world.effects) == ["flaky", "flaky", "paid", "x"]


# A failure with something to undo, two slices.


def _undo(workflows: Registry, world: Callable[[], World]) -> None:
    @workflows.workflow("undo", retry=NO_RETRY)
    async def undo(step: Step, input: Any) -> Any:
        here = world()

        async def bad() -> None:
            raise NonRetryable("bad")

        await step.do("a", here.effect, "a", undo=here.undo)
        await step.do("bad", bad)


async def _undo_setup(world: World) -> dict[str, Act]:
    run = await world.start("undo")
    return {"slice": lambda: world.advance(run), "second": lambda: world.advance(run)}


async def _undo_check(world: World) -> None:
    assert (await outcome(world))[0] == "failed"
    assert "undo a" in world.effects
    assert world.effects.index("a") < world.effects.index("undo a")


# Two events, each for an epoch of its own.


def _again(workflows: Registry, world: Callable[[], World]) -> None:
    @workflows.workflow("again")
    async def again(step: Step, input: Any) -> Any:
        event = await step.wait_for_event("e", type="e")
        if input is not None:
            return sorted([input, event.data])
        await step.continue_as_new(event.data)


async def _again_setup(world: World) -> dict[str, Act]:
    run = await world.start("again")
    await world.publish("e", 1)
    return {
        "slice": lambda: world.advance(run),
        "second": lambda: world.advance(run),
        "publisher": lambda: world.publish("e", 2),
    }


async def _again_check(world: World) -> None:
    await publish_again(world, 2)
    assert await outcome(world) == ("completed", [1, 2])


# Pause and resume against a slice.


def _pause(workflows: Registry, world: Callable[[], World]) -> None:
    @workflows.workflow("pause")
    async def pause(step: Step, input: Any) -> Any:
        await step.do("a", world().effect, "a")
        return (await step.wait_for_event("e", type="e")).data


async def _pause_setup(world: World) -> dict[str, Act]:
    run = await world.start("pause")
    await world.publish("e", 1)
    control = world.engine.control

    async def pause() -> None:
        with contextlib.suppress(Conflict):
            await control.pause(run, client=world.client)

    async def resume() -> None:
        with contextlib.suppress(Conflict):
            await control.resume(run, client=world.client)

    return {"slice": lambda: world.advance(run), "pauser": pause, "resumer": resume}


async def _pause_check(world: World) -> None:
    run = world.last[0]
    if run["status"] == "paused":
        await world.engine.control.resume(run["_id"], client=world.client)
        await world.drain()
    assert await outcome(world) == ("completed", 1)


# Pause against cancel: who was told that his cancel is taken finds no paused run.


async def _halted_setup(world: World) -> dict[str, Act]:
    actors = await _pause_setup(world)
    (run,) = await world.runs()
    cancel = canceller(world, run["_id"])
    return {"slice": actors["slice"], "canceller": cancel, "pauser": actors["pauser"]}


async def _halted_check(world: World) -> None:
    run = world.last[0]
    assert run["status"] in {"completed", "cancelled", "paused"}
    assert not (run["status"] == "paused" and "cancelled" in world.told), "a cancel was forgotten"


# Three starts, batches of two, a slice that takes what is due.


def _batch(workflows: Registry, world: Callable[[], World]) -> None:
    @workflows.workflow("batch", batch=Batch(size=2, timeout_s=5))
    async def batch(step: Step, input: Any) -> Any:
        return input


async def _batch_setup(world: World) -> dict[str, Act]:
    run = await world.start("batch", 0, key="k0")
    world.clock.move_s(6)

    async def start(number: int) -> None:
        await world.start("batch", number, key=f"k{number}")

    return {
        "slice": lambda: world.advance(run),
        "one": lambda: start(1),
        "two": lambda: start(2),
    }


async def _batch_check(world: World) -> None:
    # A starter that died is one who tries again: by its key the start counts once.
    for number in (1, 2):
        await world.start("batch", number, key=f"k{number}")
    await world.drain()
    runs = world.last
    assert all(run["status"] == "completed" for run in runs)
    assert sorted(number for run in runs for number in run["output"]) == [0, 1, 2]
    assert all(len(run["output"]) <= 2 for run in runs), "a batch holds more than its size"


# A singleton that is replaced while it runs.


def _single(workflows: Registry, world: Callable[[], World]) -> None:
    @workflows.workflow("single", singleton=Singleton(replace=True))
    async def single(step: Step, input: Any) -> Any:
        await step.do("a", world().effect, f"a {input}")
        return input


async def _single_setup(world: World) -> dict[str, Act]:
    run = await world.start("single", 0, key="k0")

    async def start(number: int) -> None:
        await world.start("single", number, key=f"k{number}")

    return {
        "slice": lambda: world.advance(run),
        "one": lambda: start(1),
        "two": lambda: start(2),
    }


async def _single_check(world: World) -> None:
    await world.start("single", 9, key="k9")
    await world.drain()
    runs = world.last
    assert {run["status"] for run in runs} <= {"completed", "cancelled"}
    assert [run["status"] for run in runs if run["key"] == "k9"] == ["completed"]


# A limit that was lowered from three to two while three runs are inside: two of them are cancelled,
# and of three that wait just one comes in. Then it is raised, and the other two do.


def _narrowed(workflows: Registry, world: Callable[[], World]) -> None:
    @workflows.workflow("narrowed", concurrency=Concurrency(limit=3))
    async def narrowed(step: Step, input: Any) -> Any:
        await step.sleep(100_000)


def _limited(world: World, limit: int) -> None:
    versions = world.engine.workflows._found["narrowed"]
    flow = Flow(concurrency=Concurrency(limit=limit))
    versions[1] = replace(versions[1], flow=flow)


async def _narrowed_setup(world: World) -> dict[str, Act]:
    _limited(world, 3)
    runs = [await world.start("narrowed", number) for number in range(3)]
    for run in runs:
        await world.advance(run)
    _limited(world, 2)
    waiters = [await world.start("narrowed", number) for number in (3, 4, 5)]

    def leaver(run: str) -> Act:
        async def leave() -> None:
            await canceller(world, run)()
            await world.advance(run)

        return leave

    return {
        "first": lambda: world.advance(waiters[0]),
        "second": lambda: world.advance(waiters[1]),
        "leaver": leaver(runs[0]),
        "another": leaver(runs[1]),
    }


async def _narrowed_check(world: World) -> None:
    inside = [run["input"] for run in world.last if "slot_key" in run]
    gone = [run for run in world.last if run["status"] == "cancelled"]
    assert len(inside) == min(2, 6 - len(gone)) or (world.faulty and len(inside) == 3), inside
    assert len(gone) == 2 or world.faulty
    _limited(world, 5 - len(gone))
    last = next(run["_id"] for run in world.last if run["input"] == 2)
    await world.engine.control.cancel(last, client=world.client)
    await world.drain()
    inside = [run["input"] for run in world.last if "slot_key" in run]
    assert {3, 4, 5} <= set(inside), "the raised limit did not reach who waits"


# A singleton that has failed and is retried, while another run of it is started.


def _sole(workflows: Registry, world: Callable[[], World]) -> None:
    @workflows.workflow("sole", singleton=Singleton(), retry=NO_RETRY)
    async def sole(step: Step, input: Any) -> Any:
        here = world()

        async def once_bad() -> None:
            await here.effect(f"try {input}")
            if here.effects == ["try 0"]:
                raise NonRetryable("the first time")

        await step.do("act", once_bad)
        await step.sleep(100_000)


async def _sole_setup(world: World) -> dict[str, Act]:
    first = await world.start("sole", 0, key="k0")
    await world.advance(first)
    world.told["first"] = first

    async def start(number: int) -> None:
        await world.advance(await world.start("sole", number, key=f"k{number}"))

    async def retry() -> None:
        await retrier(world, first)()
        await world.advance(first)

    return {"retrier": retry, "one": lambda: start(1), "two": lambda: start(2)}


async def _sole_check(world: World) -> None:
    going_on = [run["_id"] for run in world.last if run["status"] == "waiting"]
    assert len(going_on) <= 1, "two runs of a singleton go on"
    assert world.faulty or len(going_on) == 1, "none goes on"
    assert not world.told.get("retries") or going_on == [world.told["first"]]


# A failed run that is retried while its last slice may still be about.


def _retry(workflows: Registry, world: Callable[[], World]) -> None:
    @workflows.workflow("retry", retry=NO_RETRY)
    async def retry(step: Step, input: Any) -> Any:
        here = world()

        async def once_bad() -> str:
            await here.effect("try")
            if here.effects.count("try") == 1:
                raise NonRetryable("the first time")
            return "well"

        event = await step.wait_for_event("e", type="e")
        try:
            return [event.data, await step.do("act", once_bad)]
        except StepFailed as error:
            raise RuntimeError("act failed") from error


async def _retry_setup(world: World) -> dict[str, Act]:
    run = await world.start("retry")
    await world.publish("e", 1)

    retry = retrier(world, run)

    async def slice_and_retry() -> None:
        await world.advance(run)
        await retry()
        await world.advance(run)

    return {"slice": slice_and_retry, "second": lambda: world.advance(run), "retrier": retry}


async def _retry_check(world: World) -> None:
    run = world.last[0]
    if run["status"] == "failed":
        assert run["epoch"] == 0, "a late owner failed it in an epoch that is none of his"
        await world.engine.control.retry(run["_id"], client=world.client)
        await world.drain()
    assert await outcome(world) == ("completed", [1, "well"])


# A run that its starters take at once, while somebody cancels it: begun and owned by one insert.


def _taken(workflows: Registry, world: Callable[[], World]) -> None:
    @workflows.workflow("taken")
    async def taken(step: Step, input: Any) -> Any:
        first = await step.do("a", world().effect, "a")
        return first + await step.do("b", world().effect, "b")


async def _taken_setup(world: World) -> dict[str, Act]:
    names: dict[str, Any] = {"client": world.client, "key": "k", "version": 1}

    async def take() -> None:
        started = await world.engine.take_internal("taken", None, **names)
        run = started.run["_id"]
        await world.engine.advance([run], taken=started.claimed)

    async def cancel() -> None:
        for run in await world.mongo.db["runs"].find({"client": world.client}).to_list():
            with contextlib.suppress(Conflict):
                await world.engine.control.cancel(run["_id"], client=world.client)

    return {"taker": take, "second": take, "canceller": cancel, "poller": world.poll}


async def _taken_check(world: World) -> None:
    assert len(world.last) == 1
    if not world.faulty:
        assert world.effects in ([], ["a"], ["a", "b"])
    if (await outcome(world))[0] != "cancelled":
        assert await outcome(world) == ("completed", "ab")


# A run that is retried and then waits for long: what it needs must not expire meanwhile.


def _revived(workflows: Registry, world: Callable[[], World]) -> None:
    @workflows.workflow("revived", retry=NO_RETRY)
    async def revived(step: Step, input: Any) -> Any:
        here = world()

        async def once_bad() -> None:
            await here.effect("try")
            if here.effects.count("try") == 1:
                raise NonRetryable("the first time")

        await step.do("a", here.effect, "a")
        await step.do("act", once_bad)
        await step.sleep(100_000)


async def _revived_setup(world: World) -> dict[str, Act]:
    run = await world.start("revived")

    retry = retrier(world, run)

    async def retry_and_slice() -> None:
        await retry()
        await world.advance(run)

    return {
        "slice": lambda: world.advance(run),
        "second": lambda: world.advance(run),
        "retrier": retry_and_slice,
    }


async def _revived_check(world: World) -> None:
    run = world.last[0]
    # Once it is retried, only a late owner of the epoch before could fail it.
    assert run["status"] == "waiting" or (run["status"], run["epoch"]) == ("failed", 0)


# Two who retry a run that fails once more: who was told yes has begun an epoch, and nobody twice.


def _retried(workflows: Registry, world: Callable[[], World]) -> None:
    @workflows.workflow("retried", retry=NO_RETRY)
    async def retried(step: Step, input: Any) -> Any:
        here = world()

        async def twice_bad() -> str:
            await here.effect("try")
            if here.effects.count("try") <= 2:
                raise NonRetryable("not yet")
            return "well"

        return await step.do("act", twice_bad)


async def _retried_setup(world: World) -> dict[str, Act]:
    run = await world.start("retried")
    await world.advance(run)
    retry = retrier(world, run)

    async def retry_and_slice() -> None:
        await retry()
        await world.advance(run)

    return {"one": retry_and_slice, "two": retry_and_slice}


async def _retried_check(world: World) -> None:
    run, told = world.last[0], world.told.get("retries", 0)
    assert told <= run["epoch"], "who was told yes has retried nothing"
    assert world.faulty or told == run["epoch"], "an epoch that nobody asked for"
    assert run["status"] == ("failed" if world.effects.count("try") <= 2 else "completed")


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("event", _event, _event_setup, _event_check, weight=2),
        Scenario("cancel", _cancel, _cancel_setup, _cancel_check, weight=2),
        Scenario("bury", _cancel, _bury_setup, _cancel_check, weight=3),
        Scenario("deadline", _deadline, _deadline_setup, _deadline_check),
        Scenario("child", _child, _child_setup, _child_check),
        Scenario("slot", _slot, _slot_setup, _slot_check),
        Scenario("steps", _steps, _steps_setup, _steps_check, weight=4),
        Scenario("undo", _undo, _undo_setup, _undo_check, weight=2),
        Scenario("again", _again, _again_setup, _again_check),
        Scenario("pause", _pause, _pause_setup, _pause_check),
        Scenario("halted", _pause, _halted_setup, _halted_check, weight=0.5),
        Scenario("batch", _batch, _batch_setup, _batch_check),
        Scenario("single", _single, _single_setup, _single_check),
        Scenario("narrowed", _narrowed, _narrowed_setup, _narrowed_check, weight=0.5),
        Scenario("sole", _sole, _sole_setup, _sole_check, weight=0.5),
        Scenario("retry", _retry, _retry_setup, _retry_check),
        Scenario("taken", _taken, _taken_setup, _taken_check),
        Scenario("retried", _retried, _retried_setup, _retried_check, weight=0.5),
        Scenario("revived", _revived, _revived_setup, _revived_check),
        *POLLED,
        *VALUES,
        *HOOKS,
    )
}

"""Crash at every await: the slice is killed at each store call of a reference workflow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pymongo.errors import AutoReconnect

from lambent.clock import EPOCH, FAR_FUTURE
from lambent.engine.options import Concurrency, Retry
from lambent.engine.registry import Registry
from lambent.engine.step import Step
from lambent.errors import NonRetryable, WorkflowError
from lambent.intercept import StoreCall
from lambent.testing import Crash, WorkflowTest

EXPECTED = [1, "retried", [10, 20], "event", 14, "slept", "approved", "again"]
HEARTBEAT_S = 100


class World:
    """What the reference workflow does to the outside, by run."""

    def __init__(self) -> None:
        self.effects: dict[str, list[str]] = {}
        self.tokens: dict[str, str] = {}  # of the callbacks that were handed out

    def note(self, run: str, what: str) -> int:
        seen = self.effects.setdefault(run, [])
        seen.append(what)
        return seen.count(what)


@pytest.fixture
def world() -> World:
    return World()


def registered(world: World) -> Registry:
    workflows = Registry()

    @workflows.workflow("child")
    async def child(step: Step, input: Any) -> Any:
        await step.sleep(5)
        return await step.do("double", lambda: input * 2)

    @workflows.workflow(
        "w", retry=Retry(attempts=5, first_s=3, jitter=False), concurrency=Concurrency(limit=2)
    )
    async def w(step: Step, input: Any) -> Any:
        run, before = input["name"], input.get("before")

        async def act(what: str, value: Any) -> Any:
            world.note(run, what)
            return value

        async def once_bad() -> str:
            if world.note(run, "flaky") == 1:
                raise ValueError("the first time")
            return "retried"

        async def undo(value: Any) -> None:
            world.note(run, f"undo {value}")

        async def square(n: int) -> Any:
            return await step.do("square", act, f"square {n}", n * 10)

        if before is not None:
            return [*before, await step.do("again", act, "again", "again")]
        first = await step.do("first", act, "first", 1, undo=undo)
        flaky = await step.do("flaky", once_bad)
        squares = await step.map("squares", [1, 2], square)
        event = await step.wait_for_event("event", type="e", subject=run)
        doubled = await (await step.start("child", 7))
        await step.sleep(3600)
        if input["fail"]:
            await step.do("second", act, "second", 2, undo=undo)
            raise NonRetryable("to be undone")
        # Not where it is undone: what follows has nothing to undo, and each call costs a run.
        asked = await step.callback("asked", timeout=1000, heartbeat=HEARTBEAT_S)
        world.tokens[run] = asked.token
        done = [first, flaky, squares, event.data, doubled, "slept", await asked]
        await step.continue_as_new({**input, "before": done})

    return workflows


@pytest.fixture
async def test(mongo_uri: str, mongo_db_name: str, world: World) -> AsyncIterator[WorkflowTest]:
    started = WorkflowTest(mongo_uri, workflows=registered(world), db_name=mongo_db_name)
    async with started as one:
        yield one


class Killer:
    """Crashes the slice at the `at`-th store call that is made while one goes on."""

    def __init__(self, test: WorkflowTest, at: int, after: bool) -> None:
        self.test = test
        self.at = at
        self.after = after
        self.calls = 0
        self.killed: StoreCall | None = None
        self.overlapping: list[int] = []
        self.checkpoints: list[int] = []
        self._on_the_way = 0

    async def gate(self, call: StoreCall, make: Any) -> Any:
        if not self.test.in_slice:
            return await make()
        self.calls += 1
        if self.calls == self.at:
            self.killed = call
            if self.after:
                await make()
            raise Crash(str(call))
        if str(call).startswith(("steps.insert_one(", "steps.update_one(")):
            self.checkpoints.append(self.calls)
        if self._on_the_way:
            self.overlapping.append(self.calls)
        self._on_the_way += 1
        try:
            return await make()
        finally:
            self._on_the_way -= 1


async def answer(test: WorkflowTest, world: World, name: str) -> None:
    """Hold the run's callback: keep it alive beyond its silence, then complete it."""
    await test.pass_time(3600)  # it sleeps so long first
    async with asyncio.timeout(60):
        while name not in world.tokens:
            await test.pass_time(HEARTBEAT_S / 2)
    callbacks, token = test.engine.callbacks, world.tokens[name]
    for _ in range(2):
        await callbacks.heartbeat(token)
        await test.pass_time(HEARTBEAT_S * 0.8)
    await callbacks.complete(token, "approved")


async def run_once(
    test: WorkflowTest, world: World, name: str, killer: Killer, *, fail: bool
) -> str:
    run_id = await test.start("w", {"name": name, "fail": fail})
    await test.send("e", "event", subject=name)
    test.gate = killer.gate
    try:
        if fail:
            with pytest.raises(WorkflowError, match="to be undone"):
                await test.finish(run_id)
        else:
            await answer(test, world, name)
            assert await test.finish(run_id) == EXPECTED
    finally:
        test.gate = None
    return run_id


async def check(
    test: WorkflowTest, world: World, run_id: str, name: str, *, fail: bool
) -> set[str]:
    """Nothing is left leased, due or without expiry; effects and checkpoints agree. The effects
    that happened once more than they were recorded."""
    await test.pass_time(60)
    for document in await test.store.mongo.db["runs"].find({"lease": {"$ne": None}}).to_list():
        raise AssertionError(f"leased: {document}")
    run = await test.document(run_id)
    assert (run["due_at"], run["lease_until"], run["owes"]) == (FAR_FUTURE, EPOCH, [])
    assert run["expire_at"] > run["finished_at"]
    steps = await test.store.mongo.db["steps"].find({"run": run_id}).to_list()
    assert all("expire_at" in one for one in steps)
    expected = {"first": 1, "flaky": 2, "square 1": 1, "square 2": 1}
    if fail:
        expected |= {"second": 1, "undo 1": 1, "undo 2": 1}
    else:
        expected |= {"again": 1}
    seen = {what: world.effects[name].count(what) for what in world.effects[name]}
    assert seen.keys() == expected.keys()
    # One crash: at most one effect happened without its checkpoint, and so happened again.
    assert 0 <= sum(seen.values()) - sum(expected.values()) <= 1
    return {what for what, times in seen.items() if times > expected[what]}


@pytest.mark.parametrize("fail", [False, True], ids=["completes", "is undone"])
@pytest.mark.parametrize("after", [False, True], ids=["before it", "after it"])
async def test_a_slice_may_die_at_any_store_call(
    test: WorkflowTest, world: World, fail: bool, after: bool
) -> None:
    # An engine's first slice looks at the workflow's limit, too: that is not to move the calls.
    await run_once(test, world, "first of all", Killer(test, 0, after), fail=fail)
    clean = Killer(test, 0, after)
    await run_once(test, world, "clean", clean, fail=fail)
    assert clean.calls > 40
    # To die before a call is to die after the one before it, unless they were made side by side,
    # or the author's code has run in between: an effect without its checkpoint.
    points = {*range(1, clean.calls + 1)} if after else {1, *clean.overlapping, *clean.checkpoints}
    again: set[str] = set()
    for at in sorted(points):
        killer = Killer(test, at, after)
        name = f"crash-{at}"
        try:
            run_id = await run_once(test, world, name, killer, fail=fail)
            again |= await check(test, world, run_id, name, fail=fail)
        except BaseException as error:
            error.add_note(f"killed at call {at}: {killer.killed}, after={after}, fail={fail}")
            raise
    if not after:
        assert again == set(world.effects["clean"]), "each effect is to be seen without its record"


async def test_any_acknowledgement_may_be_lost(test: WorkflowTest, world: World) -> None:
    """Each call is done, but its answer is a broken connection: it is asked again, or read."""
    test.clock.sleep = _briefly  # type: ignore[method-assign]
    clean = Killer(test, 0, False)
    await run_once(test, world, "clean", clean, fail=True)
    for at in range(1, clean.calls + 1):
        deaf = Deaf(test, at)
        name = f"lost-{at}"
        try:
            run_id = await run_once(test, world, name, deaf, fail=True)
            await check(test, world, run_id, name, fail=True)
            run = await test.document(run_id)
            assert run["marks"] == [f"key:test:{run_id}"]
        except BaseException as error:
            error.add_note(f"lost the answer of call {at}: {deaf.killed}")
            raise


class Deaf(Killer):
    """Does not hear the answer of the `at`-th store call."""

    def __init__(self, test: WorkflowTest, at: int) -> None:
        super().__init__(test, at, True)

    async def gate(self, call: StoreCall, make: Any) -> Any:
        answer = await make()
        if self.test.in_slice:
            self.calls += 1
            if self.calls == self.at:
                self.killed = call
                raise AutoReconnect("the answer was lost")
        return answer


async def _briefly(seconds: float) -> None:
    await asyncio.sleep(min(seconds, 0.001))

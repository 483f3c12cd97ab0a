"""A run that gathers starts but cannot be joined gives its place to the next one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from lambent.bus.delivery import Outcome
from lambent.engine.listing import RunFilter
from lambent.engine.options import Batch, Debounce
from lambent.engine.registry import Registry
from lambent.engine.step import Step
from lambent.intercept import StoreCall
from lambent.testing import CLIENT, WorkflowTest
from tests.store.engine_scenario import CONFIG
from tests.store.engine_world import World

FLOWS: dict[str, dict[str, Any]] = {
    "debounced": {"debounce": Debounce(period_s=10)},
    "batched": {"batch": Batch(size=5, timeout_s=10)},
}


async def echo(step: Step, input: Any) -> Any:
    return input


async def brought_to(state: str, test: WorkflowTest, workflows: Registry, run: str) -> None:
    control = test.engine.control
    match state:
        case "cancelling":
            await control.cancel(run, client=CLIENT)
        case "pausing":
            await control.pause(run, client=CLIENT)
        case "paused" | "resumed" | "restarted":
            await control.pause(run, client=CLIENT)
            await test.settle()
        case "blocked":
            workflows._found["w"][2] = workflows._found["w"].pop(1)
            await test.pass_time(11)
            workflows._found["w"][1] = workflows._found["w"].pop(2)
    if state == "resumed":
        await control.resume(run, client=CLIENT)
    if state == "restarted":
        await control.restart(run, client=CLIENT)


@pytest.mark.parametrize("flow", list(FLOWS))
@pytest.mark.parametrize(
    "state", ["cancelling", "pausing", "paused", "resumed", "restarted", "blocked"]
)
async def test_a_start_that_finds_a_run_it_cannot_join_begins_the_next(
    test: WorkflowTest, workflows: Registry, flow: str, state: str
) -> None:
    workflows.workflow("w", **FLOWS[flow])(echo)
    first = await test.start("w", 1, key="k1")
    await brought_to(state, test, workflows, first)
    second = await test.start("w", 2, key="k2")
    assert second != first
    assert await test.start("w", 3, key="k3") == second, "nobody joins the next one"
    assert await test.start("w", 2, key="k2") == second, "a start counts twice"
    assert await test.finish(second) == (3 if flow == "debounced" else [2, 3])
    if state in {"pausing", "paused"}:
        await test.engine.control.resume(first, client=CLIENT)
    if state != "cancelling":
        assert await test.finish(first) == (1 if flow == "debounced" else [1])


@pytest.mark.parametrize("flow", list(FLOWS))
async def test_a_start_joins_no_run_of_another_version(
    test: WorkflowTest, workflows: Registry, flow: str
) -> None:
    workflows.workflow("w", **FLOWS[flow])(echo)
    before = await test.start("w", 1)
    workflows.workflow("w", version=2, **FLOWS[flow])(echo)
    gone = workflows._found["w"].pop(1)
    after = await test.start("w", 2)
    assert after != before
    assert await test.finish(after) == (2 if flow == "debounced" else [2])
    assert (await test.run(before)).status == "blocked"
    workflows._found["w"][1] = gone
    await test.pass_time(600)
    assert await test.finish(before) == (1 if flow == "debounced" else [1])


def kept_busy(world: World) -> Callable[[StoreCall, Callable[[], Awaitable[Any]]], Awaitable[Any]]:
    """Somebody else joins the gathering run just before each join of ours."""

    async def gate(call: StoreCall, make: Callable[[], Awaitable[Any]]) -> Any:
        if (call.collection, call.name) == ("runs", "update_one") and "marks" in call.args[0]:
            await world.mongo.db["runs"].update_one(
                {"_id": call.about}, {"$inc": {"signals": 1, "gathered": 1}}
            )
        return await make()

    return gate


async def test_a_workflow_that_cannot_be_started_now_keeps_no_other_from_it(
    test: WorkflowTest, workflows: Registry
) -> None:
    workflows.workflow("busy", on="e", debounce=Debounce(period_s=10))(echo)
    workflows.workflow("w", on="e")(echo)
    world = World(test._mongo, workflows, config=CONFIG)
    await world.publish("e", 1)
    world.gate = kept_busy(world)
    await world.publish("e", 2)
    page = await world.engine.control.list_runs(RunFilter(client=world.client))
    assert sorted(run.workflow for run in page.runs) == ["busy", "w", "w"]
    world.gate = None
    world.clock.move_s(60)
    (event,) = world.undelivered
    ends_s = world.clock.monotonic_s() + 60
    assert await world.deliverer.deliver_due([event], deadline_s=ends_s) == [Outcome.DELIVERED]
    page = await world.engine.control.list_runs(RunFilter(client=world.client))
    assert sorted(run.workflow for run in page.runs) == ["busy", "w", "w"]
    busy = next(run for run in page.runs if run.workflow == "busy")
    assert busy.input["data"] == 2, "the event was not delivered again"

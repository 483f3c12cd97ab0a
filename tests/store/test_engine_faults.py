"""Faults that are no crash: acknowledgements that get lost, and what they must not leave behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import pytest
from pymongo.errors import AutoReconnect

from lambent.engine.config import Generated
from lambent.engine.engine import WorkflowEngine
from lambent.engine.options import Batch, Concurrency, Debounce, RateLimit
from lambent.engine.registry import Registry
from lambent.engine.step import Step
from lambent.engine.tenure import Did
from lambent.errors import NonRetryable
from lambent.intercept import StoreCall
from lambent.testing import CLIENT, Crash, WorkflowTest
from tests.store.test_engine_races import Paused


@pytest.fixture
def test(test: WorkflowTest) -> WorkflowTest:
    test.clock.sleep = _briefly  # type: ignore[method-assign]
    return test


async def _briefly(seconds: float) -> None:
    await asyncio.sleep(min(seconds, 0.001))


def lose_the_acknowledgement(
    test: WorkflowTest, of: Callable[[StoreCall], bool], *, nth: int = 1
) -> list[str]:
    """The call is done, but whoever made it hears of a broken connection; which ones were."""
    seen: list[str] = []

    async def gate(call: StoreCall, make: Any) -> Any:
        answer = await make()
        if of(call):
            seen.append(str(call))
            if len(seen) == nth:
                raise AutoReconnect("the acknowledgement was lost")
        return answer

    test.gate = gate
    return seen


def changes(call: StoreCall, name: str) -> bool:
    return call.name == "update_one" and name in call.args[1].get("$set", {})


async def test_a_slot_whose_taking_was_not_acknowledged_is_taken_once_and_given_back(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w", concurrency=Concurrency(limit=2))
    async def w(step: Step, input: Any) -> Any:
        await step.sleep(10)

    first = await test.start("w")
    seen = lose_the_acknowledgement(test, lambda call: changes(call, "slot_key"))
    await test.settle()
    assert seen
    held = [mark for mark in (await test.document(first))["marks"] if mark.startswith("slot:")]
    assert len(held) == 1
    test.gate = None
    await test.finish(first)
    left = [mark for mark in (await test.document(first))["marks"] if mark.startswith("slot:")]
    assert left == []


async def test_a_start_whose_number_was_not_acknowledged_counts_once(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w", rate_limit=RateLimit(limit=2, period_s=3600))
    async def w(step: Step, input: Any) -> Any: ...

    first = await test.start("w")
    seen = lose_the_acknowledgement(test, lambda call: changes(call, "rate_no"))
    await test.settle()
    assert seen
    marks = [one for one in (await test.document(first))["marks"] if one.startswith("starts:")]
    assert len(marks) == 1


async def test_the_input_of_a_start_that_joins_another_run_expires_with_that_run(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("last", debounce=Debounce(period_s=5))
    async def last(step: Step, input: Any) -> Any:
        return len(input)

    @workflows.workflow("all", batch=Batch(size=2, timeout_s=5))
    async def every(step: Step, input: Any) -> Any:
        return [len(one) for one in input]

    for name, expected in (("last", 2_000_000), ("all", [1_500_000, 2_000_000])):
        run_id = await test.start(name, "x" * 1_500_000)
        assert await test.start(name, "y" * 2_000_000) == run_id
        assert await test.finish(run_id) == expected
    chunks = await test.store.mongo.db["chunks"].find({}, {"expire_at": 1}).to_list()
    assert chunks
    assert all("expire_at" in one for one in chunks), "left for ever"


async def test_the_input_of_a_start_that_is_known_already_leaves_nothing_behind(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any: ...

    big = "x" * 1_500_000
    run_id = await test.start("w", big, key="k")
    before = await test.store.mongo.db["chunks"].count_documents({})
    assert await test.start("w", big, key="k") == run_id
    assert await test.store.mongo.db["chunks"].count_documents({}) == before


class Heard:
    """What the engine says to the functions."""

    def __init__(self) -> None:
        self.nudged: list[str] = []
        self.rung: list[datetime] = []

    async def nudge(self, run_ids: Sequence[str]) -> None:
        self.nudged += run_ids

    async def ring(self, due_at: datetime) -> None:
        self.rung.append(due_at)


async def test_a_poller_is_rung_for_a_start_that_waits_for_others(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("last", debounce=Debounce(period_s=5))
    async def last(step: Step, input: Any) -> Any: ...

    @workflows.workflow("plain")
    async def plain(step: Step, input: Any) -> Any: ...

    heard = Heard()
    engine = WorkflowEngine(test.store, workflows=workflows, nudger=heard)
    gathered = (await engine.start("last", client=CLIENT)).run
    at_once = (await engine.start("plain", client=CLIENT)).run
    assert (heard.rung, heard.nudged) == ([gathered["due_at"]], [at_once["_id"]])


def ends_a_run(call: StoreCall) -> bool:
    return changes(call, "finished_at") and call.collection == "runs"


@pytest.mark.parametrize("fails", [True, False])
async def test_an_end_that_was_not_acknowledged_pays_its_debts_at_once(
    test: WorkflowTest, workflows: Registry, fails: bool
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        if fails:
            raise NonRetryable("as asked")
        return "done"

    run_id = await test.start("w")
    seen = lose_the_acknowledgement(test, ends_a_run)
    assert (await test.engine.advance([run_id]))[run_id].did is Did.ENDED
    assert seen
    run = await test.document(run_id)
    assert (run["status"], run["owes"]) == ("failed" if fails else "completed", [])


async def test_an_end_that_was_not_acknowledged_does_not_end_the_retry_of_the_run_too(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        if step.attempt_of_run == 0:
            raise NonRetryable("as asked")
        return "done"

    run_id = await test.start("w")

    async def gate(call: StoreCall, make: Any) -> Any:
        answer = await make()
        if ends_a_run(call):
            test.gate = None
            await test.engine.control.retry(run_id, client=CLIENT)
            raise AutoReconnect("the acknowledgement was lost")
        return answer

    test.gate = gate
    assert (await test.engine.advance([run_id]))[run_id].did is Did.ENDED
    run = await test.run(run_id)
    assert (run.status, run.output, run.epoch) == ("completed", "done", 1)


async def test_a_decision_to_undo_that_was_not_acknowledged_is_carried_out_at_once(
    test: WorkflowTest, workflows: Registry
) -> None:
    done: list[str] = []

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await step.do("act", lambda: done.append("act"), undo=lambda _: done.append("undo"))
        raise NonRetryable("as asked")

    run_id = await test.start("w")
    seen = lose_the_acknowledgement(test, lambda call: changes(call, "ending"))
    assert (await test.engine.advance([run_id]))[run_id].did is Did.ENDED
    assert seen
    assert done == ["act", "undo"]


async def test_a_new_epoch_that_was_not_acknowledged_begins_at_once(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        if input < 2:
            await step.continue_as_new(input + 1)
        return input

    run_id = await test.start("w", 0)
    seen = lose_the_acknowledgement(test, lambda call: changes(call, "base_epoch"))
    assert (await test.engine.advance([run_id]))[run_id].did is Did.ENDED
    assert seen
    run = await test.run(run_id)
    assert (run.output, run.epoch) == (2, 2)


async def test_a_settle_that_was_not_acknowledged_says_when_the_run_wants_to_go_on(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await step.sleep(10)

    run_id = await test.start("w")
    seen = lose_the_acknowledgement(test, lambda call: changes(call, "settled"))
    verdict = (await test.engine.advance([run_id]))[run_id]
    assert seen
    assert verdict.did is Did.WAITING
    assert verdict.due_at == (await test.document(run_id))["due_at"]


BIG = "x" * 1_500_000


async def die_at(test: WorkflowTest, call: str, *, after: bool) -> None:
    """A starter that dies there."""
    test.crash_at(call, after=after)
    test.in_slice = True
    with pytest.raises(Crash):
        await test.start("w", BIG)
    test.in_slice = False


async def expiries(test: WorkflowTest) -> list[bool]:
    chunks = await test.store.mongo.db["chunks"].find({}, {"expire_at": 1}).to_list()
    return ["expire_at" in one for one in chunks]


async def test_the_chunks_of_a_starter_that_died_before_its_run_expire(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any: ...

    await die_at(test, "runs.insert_one", after=False)
    assert await test.store.mongo.db["runs"].count_documents({}) == 0
    assert await expiries(test) == [True]


@pytest.mark.parametrize(
    ("call", "after"), [("runs.insert_one", True), ("chunks.update_many", True), (None, False)]
)
async def test_the_chunks_of_an_input_do_not_expire_under_their_run(
    test: WorkflowTest, workflows: Registry, call: str | None, after: bool
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await step.sleep(100 * 86400)
        return len(input)

    if call is None:
        await test.start("w", BIG)
        assert await expiries(test) == [False]
    else:
        await die_at(test, call, after=after)
    await test.settle()
    assert await expiries(test) == [False]
    (run,) = await test.store.mongo.db["runs"].find({}).to_list()
    assert "untaken" not in run
    assert await test.finish(run["_id"]) == len(BIG)
    assert await expiries(test) == [True]


async def test_the_chunks_of_a_start_that_could_not_join_expire_by_themselves(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w", debounce=Debounce(period_s=5))
    async def w(step: Step, input: Any) -> Any: ...

    await test.start("w", "small")
    steps: list[str] = []

    async def gate(call: StoreCall, make: Any) -> Any:
        if "$push" in str(call.args[1:]) and "another joins" not in steps:
            steps.append("another joins")
            await test.start("w", "quicker")
        answer = await make()
        if (call.collection, call.name) == ("chunks", "update_many"):
            steps.append("moved")
            if steps.count("moved") == 2:  # to the run that it was to join, and back
                raise Crash("before its second try")
        return answer

    test.gate = gate
    with pytest.raises(Crash):
        await test.start("w", BIG)
    test.gate = None
    assert await expiries(test) == [True]


@pytest.mark.parametrize("after", [True, False])
async def test_the_chunks_of_a_start_that_joined_a_run_do_not_expire_under_it(
    test: WorkflowTest, workflows: Registry, after: bool
) -> None:
    @workflows.workflow("w", debounce=Debounce(period_s=5))
    async def w(step: Step, input: Any) -> Any:
        await step.sleep(100 * 86400)
        return len(input)

    await test.start("w", "small")
    # The joining is done; what says that the chunks are the run's is not, or just so.
    test.crash_at("chunks.update_many", nth=2, after=after)
    test.in_slice = True
    with pytest.raises(Crash):
        await test.start("w", BIG)
    test.in_slice = False
    await test.pass_time(6)
    assert await expiries(test) == [False]
    (run,) = await test.store.mongo.db["runs"].find({}).to_list()
    assert await test.finish(run["_id"]) == len(BIG)
    assert await expiries(test) == [True]


async def test_a_starter_that_comes_late_takes_no_expiry_from_a_run_that_has_ended(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any: ...

    paused = Paused(lambda call: (call.collection, call.name) == ("chunks", "update_many"))
    test.gate = paused.gate
    starting = asyncio.create_task(test.start("w", BIG))
    await paused.reached.wait()
    await test.settle()
    assert (await test.store.mongo.db["runs"].find_one({}) or {})["status"] == "completed"
    paused.let_go()
    await starting
    assert await expiries(test) == [True]


async def test_a_journal_that_is_read_twice_counts_what_was_spent_once(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await step.generate("say", prompt="hi")
        await step.wait_for_event("e", type="e")

    test.model.say(Generated("hello", tokens=60))
    run_id = await test.start("w", budget=100)
    await test.settle()
    control = test.engine.control
    await control.pause(run_id, client=CLIENT)
    await test.settle()
    await control.restart(run_id, client=CLIENT, step="e")
    # Once its records are counted, the wait that the restart cut off is closed.
    seen = lose_the_acknowledgement(test, lambda call: changes(call, "closed_at"))
    await test.settle()
    assert seen
    assert (await test.run(run_id)).spent == 60

"""The author's API: what each call promises, over the real store with virtual time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from lambent.engine.config import Generated
from lambent.engine.listing import RunFilter
from lambent.engine.options import Retry
from lambent.engine.registry import Registry
from lambent.engine.step import Step
from lambent.errors import (
    BreakerOpen,
    Conflict,
    Interrupted,
    NonRetryable,
    RetryAfter,
    StepFailed,
    StepTimedOut,
    Unprocessable,
    WorkflowError,
)
from lambent.testing import CLIENT, WorkflowTest
from tests.store.conftest import Effects


@dataclass(frozen=True)
class Money:
    amount: Decimal
    note: bytes = b""


async def test_a_step_runs_once_however_often_the_run_is_replayed(
    test: WorkflowTest, workflows: Registry, effects: Effects
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        first = await step.do("first", effects.do, 1)
        await step.sleep(timedelta(days=30))
        return first + await step.do("second", effects.do, 2)

    assert await test.finish(await test.start("w")) == 3
    assert effects.seen == [1, 2]


async def test_a_step_returns_at_first_what_a_replay_would_read(
    test: WorkflowTest, workflows: Registry
) -> None:
    kinds: list[Any] = []

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        value = await step.do("value", lambda: {"m": Money(Decimal("1.5"), b"x"), "t": (1, 2)})
        kinds.append(value)
        await step.sleep(60)
        return value["m"]

    assert await test.finish(await test.start("w")) == Money(Decimal("1.5"), b"x")
    assert kinds[0] == kinds[1]
    assert type(kinds[0]["t"]) is tuple


async def test_a_failing_step_is_tried_again_with_rests_between(
    test: WorkflowTest, workflows: Registry, effects: Effects
) -> None:
    act = effects.failing(ValueError("one"), ValueError("two"))

    @workflows.workflow("w", retry=Retry(attempts=3, first_s=100, jitter=False, cap_s=1000))
    async def w(step: Step, input: Any) -> Any:
        return await step.do("act", act)

    began = test.clock.now()
    run_id = await test.start("w")
    assert await test.finish(run_id) == "done"
    assert (test.clock.now() - began).total_seconds() == pytest.approx(300, abs=1)
    assert [one.attempts for one in await test.journal(run_id)] == [3]


async def test_a_step_that_never_works_fails_with_its_name_and_can_be_caught(
    test: WorkflowTest, workflows: Registry, effects: Effects
) -> None:
    act = effects.failing(*[KeyError("gone")] * 9)
    caught: list[StepFailed] = []

    @workflows.workflow("w", retry=Retry(attempts=2, first_s=5))
    async def w(step: Step, input: Any) -> Any:
        try:
            await step.do("act", act)
        except StepFailed as error:
            caught.append(error)
        await step.sleep(100)
        return "went on"

    assert await test.finish(await test.start("w")) == "went on"
    assert [(one.step, one.type, one.attempts) for one in caught] == [("act", "KeyError", 2)] * 2
    assert len(effects.seen) == 2


async def test_non_retryable_ends_the_attempts_at_once(
    test: WorkflowTest, workflows: Registry, effects: Effects
) -> None:
    act = effects.failing(NonRetryable("no use"))

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        return await step.do("act", act)

    run_id = await test.start("w")
    with pytest.raises(WorkflowError, match="no use"):
        await test.finish(run_id)
    assert len(effects.seen) == 1
    assert (await test.run(run_id)).status == "failed"


async def test_retry_after_says_when(
    test: WorkflowTest, workflows: Registry, effects: Effects
) -> None:
    act = effects.failing(RetryAfter(7200))

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        return await step.do("act", act)

    began = test.clock.now()
    await test.finish(await test.start("w"))
    assert (test.clock.now() - began).total_seconds() == pytest.approx(7200, abs=1)


async def test_a_step_past_its_timeout_is_stopped_and_counts_as_failed(
    test: WorkflowTest, workflows: Registry
) -> None:
    import asyncio

    stopped: list[bool] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            stopped.append(True)
            raise

    @workflows.workflow("w", retry=Retry(attempts=2, first_s=0))
    async def w(step: Step, input: Any) -> Any:
        with pytest.raises(StepTimedOut):
            await step.do("slow", slow, timeout=0.05)
        return "late"

    assert await test.finish(await test.start("w")) == "late"
    assert stopped == [True, True]


async def test_a_plain_function_runs_beside_the_loop(
    test: WorkflowTest, workflows: Registry
) -> None:
    import threading

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        def where() -> str:
            return threading.current_thread().name

        return await step.do("where", where)

    assert await test.finish(await test.start("w")) != threading.main_thread().name


async def test_generate_sleeps_out_an_open_breaker_without_spending_an_attempt(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w", retry=Retry(attempts=1))
    async def w(step: Step, input: Any) -> Any:
        return await step.generate("say", prompt="hi")

    test.model.say(BreakerOpen(retry_after_s=30), BreakerOpen(retry_after_s=30), "hello")
    run_id = await test.start("w")
    assert await test.finish(run_id) == {"text": "hello"}
    assert (await test.run(run_id)).spent == 1


async def test_a_run_over_its_budget_is_blocked_until_it_is_raised(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        return [await step.generate("say", prompt=str(n)) for n in range(3)]

    test.model.say(*[Generated(n, tokens=60) for n in range(3)])
    run_id = await test.start("w", budget=100)
    await test.settle()
    run = await test.run(run_id)
    assert (run.status, run.blocked and run.blocked["reason"]) == ("blocked", "budget")
    with pytest.raises(Conflict, match="larger budget"):
        await test.engine.control.resume(run_id, client=CLIENT)
    await test.engine.control.resume(run_id, client=CLIENT, budget=500)
    assert await test.finish(run_id) == [0, 1, 2]
    assert (await test.run(run_id)).spent == 180


async def test_a_restart_gives_back_nothing_of_what_was_spent(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        return [await step.generate("say", prompt=str(n)) for n in range(2)]

    test.model.say(*[Generated(n, tokens=60) for n in range(4)])
    run_id = await test.start("w", budget=50)
    await test.settle()
    for _ in range(2):
        await test.engine.control.restart(run_id, client=CLIENT)
        await test.settle()
        run = await test.run(run_id)
        assert (run.status, run.spent) == ("blocked", 60)
    await test.engine.control.resume(run_id, client=CLIENT, budget=500)
    assert await test.finish(run_id) == [1, 2]
    assert (await test.run(run_id)).spent == 180


async def test_children_spend_of_their_parents_budget(
    test: WorkflowTest, workflows: Registry
) -> None:
    failing = [True]

    @workflows.workflow("child")
    async def child(step: Step, input: Any) -> Any:
        said = await step.generate("say", prompt="x")
        if failing and failing.pop():
            raise ValueError("broken")
        return said

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        first = await (await step.start("child"))
        return [first, await (await step.start("child", name="second", budget=1_000))]

    test.model.say(*[Generated(n, tokens=60) for n in range(4)])
    run_id = await test.start("w", budget=100)
    await test.settle()
    run = await test.run(run_id)
    assert (run.status, run.spent) == ("failed", 60)
    await test.engine.control.retry(run_id, client=CLIENT)
    await test.settle()
    found = (await test.engine.control.list_runs(RunFilter(client=CLIENT, workflow="child"))).runs
    second, first = sorted(found, key=lambda one: one.budget or 0)  # of one instant
    assert (first.budget, first.spent, first.status) == (100, 60, "completed")
    assert (second.budget, second.spent) == (40, 60)
    assert await test.finish(run_id) == [0, 1]
    assert (await test.run(run_id)).spent == 120


async def test_a_child_that_is_awaited_twice_is_paid_once(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("child")
    async def child(step: Step, input: Any) -> Any:
        return await step.generate("say", prompt="x")

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        started = await step.start("child")
        return [await started, await started]

    test.model.say(Generated(0, tokens=60))
    run_id = await test.start("w")
    assert await test.finish(run_id) == [0, 0]
    assert (await test.run(run_id)).spent == 60


async def test_a_child_that_was_refused_is_refused_again_whatever_is_deployed(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("child", input=int)
    async def child(step: Step, input: Any) -> Any:
        return input

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        try:
            await step.start("child", "no number")
        except Unprocessable as error:
            said = error.detail
            assert "'child'" in said
            assert isinstance(error.__cause__, StepFailed)
        await step.do("instead", lambda: None)
        await step.sleep(60)
        return said

    run_id = await test.start("w")
    await test.settle()
    assert (await test.run(run_id)).status == "waiting"
    assert "no number" not in await test.finish(run_id)
    kinds = [(one.kind, one.status) for one in await test.journal(run_id)]
    assert kinds[0] == ("child", "failed")


async def test_progress_is_shown_and_told_once(test: WorkflowTest, workflows: Registry) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        for percent in (0, 50, 100):
            await step.progress({"percent": percent})
            await step.sleep(10)

    run_id = await test.start("w")
    await test.settle()
    await test.pass_time(11)
    run = await test.run(run_id)
    assert run.progress is not None
    assert run.progress["value"] == {"percent": 50}
    await test.finish(run_id)
    told = [one.output for one in await test.journal(run_id) if one.kind == "progress"]
    assert told == [{"percent": 0}, {"percent": 50}, {"percent": 100}]


async def test_continue_as_new_begins_again_and_keeps_events_consumed(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        event = await step.wait_for_event("n", type="n")
        if len(input) == 2:
            return [*input, event.data]
        await step.continue_as_new([*input, event.data])

    run_id = await test.start("w", [])
    for number in range(3):
        await test.settle()
        await test.send("n", number)
    assert await test.finish(run_id) == [0, 1, 2]
    assert (await test.run(run_id)).epoch == 2


async def test_now_uuid_and_random_are_the_same_at_each_replay(
    test: WorkflowTest, workflows: Registry
) -> None:
    seen: list[Any] = []

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        pick = (await step.random()).random()
        seen.append((await step.now(), await step.uuid(), await step.uuid(), pick))
        await step.sleep(1000)

    await test.finish(await test.start("w"))
    assert seen[0] == seen[1]
    assert seen[0][1] != seen[0][2]


async def test_an_at_most_once_step_whose_slice_died_is_interrupted(
    test: WorkflowTest, workflows: Registry, effects: Effects
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        with pytest.raises(Interrupted):
            await step.do("pay", effects.do, "paid", at_most_once=True)
        return "unknown"

    test.crash_at("steps.update_one")
    assert await test.finish(await test.start("w")) == "unknown"
    assert effects.seen == ["paid"]


async def test_a_redacted_output_is_kept_but_shown_to_nobody(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        secret = await step.do("secret", lambda: "s3cret", redact=True)
        await step.sleep(10)
        return len(secret)

    run_id = await test.start("w")
    assert await test.finish(run_id) == 6
    shown = (await test.journal(run_id))[0]
    assert (shown.output, shown.redacted) == (None, True)


async def test_what_goes_wrong_in_a_redacted_step_is_shown_to_nobody_either(
    test: WorkflowTest, workflows: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    @workflows.workflow("w", retry=Retry(attempts=2))
    async def w(step: Step, input: Any) -> Any:
        def leaky() -> None:
            raise ValueError("the password s3cret is wrong")

        await step.do("open", lambda: "s3cret", redact=True, undo=lambda _: leaky())
        await step.do("log in", leaky, redact=True)

    run_id = await test.start("w")
    await test.settle()
    between = await test.journal(run_id)
    await test.pass_time(3600)
    run = await test.run(run_id)
    assert (run.status, run.error and run.error["type"]) == ("failed", "ValueError")
    assert run.error
    assert [one["step"] for one in run.error["undo_failed"]] == ["open"]
    said = repr([between, run, await test.journal(run_id), await test.document(run_id)])
    assert "s3cret" not in said + caplog.text


async def test_a_value_of_many_megabytes_goes_into_chunks_by_itself(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        big = await step.do("big", lambda: input * 20)
        await step.sleep(10)
        return big

    found = await test.finish(await test.start("w", b"x" * 1_200_000))
    assert len(found) == 24_000_000


@pytest.mark.parametrize(
    ("gives", "named"),
    [
        (lambda step: step.progress(object()), "progress"),
        (lambda step: step.start("child", object(), name="odd one"), "odd one"),
        (lambda step: step.wait_until("odd one", object), "odd one"),
        (lambda step: step.continue_as_new(object()), "continue_as_new"),
        (lambda step: _given(object()), "What the run returned"),
    ],
)
async def test_a_value_that_cannot_be_kept_is_named_by_its_place(
    test: WorkflowTest, workflows: Registry, gives: Any, named: str
) -> None:
    @workflows.workflow("child")
    async def child(step: Step, input: Any) -> Any: ...

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        return await gives(step)

    run = await test.start("w")
    with pytest.raises(WorkflowError, match=rf"{named}.*cannot be kept.*builtins\.object"):
        await test.finish(run)
    assert "open" not in {one.status for one in await test.journal(run)}


async def _given(value: Any) -> Any:
    return value


async def test_a_coroutine_is_no_function(test: WorkflowTest, workflows: Registry) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        coroutine = _given(1)
        try:
            await step.do("odd one", coroutine)  # type: ignore[arg-type]
        finally:
            coroutine.close()

    with pytest.raises(WorkflowError, match=r"odd one.*needs a function"):
        await test.finish(await test.start("w"))


async def test_a_value_that_cannot_be_kept_fails_its_step_by_name(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await step.do("odd one", object)

    with pytest.raises(WorkflowError, match=r"odd one.*cannot be kept.*builtins\.object"):
        await test.finish(await test.start("w"))

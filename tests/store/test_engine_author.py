"""The author's API: what each call promises, over the real store with virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from lambent.engine.config import Generated
from lambent.engine.control import RunFilter
from lambent.engine.options import Retry
from lambent.engine.registry import Registry
from lambent.engine.step import Step
from lambent.errors import (
    BreakerOpen,
    CallbackFailed,
    ChildFailed,
    Conflict,
    Interrupted,
    NonRetryable,
    RetryAfter,
    StepFailed,
    StepTimedOut,
    WaitTimedOut,
    WorkflowError,
)
from lambent.testing import CLIENT, WorkflowTest


@dataclass(frozen=True)
class Money:
    amount: Decimal
    note: bytes = b""


@pytest.fixture
def workflows() -> Registry:
    return Registry()


@pytest.fixture
async def test(
    mongo_uri: str, mongo_db_name: str, workflows: Registry
) -> AsyncIterator[WorkflowTest]:
    async with WorkflowTest(mongo_uri, workflows=workflows, db_name=mongo_db_name) as one:
        yield one


class Effects:
    """Counts what steps did to the outside world."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def do(self, what: Any) -> Any:
        self.seen.append(what)
        return what

    def failing(self, *errors: Exception | None) -> Any:
        """A function that raises each error in turn, then works; None works at once."""
        left = list(errors)

        async def act(what: Any = "done") -> Any:
            self.seen.append(what)
            if left and (error := left.pop(0)) is not None:
                raise error
            return what

        return act


@pytest.fixture
def effects() -> Effects:
    return Effects()


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


async def test_an_event_that_came_before_the_wait_is_not_lost(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await step.sleep(3600)
        event = await step.wait_for_event("paid", type="paid", subject="o-1")
        return event.data["amount"]

    run_id = await test.start("w")
    await test.settle()
    await test.send("paid", {"amount": 1}, subject="o-2")
    await test.send("paid", {"amount": 2}, subject="o-1")
    assert await test.finish(run_id) == 2


async def test_each_event_counts_once_for_a_run_in_the_order_of_arrival(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        return [(await step.wait_for_event("next", type="n")).data for _ in range(3)]

    run_id = await test.start("w")
    await test.settle()
    for number in range(3):
        await test.send("n", number, id=f"n-{number}")
        await test.send("n", number, id=f"n-{number}")
        test.clock.move_s(0.001)
    assert await test.finish(run_id) == [0, 1, 2]


async def test_a_wait_takes_only_what_its_where_allows_and_only_of_its_client(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        event = await step.wait_for_event("big", type="n", where={"data.n": {"gte": 10}})
        return event.data["n"]

    run_id = await test.start("w")
    await test.settle()
    await test.send("n", {"n": 9})
    await test.bus.publish(
        client="other", id="1", source="x", type="n", subject=None, data={"n": 99}
    )
    await test.send("n", {"n": 10})
    assert await test.finish(run_id) == 10


async def test_a_wait_without_an_event_times_out(test: WorkflowTest, workflows: Registry) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        with pytest.raises(WaitTimedOut):
            await step.wait_for_event("never", type="n", timeout=timedelta(days=2))
        return "gave up"

    run_id = await test.start("w")
    assert await test.finish(run_id) == "gave up"
    assert [one.status for one in await test.journal(run_id)] == ["timed out"]


async def test_wait_until_asks_until_it_is_true(
    test: WorkflowTest, workflows: Registry, effects: Effects
) -> None:
    answers = [None, None, "there"]

    async def check() -> Any:
        effects.seen.append(1)
        return answers.pop(0)

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        return await step.wait_until("there", check, every=600)

    began = test.clock.now()
    assert await test.finish(await test.start("w")) == "there"
    assert (test.clock.now() - began).total_seconds() == pytest.approx(1200, abs=1)
    assert len(effects.seen) == 3


async def test_a_callback_is_answered_once_by_whoever_holds_its_token(
    test: WorkflowTest, workflows: Registry
) -> None:
    tokens: list[str] = []

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        approval = await step.callback("approval", timeout=3600)
        await step.do("ask", lambda: tokens.append(approval.token))
        return await approval

    run_id = await test.start("w")
    await test.settle()
    await test.engine.callbacks.complete(tokens[0], {"ok": Decimal("1.0")})
    assert await test.finish(run_id) == {"ok": Decimal("1.0")}
    with pytest.raises(Exception, match="answered"):
        await test.engine.callbacks.complete(tokens[0], "again")


async def test_a_callback_can_be_failed_and_dies_of_silence(
    test: WorkflowTest, workflows: Registry
) -> None:
    tokens: list[str] = []

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        job = await step.callback("job", heartbeat=60)
        await step.do("tell", lambda: tokens.append(job.token))
        try:
            return await job
        except CallbackFailed as error:
            return f"failed: {error.detail}"
        except WaitTimedOut:
            return "silent"

    failed, silent = await test.start("w"), await test.start("w")
    await test.settle()
    await test.engine.callbacks.fail(tokens[0], "no disk")
    assert await test.finish(failed) == "failed: no disk"
    await test.pass_time(50)
    await test.engine.callbacks.heartbeat(tokens[1])
    await test.pass_time(50)
    assert (await test.run(silent)).status == "waiting"
    assert await test.finish(silent) == "silent"


async def test_a_run_goes_on_through_many_slices_after_callbacks_were_answered(
    test: WorkflowTest, workflows: Registry, effects: Effects
) -> None:
    tokens: list[str] = []

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        for number in range(2):
            approval = await step.callback("approval")
            await step.do("tell", tokens.append, approval.token)
            await approval
            await step.do("act", effects.do, number)
            await step.sleep(10)
        return "done"

    run_id = await test.start("w")
    for number in range(2):
        await test.settle()
        await test.engine.callbacks.complete(tokens[number])
        await test.pass_time(11)
    assert await test.finish(run_id) == "done"
    assert effects.seen == [0, 1]


async def test_map_keeps_the_order_and_its_limit(test: WorkflowTest, workflows: Registry) -> None:
    at_once: list[int] = [0, 0]

    async def work(n: int) -> int:
        import asyncio

        at_once[0] += 1
        at_once[1] = max(at_once)
        await asyncio.sleep(0.01)
        at_once[0] -= 1
        return n * n

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        return await step.map("squares", range(7), lambda n: step.do("square", work, n), limit=3)

    run_id = await test.start("w")
    assert await test.finish(run_id) == [0, 1, 4, 9, 16, 25, 36]
    assert at_once[1] == 3
    assert {one.key for one in await test.journal(run_id)} == {
        f"squares[{n}]/square" for n in range(7)
    }


async def test_branches_wait_side_by_side(test: WorkflowTest, workflows: Registry) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        async def branch(hours: int) -> Any:
            await step.sleep(timedelta(hours=hours))
            return await step.do("after", lambda: hours)

        return await step.gather(branch(3), branch(1), step.do("now", lambda: 0))

    began = test.clock.now()
    assert await test.finish(await test.start("w")) == [3, 1, 0]
    assert (test.clock.now() - began).total_seconds() == pytest.approx(3 * 3600, abs=1)


async def test_the_first_failing_branch_gives_the_others_up_for_good(
    test: WorkflowTest, workflows: Registry, effects: Effects
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        async def slow() -> None:
            await step.sleep(1000)
            await step.do("never", effects.do, "never")

        async def bad() -> None:
            await step.sleep(10)
            await step.do("bad", effects.failing(NonRetryable("bad")))

        try:
            await step.gather(slow(), bad())
        except StepFailed:
            await step.sleep(5000)
            return "recovered"

    assert await test.finish(await test.start("w")) == "recovered"
    assert "never" not in effects.seen


async def test_a_parent_gets_the_output_of_its_child_or_its_failure(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("child")
    async def child(step: Step, input: Any) -> Any:
        await step.sleep(100)
        if input < 0:
            raise ValueError("negative")
        return input * 2

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        good = await step.start("child", 4)
        bad = await step.start("child", -1)
        with pytest.raises(ChildFailed, match="negative"):
            await bad
        return await good

    assert await test.finish(await test.start("w")) == 8


async def test_a_published_event_is_published_once(test: WorkflowTest, workflows: Registry) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await step.publish("done", {"n": 1}, subject="s")
        await step.sleep(60)

    test.crash_at("/publish done", after=False)
    await test.finish(await test.start("w"))
    assert [(one["type"], one["data"]) for one in test.bus.published] == [("done", {"n": 1})]


async def test_an_event_starts_the_workflows_that_name_its_type_once(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w", on="news.requested")
    async def w(step: Step, input: Any) -> Any:
        return input["data"]

    await test.send("news.requested", {"topic": "x"}, id="e1")
    await test.bus.deliver(test.bus.published[0])
    await test.settle()
    from lambent.engine.control import RunFilter

    page = await test.engine.control.list_runs(RunFilter(client=CLIENT))
    assert [(run.status, run.output) for run in page.runs] == [("completed", {"topic": "x"})]


async def test_generate_sleeps_out_an_open_breaker_without_spending_an_attempt(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w", retry=Retry(attempts=1))
    async def w(step: Step, input: Any) -> Any:
        return await step.generate("say", prompt="hi")

    test.model.say(BreakerOpen(retry_after_s=30), BreakerOpen(retry_after_s=30), "hello")
    run_id = await test.start("w")
    assert await test.finish(run_id) == "hello"
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


async def test_a_cancel_reaches_children_of_before_the_run_continued_as_new(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("child")
    async def child(step: Step, input: Any) -> Any:
        await step.sleep(40 * 86400)

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        if input is None:
            await step.start("child")
            await step.continue_as_new("again")
        await step.sleep(50 * 86400)

    run_id = await test.start("w")
    await test.pass_time(3 * 86400)
    found = await test.engine.control.list_runs(RunFilter(client=CLIENT, workflow="child"))
    await test.engine.control.cancel(run_id, client=CLIENT)
    await test.settle()
    assert (await test.run(run_id)).status == "cancelled"
    assert (await test.run(found.runs[0].id)).status == "cancelled"


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


async def test_a_value_that_cannot_be_kept_fails_its_step_by_name(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await step.do("odd one", object)

    with pytest.raises(WorkflowError, match=r"odd one.*cannot be kept.*builtins\.object"):
        await test.finish(await test.start("w"))


async def test_steps_side_by_side_outside_gather_are_refused(
    test: WorkflowTest, workflows: Registry
) -> None:
    import asyncio

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await asyncio.gather(step.sleep(5), step.do("other", lambda: 1))

    with pytest.raises(WorkflowError, match=r"only inside step\.gather or step\.map"):
        await test.finish(await test.start("w"))


async def test_what_was_done_is_undone_last_step_first_when_the_run_fails(
    test: WorkflowTest, workflows: Registry, effects: Effects
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await step.do("a", effects.do, "a", undo=lambda out: effects.seen.append(f"undo {out}"))
        await step.sleep(100)
        await step.do("b", effects.do, "b", undo=lambda out: effects.seen.append(f"undo {out}"))
        await step.do("c", effects.failing(NonRetryable("c")))

    run_id = await test.start("w")
    with pytest.raises(WorkflowError, match="failed"):
        await test.finish(run_id)
    assert effects.seen == ["a", "b", "done", "undo b", "undo a"]


async def test_an_authors_except_does_not_swallow_a_suspension(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        try:
            await step.sleep(1000)
        except Exception:
            return "swallowed"
        return "slept"

    assert await test.finish(await test.start("w")) == "slept"

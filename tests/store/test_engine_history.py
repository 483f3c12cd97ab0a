"""What a run keeps of its slices, its attempts and its log, and how it is shown page by page."""

from __future__ import annotations

from typing import Any

import pytest

from lambent.engine.model import SliceEnd
from lambent.engine.options import Retry
from lambent.engine.registry import Registry
from lambent.engine.run_log import MOST_LINES
from lambent.engine.slice_history import MOST_SLICES
from lambent.engine.step import Step
from lambent.engine.views import StepView
from lambent.errors import NotFound, RequestError, WorkflowError
from lambent.intercept import StoreCall
from lambent.telemetry import correlated
from lambent.testing import CLIENT, WorkflowTest

THREE = Retry(attempts=3, first_s=5, jitter=False)


async def ends(test: WorkflowTest, run_id: str) -> list[str | None]:
    return [one.end for one in (await test.engine.records.history(run_id)).slices]


async def inside(test: WorkflowTest, run_id: str) -> list[StepView]:
    """The steps as an operator sees them."""
    return (await test.engine.records.page(run_id, client=None, limit=1000)).steps


async def said(test: WorkflowTest, run_id: str) -> list[tuple[str, str | None]]:
    history = await test.engine.records.history(run_id)
    lines = [line for step in await inside(test, run_id) for line in step.log]
    return [(line.text, line.step) for line in (*lines, *history.log)]


async def test_a_run_remembers_which_invocation_had_it_and_how_that_ended(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await step.sleep(60)

    run_id = await test.start("w")
    with correlated(invocation="first"):
        await test.settle()
    with correlated(invocation="second"):
        await test.pass_time(60)
    slices = (await test.engine.records.history(run_id)).slices
    assert [(one.invocation, one.end) for one in slices] == [
        ("first", "suspended"),
        ("second", "ended"),
    ]
    assert [one.ended_at - one.started_at for one in slices if one.ended_at]


async def test_slices_that_died_are_kept_as_crashed_by_the_one_that_comes_after(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        return await step.do("one", lambda: 1)

    run_id = await test.start("w")
    test.crash_at("steps.insert_one(", nth=1)
    test.crash_at("steps.insert_one(", nth=2)
    await test.advance([run_id])
    assert await ends(test, run_id) == [None]  # its lease still lives
    test.clock.move_s(31)
    assert await ends(test, run_id) == ["crashed"]
    await test.advance([run_id])
    test.clock.move_s(31)
    await test.advance([run_id])
    assert await ends(test, run_id) == ["crashed", "crashed", "ended"]


@pytest.mark.parametrize("after", [False, True])
async def test_a_death_at_any_write_leaves_each_slice_once(
    test: WorkflowTest, workflows: Registry, after: bool
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await step.do("one", lambda: 1)
        await step.sleep(30)
        step.log("It has slept.")
        await step.do("two", lambda: 2)

    def written(call: StoreCall) -> bool:
        return call.collection in ("runs", "steps") and call.name in ("insert_one", "update_one")

    for nth in range(1, 9):
        test._crashes.clear()
        test._seen.clear()
        run_id = await test.start("w")
        test.crash_at(written, nth=nth, after=after)
        await test.pass_time(200)
        found = await ends(test, run_id)
        assert found[-1] == "ended", nth
        assert found.count("ended") == 1, nth
        assert len(found) - found.count("crashed") <= 2, (nth, found)
        assert [text for text, _ in await said(test, run_id)] == ["It has slept."], nth


async def test_a_terminated_slice_says_so(test: WorkflowTest, workflows: Registry) -> None:
    killed: list[int] = []

    def terminate() -> None:
        if not killed:
            test.engine.stop()
        killed.append(1)

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await step.do("one", terminate)

    run_id = await test.start("w")
    await test.finish(run_id)
    assert await ends(test, run_id) == ["terminated", "ended"]


async def test_only_the_last_slices_are_kept_and_none_travels_with_a_claim(
    test: WorkflowTest, workflows: Registry
) -> None:
    read: list[bool] = []

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        read.append("slices" in step._context.run)
        for _ in range(MOST_SLICES + 5):
            await step.sleep(60)

    run_id = await test.start("w")
    await test.finish(run_id)
    found = await ends(test, run_id)
    assert len(found) == MOST_SLICES
    assert found[-1] == SliceEnd.ENDED
    assert not any(read)


async def test_each_attempt_is_kept_with_where_it_failed(
    test: WorkflowTest, workflows: Registry
) -> None:
    tries: list[int] = []

    def shaky() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise ValueError(f"attempt {len(tries)} went wrong")
        return 5

    @workflows.workflow("w", retry=THREE)
    async def w(step: Step, input: Any) -> Any:
        return await step.do("shaky", shaky)

    run_id = await test.start("w")
    assert await test.finish(run_id) == 5
    step = (await inside(test, run_id))[0]
    words = [one.error and one.error["message"] for one in step.tries]
    assert words == ["attempt 1 went wrong", "attempt 2 went wrong", None]
    trace = (step.tries[0].error or {})["traceback"]
    assert "in shaky" in trace
    assert "raise ValueError" in trace
    assert "attempts.py" not in trace  # the platform's own frames
    for other in await test.journal(run_id):
        assert all("traceback" not in (one.error or {}) for one in other.tries)


async def test_an_operator_sees_where_a_run_failed_and_its_client_does_not(
    test: WorkflowTest, workflows: Registry
) -> None:
    def inner() -> None:
        raise KeyError("missing")

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        step.log("About to fail", password="lam_abc_def")
        inner()

    run_id = await test.start("w")
    with pytest.raises(WorkflowError):
        await test.finish(run_id)
    seen = await test.engine.control.get(run_id, client=None)
    assert "in inner" in (seen.error or {})["traceback"]
    assert (await test.run(run_id)).error == {"type": "KeyError", "message": "'missing'"}
    line = (await test.engine.records.history(run_id)).log[0]
    assert (line.text, line.fields) == ("About to fail", {"password": "***"})


async def test_a_redacted_step_shows_the_place_of_its_error_but_neither_words_nor_code(
    test: WorkflowTest, workflows: Registry
) -> None:
    def leak() -> None:
        raise ValueError("s3cret")

    @workflows.workflow("w", retry=Retry(attempts=2, first_s=1, jitter=False))
    async def w(step: Step, input: Any) -> Any:
        await step.do("hidden", leak, redact=True)

    run_id = await test.start("w")
    with pytest.raises(WorkflowError):
        await test.finish(run_id)
    step = (await inside(test, run_id))[0]
    assert len(step.tries) == 2
    assert "in leak" in (step.error or {})["traceback"]
    assert "s3cret" not in repr(step)


async def test_what_is_said_is_kept_with_the_next_record_and_said_once(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        async def body() -> None:
            step.log("inside")

        step.log("begun", number=1)
        await step.do("one", body)
        step.log("waits")
        await step.wait_for_event("answer", type="answered")
        step.log("over")

    run_id = await test.start("w")
    await test.settle()
    await test.send("answered")
    await test.finish(run_id)
    wanted = [("begun", None), ("inside", "one"), ("waits", None), ("over", None)]
    assert await said(test, run_id) == wanted
    assert all(one.log == () for one in await test.journal(run_id))


async def test_who_says_too_much_is_cut_short_and_told_so(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        for number in range(3 * MOST_LINES):
            step.log(f"line {number} {'x' * 5_000}")
        await step.do("one", lambda: 1)

    run_id = await test.start("w")
    await test.finish(run_id)
    lines = await said(test, run_id)
    assert len(lines) == MOST_LINES + 1
    assert "only in the function's log" in lines[-1][0]
    assert max(len(text) for text, _ in lines) <= 1_000


async def pages(test: WorkflowTest, run_id: str, way: str, **first: Any) -> list[str]:
    """The keys of all pages of seven, from one end to the other."""
    found: list[str] = []
    asked: dict[str, Any] = first
    while True:
        page = await test.engine.records.page(run_id, client=CLIENT, limit=7, **asked)
        keys = [f"{one.epoch} {one.key}" for one in page.steps]
        assert page.first == 1 + (
            len(found) if way == "cursor" else page.total - len(found) - len(keys)
        )
        found = found + keys if way == "cursor" else keys + found
        mark = page.cursor if way == "cursor" else page.before
        if mark is None:
            return found
        asked = {way: mark}


async def test_pages_lead_through_all_records_of_all_epochs_both_ways(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        for number in range(20):
            await step.do(f"s{number}", lambda: 1)
        await step.wait_for_event("never", type="never", timeout=5)

    run_id = await test.start("w")
    for cut in ("s15", "s3"):
        with pytest.raises(WorkflowError):
            await test.finish(run_id)
        await test.engine.control.restart(run_id, client=CLIENT, step=cut)
    with pytest.raises(WorkflowError):
        await test.finish(run_id)
    everything = [f"{one.epoch} {one.key}" for one in await test.journal(run_id)]
    assert len(everything) == 21 + 6 + 18
    assert await pages(test, run_id, "cursor") == everything
    assert await pages(test, run_id, "before", newest=True) == everything
    around = await test.engine.records.page(run_id, client=CLIENT, limit=7, around="s9")
    assert [one.key for one in around.steps][3] == "s9"
    with pytest.raises(NotFound):
        await test.engine.records.page(run_id, client=CLIENT, limit=7, around="s99")
    with pytest.raises(NotFound):
        await test.engine.records.page(run_id, client="another", limit=7)
    for bad in ("x", "OTk5OTk5OTk5OTk5OTk5LjA=", "MC4tMQ=="):
        with pytest.raises(RequestError):
            await test.engine.records.page(run_id, client=CLIENT, limit=7, cursor=bad)


async def test_a_wait_shows_its_event_and_a_callback_does_not(
    test: WorkflowTest, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        await step.callback("ask")
        await step.wait_for_event("answer", type="answered", subject="me")

    run_id = await test.start("w")
    await test.settle()
    await test.send("answered", subject="me")
    await test.finish(run_id)
    ask, answer = await test.journal(run_id)
    assert ask.event is None
    assert answer.event is not None
    assert (answer.event.type, answer.event.subject) == ("answered", "me")
    assert answer.event.key == test.bus.published[0]["_id"]

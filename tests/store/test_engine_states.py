"""Every state change of a run as a table: from each status, each command, what comes of it."""

from __future__ import annotations

from typing import Any

import pytest

from lambent.engine.registry import Registry, Workflow
from lambent.engine.step import Step
from lambent.errors import Conflict, NonRetryable, NotFound
from lambent.testing import CLIENT, WorkflowTest

REFUSED = "refused"
# What a run is after the command was given and everything due was done; `ran` = "completed".
TABLE: dict[str, dict[str, str]] = {
    "pending": {
        "cancel": "cancelled",
        "pause": "paused",
        "resume": REFUSED,
        "retry": REFUSED,
        "restart": REFUSED,
        "delete": REFUSED,
    },
    "waiting": {
        "cancel": "cancelled",
        "pause": "paused",
        "resume": REFUSED,
        "retry": REFUSED,
        "restart": REFUSED,
        "delete": REFUSED,
    },
    "running": {
        "cancel": "cancelled",
        "pause": "paused",
        "resume": REFUSED,
        "retry": REFUSED,
        "restart": REFUSED,
        "delete": REFUSED,
    },
    "pausing": {
        "cancel": "cancelled",
        "pause": "paused",
        "resume": "waiting",
        "retry": REFUSED,
        "restart": REFUSED,
        "delete": REFUSED,
    },
    "cancelling": {
        "cancel": "cancelled",
        "pause": REFUSED,
        "resume": REFUSED,
        "retry": REFUSED,
        "restart": REFUSED,
        "delete": REFUSED,
    },
    "paused": {
        "cancel": "cancelled",
        "pause": REFUSED,
        "resume": "waiting",
        "retry": REFUSED,
        "restart": "waiting",
        "delete": REFUSED,
    },
    "blocked": {
        "cancel": "cancelled",
        "pause": REFUSED,
        "resume": "blocked",
        "retry": REFUSED,
        "restart": "blocked",
        "delete": REFUSED,
    },
    "completed": {
        "cancel": REFUSED,
        "pause": REFUSED,
        "resume": REFUSED,
        "retry": REFUSED,
        "restart": "completed",  # the event it took counts again
        "delete": "deleted",
    },
    "failed": {
        "cancel": REFUSED,
        "pause": REFUSED,
        "resume": REFUSED,
        "retry": "failed",
        "restart": "failed",
        "delete": "deleted",
    },
    "cancelled": {
        "cancel": REFUSED,
        "pause": REFUSED,
        "resume": REFUSED,
        "retry": "waiting",
        "restart": "waiting",
        "delete": "deleted",
    },
}


@pytest.fixture
def test(test: WorkflowTest, workflows: Registry) -> WorkflowTest:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        if input == "fail":
            raise NonRetryable("as asked")
        await step.do("first", lambda: 1)
        await step.wait_for_event("go", type="go")

    return test


async def brought_to(status: str, test: WorkflowTest, workflows: Registry) -> str:
    """A run in that status."""
    run_id = await test.start("w", "fail" if status == "failed" else None)
    control = test.engine.control
    if status == "blocked":
        gone = workflows.latest("w")
        workflows._found["w"] = {2: Workflow(name="w", version=2, fn=gone.fn)}
    if status == "running":
        # Its slice has died in the middle: the document says running until the lease lapses.
        test.crash_at("steps.insert_one")
        assert not await test.advance([run_id])
        return run_id
    if status != "pending":
        await test.settle()
    match status:
        case "pausing":
            await control.pause(run_id, client=CLIENT)
        case "cancelling":
            await control.cancel(run_id, client=CLIENT)
        case "paused":
            await control.pause(run_id, client=CLIENT)
            await test.settle()
        case "cancelled":
            await control.cancel(run_id, client=CLIENT)
            await test.settle()
        case "completed":
            await test.send("go")
            await test.settle()
    return run_id


@pytest.mark.parametrize("command", list(TABLE["pending"]))
@pytest.mark.parametrize("status", list(TABLE))
async def test_from_each_status_each_command(
    test: WorkflowTest, workflows: Registry, status: str, command: str
) -> None:
    run_id = await brought_to(status, test, workflows)
    before = (await test.run(run_id)).status
    given = getattr(test.engine.control, command)
    expected = TABLE[status][command]
    if expected == REFUSED:
        with pytest.raises(Conflict) as refusal:
            await given(run_id, client=CLIENT)
        assert refusal.value.fields["status"] == before
        return
    await given(run_id, client=CLIENT)
    await test.pass_time(31)
    if expected == "deleted":
        with pytest.raises(NotFound):
            await test.run(run_id)
        return
    assert (await test.run(run_id)).status == expected
    document = await test.document(run_id)
    assert (document["lease"], document["owes"]) == (None, [])


@pytest.mark.parametrize("command", [*TABLE["pending"], "get", "steps"])
async def test_another_clients_run_is_not_there(
    test: WorkflowTest, workflows: Registry, command: str
) -> None:
    run_id = await test.start("w")
    with pytest.raises(NotFound):
        await getattr(test.engine.control, command)(run_id, client="other")

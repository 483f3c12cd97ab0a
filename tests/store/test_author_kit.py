"""What authors are given: the README's example as it stands there, and `lambent.testing`."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lambent.engine.registry import Registry, registry
from lambent.engine.step import Step
from lambent.errors import TooLarge, WorkflowError
from lambent.testing import WorkflowTest

ROOT = Path(__file__).resolve().parents[2]


def example(beginning: str) -> str:
    """The piece of Python in the README that begins so."""
    pieces = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    [found] = [piece for piece in pieces if piece.startswith(beginning)]
    return str(found)


@pytest.fixture
def order() -> Iterator[types.ModuleType]:
    module = types.ModuleType("readme_order")
    sys.modules[module.__name__] = module
    try:
        exec(example('"""Sells what a customer ordered'), module.__dict__)
        yield module
    finally:
        del sys.modules[module.__name__]
        registry._found.pop("order", None)  # it is everybody's


async def test_the_readmes_workflow_passes_the_readmes_test(
    order: types.ModuleType, mongo_uri: str
) -> None:
    names: dict[str, Any] = {}
    exec(example("from lambent.testing import WorkflowTest"), names)
    await names["test_an_order_is_reviewed_two_weeks_later"](mongo_uri)


async def test_the_readmes_workflow_undoes_what_it_did(
    order: types.ModuleType, mongo_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with WorkflowTest(mongo_uri) as test:
        test.model.say("Thank you!")
        input = {"shop": "s", "items": [1], "card": "c", "customer": "ada"}
        run = await test.start("order", input)
        await test.send("order.approved", {"by": "nobody"}, subject=run)
        with pytest.raises(WorkflowError, match="not approved"):
            await test.finish(run)
    assert "back on the shelf: {'reserved': [1]}" in capsys.readouterr().out


async def test_a_crash_that_never_strikes_fails_the_test(
    mongo_uri: str, workflows: Registry
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        return await step.do("only", lambda: 1)

    with pytest.raises(  # noqa: PT012 - the test that fails has a block of its own
        AssertionError, match=r"never struck: a typo \(call 1, 0 seen\)"
    ):
        async with WorkflowTest(mongo_uri, workflows=workflows) as test:
            test.crash_at("a typo")
            await test.finish(await test.start("w"))


async def test_events_are_what_they_are_on_the_bus(mongo_uri: str, workflows: Registry) -> None:
    @workflows.workflow("w", on="e")
    async def w(step: Step, input: Any) -> Any:
        event = await step.wait_for_event("other", type="other")
        return [input["time"], event.time, event.data]

    async with WorkflowTest(mongo_uri, workflows=workflows) as test:
        await test.send("e", {"n": 1}, time="2026-11-28T10:00:00+01:00")
        await test.send("other", b"raw")
        [run] = await test.store.mongo.db["runs"].find({}).to_list()
        assert await test.finish(run["_id"]) == ["2026-11-28T10:00:00+01:00", None, b"raw"]
        with pytest.raises(TooLarge):
            await test.send("e", "x" * 1_000_001)

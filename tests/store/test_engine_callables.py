"""What may be a step's code: any callable, and none of them holds up the slice."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from lambent.engine.options import Retry
from lambent.engine.registry import Registry
from lambent.engine.step import Step
from lambent.errors import StepTimedOut
from lambent.testing import WorkflowTest


class Api:
    """A client whose calls come to no end, and which notes the threads that made them."""

    def __init__(self) -> None:
        self.never = threading.Event()
        self.threads: list[threading.Thread] = []

    def get(self, limit_s: float = 60) -> None:
        self.threads.append(threading.current_thread())
        self.never.wait(limit_s)

    __call__ = get


class AsyncApi:
    """A client whose calls are coroutines."""

    async def get(self, what: str = "got") -> str:
        assert threading.current_thread() is threading.main_thread()
        return what

    __call__ = get


_BLOCKING: dict[str, Callable[[Api], Callable[[], Any]]] = {
    "a bound method": lambda api: api.get,
    "a partial": lambda api: functools.partial(api.get, 60),
    "a lambda": lambda api: lambda: api.get(60),
    "a callable object": lambda api: api,
    "a builtin": lambda api: functools.partial(api.never.wait, 60),
}


@pytest.mark.parametrize("kind", _BLOCKING)
async def test_what_blocks_is_timed_out_and_holds_up_nobody(
    test: WorkflowTest, workflows: Registry, kind: str
) -> None:
    api = Api()
    goes_on = False

    async def beside() -> None:
        nonlocal goes_on
        goes_on = not api.never.is_set()

    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        blocking = step.do("blocks", _BLOCKING[kind](api), timeout=1, retry=Retry(attempts=1))
        try:
            await step.gather(blocking, step.do("beside", beside))
        except StepTimedOut:
            return "timed out"

    try:
        assert await test.finish(await test.start("w")) == "timed out"
    finally:
        api.never.set()
    assert goes_on
    assert threading.main_thread() not in api.threads


_COROUTINES: dict[str, Callable[[AsyncApi], Callable[[], Any]]] = {
    "a bound method": lambda api: api.get,
    "a partial": lambda api: functools.partial(api.get),
    "a lambda": lambda api: lambda: api.get("got"),
    "a callable object": lambda api: api,
}


@pytest.mark.parametrize("kind", _COROUTINES)
async def test_what_makes_a_coroutine_is_awaited(
    test: WorkflowTest, workflows: Registry, kind: str
) -> None:
    @workflows.workflow("w")
    async def w(step: Step, input: Any) -> Any:
        return await step.do("gets", _COROUTINES[kind](AsyncApi()))

    assert await test.finish(await test.start("w")) == "got"

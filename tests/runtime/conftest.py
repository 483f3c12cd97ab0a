"""Fixtures of the runtime's tests: a strict Runtime API and processes that end with the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from tests.runtime.environment import Environment, Start
from tests.runtime.process import RuntimeProcess
from tests.runtime.strict_api import StrictRuntimeAPI


@pytest.fixture
def start_runtime() -> Iterator[Start]:
    """`start(handler, api=None, **environment)`; no protocol violation is forgiven."""
    with ExitStack() as stack:
        apis: list[StrictRuntimeAPI] = []

        def start(
            handler: str = "sample.app", *, api: StrictRuntimeAPI | None = None, **extra: str
        ) -> Environment:
            api = stack.enter_context(closing(api or StrictRuntimeAPI()))
            apis.append(api)
            process = RuntimeProcess(handler, api.address, **extra)
            stack.enter_context(closing(process))
            return Environment(api, process)

        yield start
        for api in apis:
            assert api.violations == [], api.violations

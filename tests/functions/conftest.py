"""Whole platforms for black-box tests: one over the small real model, one over a scripted one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from local.services import ScriptedModel
from tests.functions.stack import Stack, running_stack

# Chats of the tests must not wait for each other's limit or for a half minute of open breaker.
_BRISK = {
    "RATE_LIMIT_MAX_REQUESTS": "100000",
    "BREAKER_OPEN_S": "2",
    "SLOT_WAIT_S": "2",
    "KEEP_ALIVE_S": "1",
    "OLLAMA_FIRST_TOKEN_TIMEOUT_S": "20",
    "OLLAMA_NEXT_TOKEN_TIMEOUT_S": "5",
}


@pytest.fixture(scope="session")
def real_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Everything embedded, settings as they come."""
    with running_stack(tmp_path_factory.mktemp("real") / "data") as stack:
        yield stack


@pytest.fixture(scope="session")
def script() -> Iterator[ScriptedModel]:
    """The scripted Ollama behind `scripted_stack`."""
    with ScriptedModel.start() as model:
        yield model


@pytest.fixture(scope="session")
def scripted_stack(
    tmp_path_factory: pytest.TempPathFactory, script: ScriptedModel
) -> Iterator[Stack]:
    """Embedded stores, and a model server that does what a test tells it."""
    environ = {**_BRISK, "OLLAMA_HOST": script.host}
    with running_stack(tmp_path_factory.mktemp("scripted") / "data", environ) as stack:
        yield stack

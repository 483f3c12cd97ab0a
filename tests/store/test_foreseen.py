"""A model call that is foreseen has its slot ready; one that is never made gives it back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from lambent.admission.decisions import AdmissionConfig, AdmissionRequest, Decision
from lambent.admission.gate import Gate
from lambent.admission.migrate import migrate
from lambent.agents.step_model import StepModel
from lambent.clock import SystemClock
from lambent.models.manager import ModelManager
from lambent.postgres import Postgres
from lambent.settings import Settings
from local.services import Reply, ScriptedModel

ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "Hm?"}]}


class Counting(Gate):
    """Counts how often it is asked."""

    asked = 0

    async def admit(self, request: AdmissionRequest) -> Decision:
        self.asked += 1
        return await super().admit(request)

    async def until(self, taken: int) -> None:
        """Wait until so many slots are taken, and nobody waits for one."""
        async with asyncio.timeout(30):
            while len((state := await self.state()).slots) != taken or state.waiting:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.fixture
async def gate(postgres_dsn: str) -> AsyncIterator[Counting]:
    clock = SystemClock()
    postgres = Postgres(postgres_dsn, clock=clock)
    await migrate(postgres)
    yield Counting(postgres, clock=clock, config=AdmissionConfig(max_inflight=1, poll_s=0.02))
    await postgres.close()


@pytest.fixture
async def steps(
    gate: Counting, postgres_dsn: str, scripted_model: ScriptedModel
) -> AsyncIterator[StepModel]:
    scripted_model.default = Reply.text("Well.")
    host = scripted_model.host
    settings = Settings(mongo_uri="mongodb://h", postgres_dsn=postgres_dsn, ollama_host=host)
    models = ModelManager(settings, clock=SystemClock())
    yield StepModel(models, gate, default_model="m")
    await models.close()


async def test_a_foreseen_call_is_admitted_once(gate: Counting, steps: StepModel) -> None:
    steps.expect(None, client="ann")
    await gate.until(1)
    made = await steps.generate(ASKED, client="ann")
    assert made.value["text"] == "Well."
    assert made.beside is not None
    await made.beside
    assert gate.asked == 1
    await gate.until(0)
    await steps.generate(ASKED, client="ann")
    assert gate.asked == 2


async def test_a_call_that_is_never_made_gives_its_slot_to_who_waits(
    gate: Counting, steps: StepModel, scripted_model: ScriptedModel
) -> None:
    steps.expect(None, client="ann")
    await gate.until(1)
    made = await asyncio.wait_for(steps.generate(ASKED, client="bob"), 3)
    assert made.value["text"] == "Well."
    await gate.until(0)


async def test_nobody_takes_what_another_client_foresaw(gate: Counting, steps: StepModel) -> None:
    steps.expect(None, client="ann")
    steps.expect("other", client="bob")
    await steps.generate(ASKED, client="bob")
    assert gate.asked == 3
    await gate.until(0)


@pytest.mark.parametrize("turns", [0, 1, 2, 50])
async def test_a_call_that_is_cancelled_while_it_takes_its_slot_leaves_none(
    gate: Counting, steps: StepModel, turns: int
) -> None:
    steps.expect(None, client="ann")
    if turns == 50:
        await gate.until(1)
    calling = asyncio.create_task(steps.generate(ASKED, client="ann"))
    for _ in range(turns % 50):
        await asyncio.sleep(0)
    calling.cancel()
    await asyncio.wait({calling})
    await asyncio.sleep(0.6)  # in flight, it may have been granted: then it is given back by then
    await gate.until(0)


async def test_a_call_without_guard_says_why_and_what_to_do(
    steps: StepModel, gate: Counting, postgres_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with await psycopg.AsyncConnection.connect(postgres_dsn, autocommit=True) as connection:
        await connection.execute("DROP SCHEMA IF EXISTS lambent, public CASCADE")
    made = await steps.generate(ASKED, client="ann")
    assert made.value["text"] == "Well."
    assert "Invoke the setup function, or deploy again" in caplog.text

"""A turn that its client's budget stops halfway: its readers are told, and it goes on later."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lambent.admission.budgets import BudgetEdges, BudgetStore, Kind, Period, Unit
from lambent.clock import EPOCH
from lambent.engine.model import RUNS, STEPS
from local.services import ScriptedModel
from local.services.script import Reply
from tests.store.durable_agents import MADE
from tests.store.durable_site import ASK, Function, frames
from tests.store.test_durable_turns import WORDS, going_on
from tests.unit.chat_site import said


async def allow(place: Function, tokens: float) -> None:
    edges = BudgetEdges(period=Period.DAY, unit=Unit.TOKENS, hard=tokens)
    await BudgetStore(place.parts.postgres).put(Kind.CLIENT, "ann", [edges])


async def be_later(place: Function, run: str) -> None:
    """As if the time had come to look again."""
    db = place.parts.mongo.db
    await db[STEPS].update_many({"run": run, "status": "retrying"}, {"$set": {"retry_at": EPOCH}})
    await db[RUNS.collection].update_one({"_id": run}, {"$set": {"due_at": EPOCH}})


async def test_its_readers_are_told_why_it_waits_and_read_on_once_there_is_budget(
    place: Function, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.calls(("note", {"word": "x"})), going_on)
    await allow(place, 5)
    async with asyncio.timeout(30), place.client() as client:
        answer = await client.post("/chat/stream", json=ASK)
        turn, told = answer.headers["x-stream-id"], frames(answer.text)
        run = (await place.until_run("waiting"))["_id"]
        assert told[-1]["type"] == "urn:lambent:problem:turn_parked"
        assert (
            f"The run {run} of this turn waits, because the client's tokens" in told[-1]["detail"]
        )
        again = frames((await client.get(f"/chat/streams/{turn}")).text)
        assert again == told  # nothing of that is kept
        mine = {"authorization": f"Bearer {place.key}"}
        shown: Any = (await place.gateway.get(f"/runs/{run}", headers=mine)).json()
        assert shown["rests"]["type"] == "BudgetExceeded"
        assert shown["rests"]["step"] == "model#2"
        await allow(place, 1_000_000)
        await be_later(place, run)
        last = [line[4:] for line in answer.text.splitlines() if line.startswith("id: ")][-1]
        after = (await client.get(f"/chat/streams/{turn}", headers={"last-event-id": last})).text
    assert said(after) == WORDS
    assert frames(after)[-1] == "[DONE]"
    assert [word for at, word in MADE if at == turn] == ["x"]
    await place.until_run("completed")
    assert (await place.parts.engine.control.get(run, client="ann")).rests is None


@pytest.mark.parametrize("streams", [True, False])
async def test_openais_clients_are_told_as_well(
    place: Function, scripted_model: ScriptedModel, streams: bool
) -> None:
    scripted_model.script(Reply.calls(("note", {"word": "x"})))
    await allow(place, 5)
    says = [{"role": "user", "content": "Do it."}]
    asked = {"model": "agent:clerk", "messages": says, "stream": streams}
    async with asyncio.timeout(30), place.client() as client:
        answer = await client.post("/v1/chat/completions", json=asked)
    error = (frames(answer.text)[-1] if streams else answer.json())["error"]
    assert error["code"] == "turn_parked"
    assert "used up" in error["message"]

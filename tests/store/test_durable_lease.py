"""The lease of a durable turn's readers, where they asked for one: it ends the turn as a stop."""

from __future__ import annotations

import asyncio
import time

import pytest

from lambent.admission.reports import GroupBy, UsageFilter, UsageReports
from lambent.clock import EPOCH
from lambent.engine.model import RUNS
from lambent.streams.store import STREAMS
from local.services import ScriptedModel
from local.services.script import Reply
from tests.store.durable_agents import MADE
from tests.store.durable_site import ASK, Function, frames
from tests.store.test_durable_turns import WORDS, going_on, read
from tests.unit.chat_site import said

LEASE = {"x-stream-lease": "2"}
LONG_LEASE = {"x-stream-lease": "900"}
ENDLESS = Reply.many(1000, delay_s=0.02)


async def lapse(place: Function) -> None:
    """As if the readers had been away for long."""
    streams = place.parts.mongo.db[STREAMS]
    done = await streams.update_many({}, {"$set": {"readers_until": EPOCH}})
    assert done.matched_count == 1


async def booked(place: Function) -> int:
    """Tokens of all answers so far."""
    rows = await UsageReports(place.parts.postgres).rows(UsageFilter(), by=[GroupBy.AGENT])
    return sum(row.completion_tokens for row in rows)


@pytest.mark.parametrize("silent", [False, True])
async def test_a_lease_that_lapses_stops_the_model_and_not_before(
    place: Function, scripted_model: ScriptedModel, silent: bool
) -> None:
    said_at_last = Reply.text("x", first_delay_s=60) if silent else ENDLESS
    scripted_model.script(Reply.calls(("note", {"word": "a"})), said_at_last)
    began_s = time.monotonic()
    async with place.client() as client:
        answer = await client.post("/chat/stream", json=ASK, headers=LEASE)
        assert time.monotonic() - began_s >= 2.0
        last = frames(answer.text)[-1]
        assert last["type"] == "urn:lambent:problem:stopped"
        assert "lease" in last["detail"]
        await place.until_run("cancelled")
        await scripted_model.until(lambda: scripted_model.generations[1].hung_up)
        again = await client.get(f"/chat/streams/{answer.headers['x-stream-id']}")
    # Who told it first, this function or the run, named the request or did not.
    kept = frames(again.text)[-1]
    assert {**kept, "instance": ""} == {**last, "instance": ""}
    assert await booked(place) >= (1 if silent else 5)


async def test_a_lease_that_is_renewed_lets_the_turn_come_to_its_end(
    place: Function, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.many(45, delay_s=0.1))  # two leases long
    lines = []
    async with (
        place.client() as client,
        client.stream("POST", "/chat/stream", json=ASK, headers=LEASE) as answer,
    ):
        path = f"/chat/streams/{answer.headers['x-stream-id']}/lease"
        async for line in answer.aiter_lines():
            lines.append(line)
            if "delta" in line:
                assert (await client.post(path)).json()["lease_until"]
    assert frames("\n".join(lines))[-1] == "[DONE]"
    await place.until_run("completed")


async def died_in_round_two(one: Function, model: ScriptedModel, headers: dict[str, str]) -> str:
    """A function that was killed while its second model call spoke; the turn's id."""
    model.script(Reply.calls(("note", {"word": "x"})), going_on, going_on)
    async with one.client() as client:
        asked = {"json": ASK, "headers": headers}
        async with client.stream("POST", "/chat/stream", **asked) as answer:
            await read(answer.aiter_lines(), until="word5")
            await one.die()
        return str(answer.headers["x-stream-id"])


async def test_who_takes_a_turn_over_whose_lease_has_lapsed_begins_nothing(
    pair: list[Function], scripted_model: ScriptedModel
) -> None:
    first, second = pair
    turn = await died_in_round_two(first, scripted_model, LONG_LEASE)
    await lapse(second)
    run = await second.run()
    await second.parts.engine.advance([run["_id"]])
    await second.until_run("cancelled")
    assert len(scripted_model.generations) == 2
    async with second.client() as client:
        told = frames((await client.get(f"/chat/streams/{turn}")).text)
    assert "lease" in told[-1]["detail"]
    assert [word for at, word in MADE if at == turn] == ["x"]


async def test_a_reader_who_comes_back_in_time_has_the_turn_gone_on_with(
    pair: list[Function], scripted_model: ScriptedModel
) -> None:
    first, second = pair
    turn = await died_in_round_two(first, scripted_model, LONG_LEASE)
    async with second.client() as client:
        text = (await client.get(f"/chat/streams/{turn}")).text
    assert said(text) == WORDS
    await second.until_run("completed")


async def test_an_answer_that_was_told_to_its_end_is_no_longer_stopped(
    pair: list[Function], scripted_model: ScriptedModel
) -> None:
    first, second = pair
    scripted_model.script(Reply.text("Whole."))
    async with first.client() as client:
        await client.post("/chat/stream", json=ASK, headers=LONG_LEASE)
    run = await first.until_run("completed")
    # As a function leaves them that dies between the last frame and what it makes of the run.
    runs, streams = second.parts.mongo.db[RUNS.collection], second.parts.mongo.db[STREAMS]
    undone = {"status": "running", "owes": None, "due_at": EPOCH, "lease_until": EPOCH}
    await runs.update_one({"_id": run["_id"]}, {"$set": undone})
    await streams.update_many({}, {"$set": {"status": "live"}})
    await lapse(second)
    await second.parts.engine.advance([run["_id"]])
    await second.until_run("completed")
    assert (await streams.find_one({}))["status"] == "done"


async def test_openais_clients_are_told_the_stream_whose_lease_they_renew(
    place: Function, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(ENDLESS)
    asked = {"model": "agent:clerk", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    async with asyncio.timeout(30), place.client() as client:
        answer = await client.post("/v1/chat/completions", json=asked, headers=LEASE)
        path = f"/chat/streams/{answer.headers['x-stream-id']}/lease"
        # Readers are told the end a moment before it is on record.
        while (status := (await client.post(path)).json()["status"]) == "live":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert status == "stopped"
    assert "lease" in frames(answer.text)[-1]["error"]["message"]
    await place.until_run("cancelled")


async def test_a_lease_rests_while_a_person_is_waited_for(
    pair: list[Function], scripted_model: ScriptedModel
) -> None:
    first, second = pair
    scripted_model.script(Reply.calls(("pay", {"amount": 5})), Reply.many(10, delay_s=0.2))
    async with first.client() as client:
        asked = {"json": ASK, "headers": LONG_LEASE}  # ended by `lapse`, not by time
        async with client.stream("POST", "/chat/stream", **asked) as answer:
            await read(answer.aiter_lines(), until="waiting")
        turn = answer.headers["x-stream-id"]
        run = await first.until_run("waiting")
        await lapse(first)
        path = f"/runs/{run['_id']}/approvals/0.0"
        assert (await first.post(path, {"approve": True})).status_code == 202
        await second.parts.engine.advance([run["_id"]])
        text = (await client.get(f"/chat/streams/{turn}")).text
    assert [amount for at, amount in MADE if at == turn] == [5]
    assert frames(text)[-1] == "[DONE]"

"""A turn whose run is parked: its readers are told and let go, and nothing of it is lost."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from lambent.engine.model import RUNS
from local.services import ScriptedModel
from local.services.script import Reply
from tests.store.durable_site import ASK, Function, frames
from tests.store.test_durable_turns import WORDS, going_on, read
from tests.unit.chat_site import said

BLOCKED = {"reason": "poison", "detail": "Five slices died.", "tries": 1}


async def block(place: Function) -> str:
    """As the engine blocks a run that waits."""
    run = await place.until_run("waiting")
    parked = {"status": "blocked", "blocked": BLOCKED}
    await place.parts.mongo.db[RUNS.collection].update_one({"_id": run["_id"]}, {"$set": parked})
    return str(run["_id"])


async def test_readers_of_a_blocked_turn_are_told_and_come_back_behind_the_last_event(
    place: Function, scripted_model: ScriptedModel
) -> None:
    scripted_model.script(Reply.calls(("note", {"word": "x"}), ("pay", {"amount": 5})), going_on)
    async with asyncio.timeout(30), place.client() as client:
        async with client.stream("POST", "/chat/stream", json=ASK) as answer:
            turn, lines = answer.headers["x-stream-id"], answer.aiter_lines()
            before = await read(lines, until="waiting")
            run = await block(place)
            before += [line async for line in lines]
        told = frames("\n".join(before))
        assert told[-1]["type"] == "urn:lambent:problem:turn_parked"
        assert f"The run {run} of this turn is blocked (poison)" in told[-1]["detail"]
        # Nor does whoever asks meanwhile wait for ever.
        again = (await client.get(f"/chat/streams/{turn}")).text
        assert frames(again)[-1]["type"] == "urn:lambent:problem:turn_parked"
        last = [line[4:] for line in before if line.startswith("id: ")][-1]
        await place.parts.engine.control.resume(run, client="ann")
        assert (await place.post(f"/runs/{run}/approvals/0.1", {"approve": True})).is_success
        after = (await client.get(f"/chat/streams/{turn}", headers={"last-event-id": last})).text
    results = [one for one in frames(after) if "tool_result" in one]
    assert [one["tool_result"]["name"] for one in results] == ["pay"]
    assert said(after) == WORDS
    assert frames(after)[-1] == "[DONE]"


async def test_a_turn_that_is_parked_is_no_failure_in_the_log(
    place: Function, scripted_model: ScriptedModel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    scripted_model.script(Reply.calls(("pay", {"amount": 5})))
    async with (
        asyncio.timeout(30),
        place.client() as client,
        client.stream("POST", "/chat/stream", json=ASK) as answer,
    ):
        lines = answer.aiter_lines()
        await read(lines, until="waiting")
        run = await block(place)
        told = "\n".join([line async for line in lines])
    assert frames(told)[-1]["type"] == "urn:lambent:problem:turn_parked"
    levels = [one.levelname for one in caplog.records if f"The run {run}" in one.getMessage()]
    assert levels == ["INFO"]
    assert not [one for one in caplog.records if one.levelname == "ERROR"]


@pytest.mark.parametrize("streams", [True, False])
async def test_openais_clients_get_an_error_that_they_do_not_try_again(
    place: Function, scripted_model: ScriptedModel, streams: bool
) -> None:
    # Long enough to be paused in it: what is under way is let finish, and nothing new begins.
    scripted_model.script(replace(Reply.calls(("note", {"word": "x"})), delay_s=2.0))
    asked: dict[str, Any] = {
        "model": "agent:clerk",
        "messages": [{"role": "user", "content": "Do it."}],
        "stream": streams,
    }
    async with asyncio.timeout(30), place.client() as client:
        asking = asyncio.create_task(client.post("/v1/chat/completions", json=asked))
        run = (await place.until_run("running"))["_id"]
        await place.parts.engine.control.pause(run, client="ann")
        place.parts.engine.poke_run(run)
        answer = await asking
    if streams:
        assert frames(answer.text)[-1]["error"]["code"] == "turn_parked"
        assert "[DONE]" not in answer.text
    else:
        assert (answer.status_code, answer.headers["x-should-retry"]) == (500, "false")
        assert f"The run {run} of this turn is paused" in answer.json()["error"]["message"]

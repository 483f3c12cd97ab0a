"""Durable agents: their turns outlive the function that began them."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from lambent.agents.durable import workflow_name
from lambent.agents.turn_input import turn_input
from lambent.ids import new_ulid
from lambent.metrics import flush
from lambent.models.values import Message, Role
from local.services import ScriptedModel
from local.services.script import Reply
from local.services.scripted import Recorded
from tests.store.durable_agents import MADE
from tests.store.durable_site import ASK, Function, frames
from tests.unit.chat_site import said

WORDS = " ".join(f"word{n}" for n in range(40))


def results(told: list[Any]) -> list[str]:
    return sorted(t["tool_result"]["content"] for t in told if "tool_result" in t)


def going_on(asked: Recorded) -> Reply:
    """Forty words, or what is left of them where the request brings the first ones."""
    last = asked.json["messages"][-1]
    before = last["content"] if last["role"] == "assistant" else ""
    return Reply(frames=tuple(re.findall(r"\s*\S+", WORDS[len(before) :])), delay_s=0.02)


async def read(told: AsyncIterator[str], *, until: str) -> list[str]:
    """Lines of a stream up to the first that contains the text."""
    lines: list[str] = []
    async for line in told:
        lines.append(line)
        if until in line:
            break
    return lines


async def test_a_turn_is_a_run_that_is_told_live(
    pair: list[Function], scripted_model: ScriptedModel
) -> None:
    one, _ = pair
    scripted_model.script(
        Reply.calls(("note", {"word": "a"})),
        Reply.calls(("note", {"word": "b"}), ("note", {"word": "c"})),
        Reply.text("All is noted."),
    )
    async with one.client() as client:
        answer = await client.post("/chat/stream", json=ASK)
    told = frames(answer.text)
    assert said(answer.text) == "All is noted."
    assert results(told) == ["noted a", "noted b", "noted c"]
    assert told[-2]["finish_reason"] == "stop"
    assert told[-2]["usage"]["completion_tokens"] > 0
    run = await one.until_run("completed")
    assert run["workflow"] == "agent.clerk"
    turn = answer.headers["x-stream-id"]
    assert [word for at, word in MADE if at == turn] == ["a", "b", "c"]


async def test_a_dead_functions_turn_goes_on_after_the_last_word_elsewhere(
    pair: list[Function], scripted_model: ScriptedModel
) -> None:
    first, second = pair
    scripted_model.script(Reply.calls(("note", {"word": "x"})), going_on, going_on)
    async with first.client() as client, client.stream("POST", "/chat/stream", json=ASK) as answer:
        turn = answer.headers["x-stream-id"]
        before = await read(answer.aiter_lines(), until="word9")
        await first.die()
    last = [line[4:] for line in before if line.startswith("id: ")][-1]
    async with second.client() as client:
        headers = {"last-event-id": last}
        after = (await client.get(f"/chat/streams/{turn}", headers=headers)).text
    assert said("\n".join(before)) + said(after) == WORDS
    assert [word for at, word in MADE if at == turn] == ["x"]
    assert scripted_model.generations[2].json["messages"][-1]["role"] == "assistant"
    assert frames(after)[-1] == "[DONE]"
    await second.until_run("completed")


async def test_a_reader_here_is_told_what_another_function_goes_on_with(
    pair: list[Function], scripted_model: ScriptedModel
) -> None:
    first, second = pair
    scripted_model.script(going_on, going_on)
    async with first.client() as client, client.stream("POST", "/chat/stream", json=ASK) as answer:
        lines = answer.aiter_lines()
        before = await read(lines, until="word5")
        run = await first.run()
        # The slice here is cut off; this function lives on and reads what the other one writes.
        first.parts.engine.stop_run(run["_id"])
        await first.until_run("waiting")
        await second.parts.engine.advance([run["_id"]])
        rest = [line async for line in lines]
    assert said("\n".join([*before, *rest])) == WORDS
    await second.until_run("completed")
    assert len(scripted_model.generations) == 2


async def test_a_reader_who_leaves_ends_nothing(
    pair: list[Function], scripted_model: ScriptedModel
) -> None:
    first, second = pair
    scripted_model.script(going_on, going_on)
    async with first.client() as client, client.stream("POST", "/chat/stream", json=ASK) as answer:
        turn = answer.headers["x-stream-id"]
        await read(answer.aiter_lines(), until="word3")
    run = await first.until_run("waiting")
    await second.parts.engine.advance([run["_id"]])
    async with first.client() as client:
        text = (await client.get(f"/chat/streams/{turn}")).text
    assert said(text) == WORDS


async def test_a_finished_call_is_not_made_again_and_an_unclear_one_is_told(
    pair: list[Function], scripted_model: ScriptedModel
) -> None:
    first, second = pair
    scripted_model.script(
        Reply.calls(("note", {"word": "once"})), Reply.calls(("stall", {})), Reply.text("So.")
    )
    async with first.client() as client, client.stream("POST", "/chat/stream", json=ASK) as answer:
        turn = answer.headers["x-stream-id"]
        await read(answer.aiter_lines(), until='"stall"')
        async with asyncio.timeout(30):
            while (turn, "stall") not in MADE:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await first.die()
    async with second.client() as client:
        told = frames((await client.get(f"/chat/streams/{turn}")).text)
    assert [word for at, word in MADE if at == turn] == ["once", "stall"]
    assert any("whether it took effect is not known" in one for one in results(told))


@pytest.mark.parametrize("silent", ["model", "tool"])
async def test_a_step_that_says_nothing_is_stopped_from_elsewhere_at_once(
    pair: list[Function],
    scripted_model: ScriptedModel,
    capsys: pytest.CaptureFixture[str],
    silent: str,
) -> None:
    first, second = pair
    thinks, stalls = Reply.text("x", first_delay_s=60), Reply.calls(("stall", {}))
    scripted_model.script(
        Reply.calls(("note", {"word": "a"})), thinks if silent == "model" else stalls
    )
    async with (
        first.client() as one,
        second.client() as two,
        one.stream("POST", "/chat/stream", json=ASK) as answer,
    ):
        turn, lines = answer.headers["x-stream-id"], answer.aiter_lines()
        await scripted_model.until(lambda: len(scripted_model.generations) == 2)
        await read(lines, until="noted a" if silent == "model" else '"stall"')
        await asyncio.sleep(0.3)  # the silence has begun
        began_s = time.monotonic()
        assert (await two.delete(f"/chat/streams/{turn}")).status_code == 202
        rest = await read(lines, until=":stopped")
        assert ":stopped" in rest[-1]
        assert time.monotonic() - began_s < 20
    flush()
    told = capsys.readouterr().out
    assert '"Requests":' in told
    assert '"StreamsBroken":' not in told, "a stop would take a deploy back"
    await first.until_run("cancelled")
    if silent == "model":
        await scripted_model.until(lambda: scripted_model.generations[1].hung_up)


async def test_a_turn_whose_beginner_died_at_once_is_told_by_whoever_takes_it_over(
    pair: list[Function], scripted_model: ScriptedModel
) -> None:
    first, second = pair
    scripted_model.script(Reply.text("All the same."))
    info, turn = first.parts.registry.info("clerk"), new_ulid(first.parts.clock)
    asked = {"messages": [Message(role=Role.user, content="Do it.")], "model": "m"}
    input = turn_input(
        info, turn=turn, **asked, options={}, think=None, scopes=frozenset(), key=None
    )
    began = {"client": "ann", "key": f"turn:{turn}", "version": info.version}
    started = await first.parts.engine.take_internal(workflow_name("clerk"), input, **began)
    assert started.claimed is not None
    assert (started.run["status"], started.run["claims"]) == ("running", 1)
    run_id = started.run["_id"]
    assert (await second.parts.engine.advance([run_id]))[run_id].did == "nothing"
    await first.die()
    await second.parts.engine.advance([run_id])
    async with second.client() as client:
        text = (await client.get(f"/chat/streams/{turn}")).text
    assert said(text) == "All the same."
    assert frames(text)[-1] == "[DONE]"


async def test_a_function_that_goes_away_costs_no_word(
    pair: list[Function], scripted_model: ScriptedModel
) -> None:
    first, second = pair
    scripted_model.script(going_on, going_on)
    async with first.client() as client, client.stream("POST", "/chat/stream", json=ASK) as answer:
        turn, lines = answer.headers["x-stream-id"], answer.aiter_lines()
        before = await read(lines, until="word5")
        first.parts.chats.stop()
        before += [line async for line in lines]
    last = [line[4:] for line in before if line.startswith("id: ")][-1]
    assert "event: error" in before
    await first.until_run("waiting")
    async with second.client() as client:
        headers = {"last-event-id": last}
        after = (await client.get(f"/chat/streams/{turn}", headers=headers)).text
    assert said("\n".join(before)) + said(after) == WORDS

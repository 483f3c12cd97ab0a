"""An idempotency key stands for one run of a durable agent, whoever dies or asks again."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta

import pytest

from lambent.admission.decisions import Scope
from lambent.agents.durable import workflow_name
from lambent.agents.turn_input import turn_input
from lambent.chat.idempotency import IdempotencyKeys, KeyRecord, KeyStatus
from lambent.clock import SystemClock
from lambent.engine.model import RUNS
from lambent.http.keyed import canonical
from lambent.models.values import Message, Role
from local.services import ScriptedModel
from local.services.script import Reply
from tests.store.durable_agents import MADE
from tests.store.durable_site import ASK, Function
from tests.unit.chat_site import said

KEY = {"idempotency-key": "order-66"}


class Earlier(SystemClock):
    def now(self) -> datetime:
        return super().now() - timedelta(minutes=1)


async def claimed_and_died(one: Function) -> KeyRecord:
    """The key as a function left it that was killed a minute ago."""
    asked = canonical("/chat/stream", json.dumps(ASK).encode())
    keys = IdempotencyKeys(lambda: one.parts.mongo, clock=Earlier())
    record, owned = await keys.claim(KEY["idempotency-key"], asked, client="ann")
    assert owned
    return record


async def begun_and_died(one: Function) -> str:
    """The same, its turn begun; the run's id."""
    record = await claimed_and_died(one)
    said = [Message(role=Role.user, content=ASK["input"])]
    info = one.parts.registry.info("clerk")
    asked = turn_input(
        info, turn=record.turn, messages=said, model="another", options={}, think=None,
        scopes=frozenset(), key=None,
    )  # fmt: skip
    started = await one.parts.engine.take_internal(
        workflow_name("clerk"), asked, client="ann", key=f"turn:{record.turn}", version=info.version
    )
    await one.die()
    return str(started.run["_id"])


async def asked_by_all(*at: Function) -> list[str]:
    """What each of four requests with the key is answered, all at once."""

    async def ask(one: Function) -> str:
        async with one.client() as client:
            answer = await client.post("/chat/stream", json=ASK, headers=KEY)
            assert answer.status_code == 200, answer.text
            return answer.headers["x-stream-id"] + without_comments(answer.text)

    return await asyncio.gather(*(ask(one) for one in (*at, *at)))


def without_comments(text: str) -> str:
    return "".join(line for line in text.splitlines(True) if not line.startswith(":"))


async def run_ids(one: Function) -> list[str]:
    return [run["_id"] for run in await one.parts.mongo.db[RUNS.collection].find({}).to_list()]


@pytest.mark.parametrize("died", ["before its turn", "with its turn begun"])
async def test_who_asks_again_gets_the_answer_of_the_one_run(
    pair: list[Function], scripted_model: ScriptedModel, died: str
) -> None:
    one, two = pair
    scripted_model.script(Reply.calls(("note", {"word": "a"})), Reply.text("All is noted."))
    run = await begun_and_died(one) if died == "with its turn begun" else None
    turn = (await claimed_and_died(one)).turn if run is None else None
    answers = await asked_by_all(one, two)
    assert len(set(answers)) == 1
    assert said(answers[0]) == "All is noted."
    (made,) = await run_ids(one)
    assert run in (None, made)
    assert turn is None or answers[0].startswith(turn)
    assert [word for at, word in MADE if answers[0].startswith(at)] == ["a"]
    assert len(scripted_model.generations) == 2
    async with two.client() as client:
        other = await client.post("/chat/stream", json={**ASK, "input": "Else."}, headers=KEY)
    assert other.status_code == 422


async def test_a_telling_that_breaks_off_leaves_the_key_to_the_same_run(
    pair: list[Function], scripted_model: ScriptedModel
) -> None:
    one, two = pair
    scripted_model.script(Reply.many(3, delay_s=0.2), Reply.text("Done."))
    asked = {"json": ASK, "headers": KEY}
    async with one.client() as client, client.stream("POST", "/chat/stream", **asked) as answer:
        turn = answer.headers["x-stream-id"]
        async for line in answer.aiter_lines():
            if "delta" in line:
                one.parts.chats.stop()
    await until_key(one, KeyStatus.FAILED)
    async with two.client() as client:
        again = await client.post("/chat/stream", **asked)
    assert again.headers["x-stream-id"] == turn
    assert "[DONE]" in again.text
    assert len(await run_ids(one)) == 1


async def test_after_a_failure_the_key_begins_a_new_run(
    pair: list[Function], scripted_model: ScriptedModel
) -> None:
    one, _ = pair
    scripted_model.script(Reply.failure(400, "no"), Reply.text("Now."))
    async with one.client() as client:
        first = await client.post("/chat", json=ASK, headers=KEY)
        second = await client.post("/chat", json=ASK, headers=KEY)
    assert (first.status_code, second.status_code) == (400, 200)
    assert "Now." in second.text
    assert len(await run_ids(one)) == 2


async def test_another_key_of_the_client_is_answered_out_of_the_same_run(
    pair: list[Function], scripted_model: ScriptedModel
) -> None:
    one, two = pair
    scripted_model.script(Reply.text("Once."))
    run = await begun_and_died(one)
    narrow = (await two.parts.keys.create("ann", "chat only", scopes=[Scope.CHAT])).text
    async with two.client(narrow) as client:
        answer = await client.post("/chat/stream", json=ASK, headers=KEY)
    assert said(answer.text) == "Once."
    assert await run_ids(one) == [run]


async def until_key(one: Function, status: KeyStatus) -> None:
    async with asyncio.timeout(30):
        keys = one.parts.mongo.db["idempotency"]
        while not await keys.find_one({"status": status.value}):  # noqa: ASYNC110
            await asyncio.sleep(0.02)

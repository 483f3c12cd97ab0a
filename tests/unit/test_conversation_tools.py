"""What an answer called is kept beside it, for people: read back whole, and told to no model."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import bson
import pytest

from lambent.agents.tool_calls import ToolEnded, ToolStarted
from lambent.agents.tool_uses import ToolUse, ToolUses, cut
from lambent.chat.conversations import ConversationStore
from lambent.chat.entries import Entry, entry_document, entry_of
from lambent.clock import EPOCH, SystemClock
from lambent.http.admin.pages_chat import newest, pieces
from lambent.models.values import Message, Role
from lambent.mongo import Mongo
from local.services import ScriptedModel
from local.services.script import Reply
from tests.unit.stream_sites import Sites, two_sites
from tests.unit.test_agents_tools import AdderAgent
from tests.unit.test_conversations_http import Site, site

HOSTILE = "<img src=x onerror=alert(1)>\x00{{7*7}}"
USE: dict[str, Any] = {
    "id": "1.1", "name": HOSTILE, "arguments": '{"$set": {"a.b": "<b>"}}', "result": HOSTILE,
    "failed": True, "after": 4,
}  # fmt: skip

__all__ = ["site"]  # a fixture


@pytest.fixture
async def sites(
    postgres_dsn: str, scripted_model: ScriptedModel, mongo_uri: str, mongo_db_name: str
) -> AsyncIterator[Sites]:
    stores = (postgres_dsn, scripted_model.host, mongo_uri, mongo_db_name)
    async with two_sites(*stores, agents=[AdderAgent]) as sites:
        yield sites


async def test_a_turns_calls_are_kept_with_its_answer_and_told_to_no_later_model(
    sites: Sites, mongo_uri: str, mongo_db_name: str, scripted_model: ScriptedModel
) -> None:
    mongo = Mongo(mongo_uri, mongo_db_name, clock=SystemClock())
    store = ConversationStore(lambda: mongo, clock=SystemClock())
    made = await store.create("tests")
    calls = (("add", {"left": 1, "right": 2}), ("fail", {}))
    scripted_model.script(Reply.calls(*calls), Reply.text("Three."), Reply.text("Yes."))
    one, two = sites.clients()
    async with one, two:
        asked = {"agent": "adder", "input": "1 and 2?", "conversation": made.id}
        assert (await one.post("/chat", json=asked)).json()["output"] == "Three."
        await two.post("/chat", json={**asked, "input": "Sure?"})
    entries = await store.entries(made.id, client="tests")
    await mongo.close()
    assert list(entries[0].tools) == [1]  # of the answer
    added, failed = entries[0].tools[1]
    assert (added.name, json.loads(added.arguments)) == ("add", {"left": 1, "right": 2})
    assert (added.result, added.failed, added.after) == ("3", False, 0)
    assert (failed.name, failed.failed) == ("fail", True)
    assert entries[1].tools == {}
    told = json.dumps(scripted_model.generations[-1].json["messages"])
    assert "Three." in told
    assert "tool_calls" not in told


async def test_a_stopped_answer_is_added_with_its_calls_and_read_back(site: Site) -> None:
    acme = await site.caller("acme")
    at = (await acme.post("/conversations")).headers["location"]
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "", "tools": [USE]}]
    body = json.dumps({"messages": said})
    kind = {"content-type": "application/json"}
    assert (await acme.post(f"{at}/messages", content=body, headers=kind)).status_code == 201
    shown = (await acme.get(at)).json()["messages"]
    assert [one["content"] for one in shown] == ["Hi", ""]
    assert [one["tools"] for one in shown] == [[], [USE]]
    exported = json.loads((await acme.get(f"{at}/export")).content)
    assert exported["messages"][1]["tools"] == [USE]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "Hi", "tools": [USE]},
        {"role": "assistant", "content": "", "tools": []},
        {"role": "assistant", "content": "x", "tools": [{**USE, "after": -1}]},
        {"role": "assistant", "content": "x", "tools": [{**USE, "arguments": {"a": 1}}]},
    ],
)
async def test_what_no_answer_calls_is_refused(site: Site, message: dict[str, Any]) -> None:
    acme = await site.caller("acme")
    body = json.dumps({"messages": [message]})
    kind = {"content-type": "application/json"}
    answer = await acme.post("/conversations", content=body, headers=kind)
    assert answer.status_code == 422


def test_many_and_long_calls_are_cut_to_what_an_answer_has_room_for() -> None:
    uses = [ToolUse(str(n), "n" * 999, "a" * 9_999, "r" * 9_999) for n in range(200)]
    kept = cut(uses)
    assert len(kept) == 50
    assert sum(len(one.name + one.arguments + (one.result or "")) for one in kept) < 40_000
    assert kept[0].arguments.endswith("…")
    assert cut(uses[:1])[0].arguments == "a" * 4_000 + "…"


def test_any_text_of_a_model_comes_back_from_the_store() -> None:
    use = ToolUse("1", "half \ud800 of it", '{"$set": {"a.b": "\x00"}}', None, False, 3)
    entry = Entry(1, (Message(role=Role.assistant, content=""),), "t", EPOCH, tools={0: [use]})
    document = entry_document("c", "ann", entry)
    assert entry_of(bson.decode(bson.encode(document))).tools == {0: [use]}


def test_a_call_is_gathered_once_however_often_it_is_told() -> None:
    uses = ToolUses()
    uses.said("Let me look. ")
    for _ in range(2):
        uses.started(ToolStarted("1", "look", {"at": "ö"}))
        uses.ended(ToolEnded("1", "look", "nothing"))
        uses.said("There is nothing.")
    uses.ended(ToolEnded("2", "never begun", ""))
    assert uses.all() == (ToolUse("1", "look", '{\n  "at": "ö"\n}', "nothing", False, 13),)


def test_text_and_calls_are_drawn_in_the_order_in_which_they_came() -> None:
    first, second = ({"after": 3, "n": 1}, {"after": 3, "n": 2})
    assert pieces("abcdef", [first, second]) == [
        ("text", "abc"), ("tool", first), ("tool", second), ("text", "def"),
    ]  # fmt: skip
    assert pieces("", [first]) == [("tool", first)]
    assert pieces("", []) == [("text", "")]
    assert pieces("…ef", [first], left_out=4) == [("tool", first), ("text", "…ef")]


def test_a_page_of_answers_with_many_calls_stays_light() -> None:
    use = {**USE, "arguments": "<" * 9_000, "result": "&" * 9_000}
    answer = {"content": "<" * 90_000, "thinking": None}
    messages = [{**answer, "tools": [dict(use) for _ in range(50)]} for _ in range(9)]
    shown, more = newest(messages)
    assert more
    weight = sum(
        len(part) * 5 if kind == "text" else 5 * len(part["arguments"] + part["result"]) + 400
        for one in shown
        for kind, part in one["pieces"]
    )
    assert weight < 90_000

"""What Open WebUI 0.12.4 really sent, played against the whole local stack and read as it reads.

`recorded/open_webui-0.12.4.json` says how it was recorded. A scene stands in it once for each type
of its connections: Chat Completions, and Responses with "responses: " before its name.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import httpx
import pytest

from local.services import Reply, ScriptedModel
from local.services.script import Fault
from tests.functions.open_webui import RECORDED, OpenWebUi, Sent, every, read_whole, scene
from tests.functions.stack import Stack

BOTH = pytest.mark.parametrize("through", ["", "responses: "], ids=["completions", "responses"])
HELLO = "Hello from the script."
CLOCK = "get_current_timestamp"
TASKS = {
    "title": '{"title": "Blue Sky"}',
    "tags": '{"tags": ["Science"]}',
    "follow-ups": '{"follow_ups": ["And at dusk?"]}',
}


@pytest.fixture
def webui(scripted_stack: Stack) -> Iterator[OpenWebUi]:
    with httpx.Client(base_url=scripted_stack.url, timeout=30, trust_env=False) as client:
        yield OpenWebUi(client, key=scripted_stack.new_key())


def only(name: str, kind: str = "chat") -> Sent:
    (sent,) = scene(name, kind)
    return sent


def test_its_models_are_ours_and_a_wrong_key_is_told(webui: OpenWebUi) -> None:
    for sent in (only("verify", "models"), only("chat", "list")):
        listed = webui.whole(sent).json()["data"]
        assert {"agent:chat", "agent:news", "smollm2:135m"} <= {one["id"] for one in listed}
    refused = webui.whole(only("verify with a wrong key", "models"))
    assert refused.status_code == 401
    assert "known" in refused.json()["error"]["message"]


@pytest.mark.parametrize("sent", list(every()), ids=lambda sent: f"{sent.scene} ({sent.kind})")
def test_nothing_that_it_sends_is_refused(webui: OpenWebUi, sent: Sent) -> None:
    if sent.scene != "verify with a wrong key":
        answer = webui.whole(sent)
        assert answer.status_code == 200, answer.text


@BOTH
def test_a_chat_streams_and_goes_on(webui: OpenWebUi, script: ScriptedModel, through: str) -> None:
    assert webui.show(only(f"{through}chat")).text == HELLO
    asked = script.generations[-1].json
    tools = RECORDED["shared"][f"{through.replace(':', '')}tools"]
    assert len(asked["tools"]) == len(tools) == 36
    assert webui.show(only(f"{through}thinking goes on")).text == HELLO
    assert [one["role"] for one in script.generations[-1].json["messages"]] == [
        "user", "assistant", "user",
    ]  # fmt: skip


def test_an_answer_is_made_anew(webui: OpenWebUi, script: ScriptedModel) -> None:
    script.script(Reply.text("Once."), Reply.text("Twice."))
    told = [webui.show(only(name)).text for name in ("chat goes on", "regenerate")]
    assert told == ["Once.", "Twice."]


@BOTH
@pytest.mark.parametrize("task", TASKS)
def test_its_tasks_are_answered_whole(
    webui: OpenWebUi, script: ScriptedModel, through: str, task: str
) -> None:
    script.script(Reply.text(TASKS[task]))
    answer = webui.whole(only(f"{through}chat", task))
    assert read_whole(answer.json()) == TASKS[task]


@BOTH
def test_thinking_is_shown_apart(webui: OpenWebUi, script: ScriptedModel, through: str) -> None:
    script.script(Reply.text("Because.", thinking=("Let me ", "see.")))
    shown = webui.show(only(f"{through}thinking"))
    assert (shown.thinking, shown.text) == ("Let me see.", "Because.")


@BOTH
def test_it_carries_out_a_call_and_tells_the_outcome(
    webui: OpenWebUi, script: ScriptedModel, through: str
) -> None:
    script.script(Reply.calls((CLOCK, {})), Reply.text("It is midnight."))
    ask, tell = scene(f"{through}tool")
    (call,) = webui.show(ask).calls.values()
    assert (call["name"], json.loads(call["arguments"])) == (CLOCK, {})
    assert call["id"]
    assert webui.show(tell).text == "It is midnight."
    *_, called, told = script.generations[-1].json["messages"]
    assert called["tool_calls"][0]["function"]["name"] == CLOCK
    assert (told["role"], told["tool_name"]) == ("tool", CLOCK)
    assert webui.show(only(f"{through}tool goes on")).text == HELLO


@BOTH
def test_an_image_reaches_the_model(webui: OpenWebUi, script: ScriptedModel, through: str) -> None:
    assert webui.show(only(f"{through}image")).text == HELLO
    asked = script.generations[-1].json
    assert asked["model"] == "llava:7b"
    assert asked["messages"][-1]["images"][0].startswith("iVBORw0KGgo")


def test_a_file_is_embedded_looked_up_and_told(webui: OpenWebUi, script: ScriptedModel) -> None:
    vectors = [
        webui.whole(sent).json()["data"][0]["embedding"] for sent in scene("file", "embeddings")
    ]
    assert len(vectors) == 2
    assert all(type(one) is float for vector in vectors for one in vector)
    both = webui.whole(only("embeddings", "embeddings")).json()["data"]
    assert [len(one["embedding"]) for one in both] == [len(vectors[0])] * 2
    assert webui.show(only("file")).text == HELLO
    assert "green on Tuesdays" in script.generations[-1].json["messages"][-1]["content"]


def test_stop_stops_the_model(webui: OpenWebUi, script: ScriptedModel) -> None:
    script.script(Reply.many(20_000, delay_s=0.01))
    with webui.open(only("stop")) as answer:
        assert next(answer.iter_lines()).startswith("data:")
        generation = script.generations[-1]
    until = time.monotonic() + 20
    while not generation.hung_up and time.monotonic() < until:
        time.sleep(0.01)
    assert generation.hung_up


@BOTH
def test_what_breaks_is_said_behind_what_was_told(
    webui: OpenWebUi, script: ScriptedModel, through: str
) -> None:
    script.script(Reply.text("It broke", fault=Fault.BREAK))
    shown = webui.show(only(f"{through}model server breaks"))
    assert (shown.text, shown.error) == ("It broke", "The connection to the model server broke.")


def test_an_agent_is_talked_to_whatever_tools_it_is_offered(
    webui: OpenWebUi, script: ScriptedModel
) -> None:
    shown = webui.show(only("agent"))
    assert (shown.text, shown.error) == (HELLO, "")
    assert "tools" not in script.generations[-1].json


@BOTH
def test_sources_of_an_agent_are_shown(webui: OpenWebUi, through: str) -> None:
    shown = webui.show(only(f"{through}agent with sources"))
    assert shown.text.startswith(HELLO)
    assert sorted(title for title, _ in shown.sources) == ["Grass", "Sky"]
    assert all(url.startswith("http://") for _, url in shown.sources)


def test_parameters_reach_the_model_and_usage_comes_back(
    webui: OpenWebUi, script: ScriptedModel
) -> None:
    sent = only("parameters and usage")
    shown = webui.show(sent)
    assert shown.usage["completion_tokens"] == 4
    asked = script.generations[-1].json
    assert asked["think"] == sent.body["reasoning_effort"]
    same = set(asked["options"]) & set(sent.body)
    assert {name: asked["options"][name] for name in same} == {
        name: sent.body[name] for name in same
    }
    assert set(asked["options"]) - same == {"num_predict"}
    assert asked["options"]["num_predict"] == sent.body["max_tokens"]

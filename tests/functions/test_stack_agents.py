"""A durable agent's turn through the whole stack, while the functions that carry it are killed."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx

from local.services import ScriptedModel
from local.services.script import Fault, Reply
from local.services.scripted import Recorded
from tests.functions.stack import Stack, frames

WORDS = " ".join(f"word{n}" for n in range(60))


KEYED = ("cyd", "dan")
NOTHING = Reply.text("Never heard.", first_delay_s=60)
FIVE_WORDS = Reply.text(" ".join(WORDS.split()[:5]), fault=Fault.HANG)


def script_turn(script: ScriptedModel, name: str, *, silent_at: int = 0) -> None:
    """First a call of `remember`, then sixty slow words, gone on with where some are said.

    The `silent_at`th time that it is asked, it says five words at once, and then nothing more; or
    nothing at all, the first time.
    """

    def answer(asked: Recorded) -> Reply:
        if silent_at == len(asked_for(script, name)):
            return NOTHING if silent_at == 1 else FIVE_WORDS
        messages = asked.json["messages"]
        if not any(one["role"] == "tool" for one in messages):
            return Reply.calls(("remember", {"text": f"noted by {name}"}))
        before = messages[-1]["content"] if messages[-1]["role"] == "assistant" else ""
        return Reply(frames=tuple(re.findall(r"\s*\S+", WORDS[len(before) :])), delay_s=0.1)

    script.when(lambda asked: name in str(asked.json.get("messages")), answer)


@dataclass
class Reader:
    """Reads one turn, over any number of connections."""

    client: httpx.Client
    turn: str = ""
    last: str = "0"
    text: str = ""

    def read(self, until: Callable[[], bool], **request: Any) -> None:
        """Read on until that is so, the stream ends, or the connection breaks."""
        with (
            suppress(httpx.RemoteProtocolError, httpx.ReadError),
            self.client.stream(**request) as a,
        ):
            self.turn = a.headers.get("x-stream-id", self.turn)
            for line in a.iter_lines():
                if line.startswith("id: "):
                    self.last = line[4:]
                if line.startswith("data: ") and (told := frames(line)) and told[0] != "[DONE]":
                    self.text += told[0].get("delta", "")  # type: ignore[union-attr]
                if until():
                    return

    def begin(
        self, name: str, words: int, then: Callable[[], object] = lambda: None, **more: str
    ) -> None:
        """Read so many words; `then`, while the connection is still there, do that."""

        def until() -> bool:
            enough = f"word{words}" in self.text
            if enough:
                then()
            return enough

        self.read(until, method="POST", url="/chat/stream", json={**asked_by(name), **more})

    def resume(self) -> None:
        until = time.monotonic() + 90
        while not self.text.endswith("word59") and time.monotonic() < until:
            self.read(
                lambda: False,
                method="GET",
                url=f"/chat/streams/{self.turn}",
                headers={"last-event-id": self.last},
            )


def kill_all(stack: Stack, *functions: str) -> None:
    pids = stack.pids()["functions"]
    for pid in (int(pid) for name in functions for pid in pids[name]):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def asked_for(script: ScriptedModel, name: str) -> list[Any]:
    return [one for one in script.generations if name in str(one.json.get("messages"))]


def test_readers_get_the_whole_answer_though_chat_and_step_are_killed(
    scripted_stack: Stack, script: ScriptedModel
) -> None:
    for name in ("ada", "bob"):
        script_turn(script, name)
    with scripted_stack.client() as client:
        ada, bob = Reader(client), Reader(client)
        # Ada's reader leaves, so that the step function has her turn when it is killed.
        ada.begin("ada", 3)
        await_all(lambda: len(asked_for(script, "ada")) == 3)
        bob.begin("bob", 3, then=lambda: kill_all(scripted_stack, "chat", "step"))
        bob.resume()
        ada.resume()
        kept = [client.get(f"/chat/streams/{one.turn}").text for one in (ada, bob)]
    assert ada.text == WORDS
    assert bob.text == WORDS
    for text in kept:
        told = frames(text)
        assert told[-1] == "[DONE]"
        assert sum("finish_reason" in one for one in told) == 1
        assert re.findall(r"^id: (\d+)$", text, re.M) == [str(n + 1) for n in range(len(told) - 1)]
    embedded = [str(one.json) for one in script.requests if one.path == "/api/embed"]
    assert [sum(f"noted by {name}" in one for one in embedded) for name in ("ada", "bob")] == [1, 1]


def test_a_key_sent_again_gets_the_run_that_a_killed_chat_function_had_begun(
    scripted_stack: Stack, script: ScriptedModel
) -> None:
    script_turn(script, "cyd", silent_at=1)  # no frame: the key is not told which stream it is
    script_turn(script, "dan")
    with scripted_stack.client() as client, ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(keyed, scripted_stack, name) for name in KEYED]
        await_all(lambda: all(len(asked_for(script, name)) > n for n, name in enumerate(KEYED)))
        time.sleep(1.0)
        kill_all(scripted_stack, "chat")
        wait(sent)
        time.sleep(11.0)  # the dead function's claims of the keys lapse
        again = [pool.submit(keyed, scripted_stack, name) for name in (*KEYED, *KEYED)]
        answers = [one.result() for one in again]
        other = client.post("/chat/stream", json=asked_by("eve"), headers=key_of("cyd"))
        runs = client.get("/runs", params={"workflow": "agent.research", "limit": 200}).json()
    assert other.status_code == 422
    for name, one, two in zip(KEYED, answers[:2], answers[2:], strict=True):
        assert one == two
        assert "".join(told.get("delta", "") for told in one if told != "[DONE]") == WORDS
        assert one[-1] == "[DONE]"
        assert sum(name in str(run["input"]) for run in runs["runs"]) == 1
        embedded = [str(one.json) for one in script.requests if one.path == "/api/embed"]
        assert sum(f"noted by {name}" in one for one in embedded) == 1


def test_a_turn_without_readers_whose_functions_are_killed_is_in_its_conversation_once(
    scripted_stack: Stack, script: ScriptedModel
) -> None:
    script_turn(script, "gil")
    with scripted_stack.client() as client:
        made = client.post("/conversations", json={}).json()["id"]

        def kept() -> list[str]:
            found = client.get(f"/conversations/{made}").json()
            return [one["content"] for one in found["messages"]]

        gil = Reader(client)
        kill = partial(kill_all, scripted_stack, "chat", "step")
        gil.begin("gil", 3, then=kill, conversation=made)
        before = kept()
        await_all(kept, within_s=120)
        run = client.get("/runs", params={"workflow": "agent.research"}).json()["runs"][0]
        await_all(lambda: client.get(f"/runs/{run['id']}").json()["status"] == "completed")
        assert before == []
        assert kept() == [asked_by("gil")["input"], WORDS]


def test_what_a_killed_turn_used_is_booked_as_the_model_server_told_it(
    scripted_stack: Stack, script: ScriptedModel
) -> None:
    script_turn(script, "fay", silent_at=2)
    key = scripted_stack.new_key()

    def booked(*expected: int) -> bool:
        model = asked_for(script, "fay")[0].json["model"]
        with scripted_stack.client(key) as client:
            total = client.get("/usage", params={"agent": "research", "model": model}).json()[
                "total"
            ]
        names = ("requests", "broken", "prompt_tokens", "completion_tokens")
        return expected == tuple(total[name] for name in names)

    def kill_once_booked() -> None:
        await_all(
            lambda: booked(2, 1, 7, 1 + 5)
        )  # the tool's call, and the pieces of the silent one
        kill_all(scripted_stack, "chat", "step")

    with scripted_stack.client(key) as client:
        reader = Reader(client)
        reader.begin("fay", 4, then=kill_once_booked)
        reader.resume()
    assert reader.text == WORDS
    assert len(asked_for(script, "fay")) == 3
    await_all(lambda: booked(3, 1, 7 + 7, 1 + 5 + 55))
    time.sleep(1.5)  # nor is anything booked that comes late
    assert booked(3, 1, 7 + 7, 1 + 5 + 55)


def asked_by(name: str) -> dict[str, str]:
    return {"agent": "research", "input": f"This is {name}."}


def key_of(name: str) -> dict[str, str]:
    return {"idempotency-key": f"the key of {name}".replace(" ", "-")}


def keyed(stack: Stack, name: str) -> list[Any]:
    """All that the turn is told, or what of it came before the connection broke."""
    with suppress(httpx.TransportError), stack.client() as client:
        answer = client.post("/chat/stream", json=asked_by(name), headers=key_of(name), timeout=120)
        return frames(answer.text)
    return []


def await_all(condition: Callable[[], object], *, within_s: float = 30) -> None:
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)

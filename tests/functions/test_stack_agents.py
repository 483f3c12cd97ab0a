"""A durable agent's turn through the whole stack, while the functions that carry it are killed."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx

from local.services import ScriptedModel
from local.services.script import Reply
from local.services.scripted import Recorded
from tests.functions.stack import Stack, frames

WORDS = " ".join(f"word{n}" for n in range(60))


def script_turn(script: ScriptedModel, name: str) -> None:
    """First a call of `remember`, then sixty slow words, gone on with where some are said."""

    def answer(asked: Recorded) -> Reply:
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

    def begin(self, name: str, words: int) -> None:
        body = {"agent": "research", "input": f"This is {name}."}
        enough = f"word{words}"
        self.read(lambda: enough in self.text, method="POST", url="/chat/stream", json=body)

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
    return [one for one in script.generations if name in str(one.json["messages"])]


def test_readers_get_the_whole_answer_though_chat_and_step_are_killed(
    scripted_stack: Stack, script: ScriptedModel
) -> None:
    for name in ("ada", "bob"):
        script_turn(script, name)
    with scripted_stack.client() as client:
        ada, bob = Reader(client), Reader(client)
        # Ada's reader leaves, so that the step function has her turn when it is killed.
        ada.begin("ada", 3)
        until = time.monotonic() + 20
        while len(asked_for(script, "ada")) < 3 and time.monotonic() < until:
            time.sleep(0.02)
        bob.begin("bob", 3)
        kill_all(scripted_stack, "chat", "step")
        bob.resume()
        ada.resume()
    assert ada.text == WORDS
    assert bob.text == WORDS
    embedded = [str(one.json) for one in script.requests if one.path == "/api/embed"]
    assert [sum(f"noted by {name}" in one for one in embedded) for name in ("ada", "bob")] == [1, 1]

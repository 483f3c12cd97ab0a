"""OpenAI's clients with an idempotency key, at a durable agent whose chat function is killed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier
from typing import Any

import httpx
import pytest
from openai import OpenAI

from local.services import ScriptedModel
from tests.functions.stack import Stack, frames
from tests.functions.test_stack_agents import WORDS, asked_for, key_of, kill_all, script_turn

LIMIT_S = 240


def body_of(name: str, path: str) -> Any:
    if path == "responses":
        return {"input": f"This is {name}.", "model": "agent:research", "stream": True}
    said = {"role": "user", "content": f"This is {name}."}
    return {"messages": [said], "model": "agent:research", "stream": True}


class Caller:
    """Sends one request until it has the whole answer; knows the last event that it has seen."""

    def __init__(self, stack: Stack, name: str, path: str) -> None:
        self.stack = stack
        self.name = name
        self.path = path
        self.told = ""
        self.streams: set[str] = set()

    @property
    def text(self) -> str:
        text = ""
        for data in frames(self.told):
            match data:
                case {"choices": [{"delta": {"content": str(more)}}]}:
                    text += more
                case {"type": "response.output_text.delta", "delta": str(more)}:
                    text += more
        return text

    @property
    def numbers(self) -> list[str]:
        return re.findall(r"^id: (\d+)$", self.told, re.M)

    def read(self, *, until: str, then: Callable[[], object] = lambda: None) -> None:
        """On behind the last event, up to one that says so, or to where the connection breaks;
        `then`, while the connection is still there, do that."""
        seen = {"last-event-id": self.numbers[-1]} if self.told else {}
        asked = {"json": body_of(self.name, self.path), "headers": {**key_of(self.name), **seen}}
        event = ""
        with (
            suppress(httpx.TransportError),
            self.stack.client() as client,
            client.stream("POST", f"/v1/{self.path}", timeout=LIMIT_S, **asked) as answer,
        ):
            if answer.status_code != 200:  # the function that had it was killed just now
                return
            self.streams.add(answer.headers["x-stream-id"])
            for line in answer.iter_lines():
                event += "" if line.startswith(":") else f"{line}\n"
                if not line and event.strip():
                    self.told += event
                    if until in event:
                        then()
                        return
                if not line:
                    event = ""

    def come_back(self, end: str) -> None:
        until_s = time.monotonic() + LIMIT_S
        while end not in self.told and time.monotonic() < until_s:
            self.read(until=end)
            time.sleep(0.1)


ENDS = {"chat/completions": "[DONE]", "responses": "response.completed"}


@pytest.mark.parametrize("pause_s", [0.0, 11.0], ids=["at once", "once the key's claim lapsed"])
def test_a_retry_goes_on_behind_the_last_event_of_a_killed_function(
    scripted_stack: Stack, script: ScriptedModel, pause_s: float
) -> None:
    names = [f"{name}{pause_s:g}" for name in ("hal", "ida")]
    for name in names:
        script_turn(script, name)
    callers = [Caller(scripted_stack, *one) for one in zip(names, ENDS, strict=True)]
    read, killed = Barrier(3), Barrier(3)

    def see_it_killed() -> None:
        read.wait(LIMIT_S)
        killed.wait(LIMIT_S)

    def call(one: Caller) -> None:
        one.read(until="word3", then=see_it_killed)
        time.sleep(pause_s)
        one.come_back(ENDS[one.path])

    with ThreadPoolExecutor(2) as pool:
        calling = [pool.submit(call, one) for one in callers]
        read.wait(LIMIT_S)
        kill_all(scripted_stack, "chat", "step")
        killed.wait(LIMIT_S)
        for done in calling:
            done.result()
    for one in callers:
        assert one.text == WORDS
        assert one.numbers == [str(n + 1) for n in range(len(one.numbers))]
        assert len(one.streams) == 1
        again = Caller(scripted_stack, one.name, one.path)
        again.come_back(ENDS[one.path])
        assert again.told == one.told
        assert said(scripted_stack, one.name, one.path) == WORDS
        assert len(asked_for(script, one.name)) == 3


def said(stack: Stack, name: str, path: str) -> str:
    """What the official client, with types of its own, makes of the answer that is kept."""
    asked = {**body_of(name, path), "extra_headers": key_of(name)}
    with OpenAI(base_url=f"{stack.url}/v1", api_key=stack.admin_key, max_retries=0) as client:
        if path == "responses":
            *_, last = client.responses.create(**asked)
            return str(last.response.output_text)
        chunks = client.chat.completions.create(**asked)
        return "".join(one.choices[0].delta.content or "" for one in chunks)

"""Streams and keys through real function processes: cut, asked for many times at once, killed."""

from __future__ import annotations

import os
import random
import secrets
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx

from local.services import ScriptedModel
from local.services.script import Reply
from tests.functions.stack import Stack, frames

CHAT = {"agent": "chat", "input": "Why is the sky blue?"}
LEASE = {"x-stream-lease": "60"}


def test_a_stream_cut_at_twenty_frames_adds_up_through_several_functions(
    scripted_stack: Stack, script: ScriptedModel
) -> None:
    script.script(Reply.many(300, delay_s=0.04))
    chance, text, before = random.Random(7), "", ExitStack()
    processes: set[int] = set()
    asked: Any = {"json": CHAT, "headers": LEASE}
    with scripted_stack.client() as client, client.stream("POST", "/chat/stream", **asked) as uncut:
        url = f"/chat/streams/{uncut.headers['x-stream-id']}"
        for cut in range(21):
            # A function answers one request at a time, and two are under way: so this one is
            # neither the one that makes the stream nor the one that has told it up to here.
            opened, headers = ExitStack(), {"last-event-id": str(text.count("\n\n"))}
            pieces = opened.enter_context(client.stream("GET", url, headers=headers)).iter_text()
            before.close()
            before = opened
            processes |= set(scripted_stack.pids()["functions"]["chat"])
            text += read_events(pieces, chance.randint(1, 6) if cut < 20 else 1 << 30)
        before.close()
        whole = uncut.read().decode()
        kept = client.get(url).text
    assert len(processes) >= 3
    assert text == without_comments(whole) == without_comments(kept)
    assert len(frames(whole)) == 302
    assert frames(whole)[-1] == "[DONE]"


def test_fifty_at_once_with_one_key_are_one_generation(
    scripted_stack: Stack, script: ScriptedModel
) -> None:
    word = f"once-{secrets.token_hex(4)}"
    script.when(lambda asked: word in str(asked.json), lambda _: Reply.many(40, delay_s=0.05))
    asked = {"agent": "chat", "input": word}

    def ask(_: int) -> httpx.Response:
        with scripted_stack.client() as client:
            headers = {"idempotency-key": word}
            return client.post("/chat/stream", json=asked, headers=headers)

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(ask, range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({without_comments(answer.text) for answer in answers}) == 1
    assert frames(answers[0].text)[-1] == "[DONE]"
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 49
    assert sum(word in str(one.json) for one in script.generations) == 1
    assert len(scripted_stack.pids()["functions"]["chat"]) > 1


def test_a_killed_function_ends_its_streams_for_those_who_resume_them(
    scripted_stack: Stack, script: ScriptedModel
) -> None:
    script.script(Reply.many(3000, delay_s=0.02))
    with scripted_stack.client() as client:
        with client.stream("POST", "/chat/stream", json=CHAT, headers=LEASE) as got:
            id, text = got.headers["x-stream-id"], read_events(got.iter_text(), 40)
            for pid in scripted_stack.pids()["functions"]["chat"]:
                os.kill(pid, signal.SIGKILL)
        rest = resumed(client, id, after=5)
    assert text.count("\n\n") == 40
    assert rest.startswith("id: 6\n")
    assert "event: error\n" in rest
    assert "[DONE]" not in rest


def resumed(client: httpx.Client, id: str, *, after: int) -> str:
    """The rest of a stream, from a function that was not killed just now."""
    until = time.monotonic() + 15
    while time.monotonic() < until:
        answer = client.get(f"/chat/streams/{id}", headers={"last-event-id": str(after)})
        if answer.status_code == 200:
            return answer.text
        time.sleep(0.1)
    raise AssertionError(answer.text)


def read_events(pieces: Iterator[str], most: int) -> str:
    """Whole events, at most so many; what has come of the next one is dropped."""
    text, waiting = "", ""
    for piece in pieces:
        waiting += piece
        while "\n\n" in waiting and most > 0:
            event, _, waiting = waiting.partition("\n\n")
            if not event.startswith(":"):
                text, most = text + event + "\n\n", most - 1
        if most <= 0:
            break
    return text


def without_comments(text: str) -> str:
    """Comments come and go with the silence of the model."""
    return "".join(one + "\n\n" for one in text.split("\n\n")[:-1] if not one.startswith(":"))

"""Chats through the front port, as a client sees them, from the first frame to a hang-up."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from local.services import ScriptedModel
from local.services.script import Fault, Reply
from tests.functions.stack import Stack, frames

CHAT = {"agent": "chat", "input": "Why is the sky blue?"}


def test_the_real_model_streams_through_real_functions(real_stack: Stack) -> None:
    with real_stack.client() as client:
        answer = client.post("/chat/stream", json={**CHAT, "options": {"num_predict": 20}})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = frames(answer.text)
    assert told[-1] == "[DONE]"
    assert isinstance(told[-2], dict)
    assert told[-2]["usage"]["completion_tokens"] >= 1
    assert "".join(one.get("delta", "") for one in told[:-2] if isinstance(one, dict))


def test_one_json_answer_says_what_the_stream_says(real_stack: Stack) -> None:
    asked = {**CHAT, "options": {"num_predict": 12, "seed": 7, "temperature": 0}}
    with real_stack.client() as client:
        whole = client.post("/chat", json=asked).json()
        streamed = frames(client.post("/chat/stream", json=asked).text)
    text = "".join(one.get("delta", "") for one in streamed if isinstance(one, dict))
    assert text
    assert whole["output"] == text


def test_frames_arrive_while_the_model_still_generates(
    scripted_stack: Stack, script: ScriptedModel
) -> None:
    script.script(Reply.many(100, delay_s=0.02))
    at: list[float] = []
    with scripted_stack.client() as client, client.stream("POST", "/chat/stream", json=CHAT) as got:
        began = time.monotonic()
        for line in got.iter_lines():
            if line.startswith("data: {"):
                at.append(time.monotonic() - began)
    # Proportions of the model's own time, not a speed.
    generation_s = 100 * 0.02
    assert len(at) == 101
    assert at[-1] - at[0] >= 0.8 * generation_s
    assert at[0] <= 0.1 * generation_s


def test_every_frame_has_the_next_id(scripted_stack: Stack, script: ScriptedModel) -> None:
    script.script(Reply.text("one two three"))
    with scripted_stack.client() as client:
        text = client.post("/chat/stream", json=CHAT).text
    ids = [int(line[4:]) for line in text.splitlines() if line.startswith("id: ")]
    assert ids == list(range(1, len(ids) + 1))
    assert text.endswith("data: [DONE]\n\n")


def test_a_client_that_hangs_up_stops_the_generation(
    scripted_stack: Stack, script: ScriptedModel
) -> None:
    script.script(Reply.many(2000, delay_s=0.01))
    with scripted_stack.client() as client, client.stream("POST", "/chat/stream", json=CHAT) as got:
        assert next(got.iter_lines()).startswith("id: ")
        generation = script.generations[-1]
    until = time.monotonic() + 1.0
    while not generation.hung_up and time.monotonic() < until:
        time.sleep(0.01)
    assert generation.hung_up


def test_a_silent_model_is_covered_by_comments(
    scripted_stack: Stack, script: ScriptedModel
) -> None:
    script.script(Reply.text("late", first_delay_s=2.5))
    with scripted_stack.client() as client:
        text = client.post("/chat/stream", json=CHAT).text
    assert text.startswith(": keep-alive")
    assert frames(text)[-1] == "[DONE]"


def test_an_error_in_the_middle_is_an_event_and_no_done(
    scripted_stack: Stack, script: ScriptedModel
) -> None:
    script.script(Reply.many(5, fault=Fault.BREAK))
    with scripted_stack.client() as client:
        text = client.post("/chat/stream", json=CHAT).text
    assert "event: error\n" in text
    assert "[DONE]" not in text
    assert "Traceback" not in text


def test_many_chats_at_once_each_get_their_own_answer(
    scripted_stack: Stack, script: ScriptedModel
) -> None:
    script.when(
        lambda asked: "echo-" in str(asked.json),
        lambda asked: Reply.text(asked.json["messages"][-1]["content"], delay_s=0.02),
    )

    def one(number: int) -> tuple[str, httpx.Response]:
        word = f"echo-{number}"
        with scripted_stack.client() as client:
            return word, client.post("/chat", json={"agent": "chat", "input": word})

    with ThreadPoolExecutor(8) as pool:
        for word, answer in pool.map(one, range(24)):
            assert answer.status_code == 200, answer.text
            assert answer.json()["output"] == word

"""Metrics and log lines of real function processes, as CloudWatch would read them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

from local.services import ScriptedModel
from local.services.script import Reply
from tests.functions.stack import Stack
from tests.functions.test_stack_decisions import CHAT, wait_for
from tests.functions.test_stack_digest import DIGEST, wait_until


def lines_of(stack: Stack, function: str) -> list[dict[str, Any]]:
    """Every JSON line that the function wrote."""
    text = (stack.data / "logs" / f"{function}.log").read_text(errors="replace")
    return [json.loads(found) for found in re.findall(r"^\S+ \S+ \| (\{.*\})$", text, re.M)]


def total(stack: Stack, function: str, metric: str) -> float:
    return sum(sum(line.get(metric, ())) for line in lines_of(stack, function) if "_aws" in line)


def until(met: Callable[[], object], *, within_s: float = 30.0) -> None:
    ends_s = time.monotonic() + within_s
    while not met():
        assert time.monotonic() < ends_s
        time.sleep(0.05)


def test_a_chat_is_counted_and_timed_once_it_has_ended(scripted_stack: Stack) -> None:
    assert wait_for(scripted_stack, 200, within_s=20).status_code == 200
    names = ("Requests", "TimeToFirstTokenMs", "AdmissionMs", "ModelMs", "CompletionTokens")
    before = {name: total(scripted_stack, "chat", name) for name in names}
    with scripted_stack.client() as client:
        assert client.post("/chat/stream", json=CHAT).status_code == 200
    for name in names:
        until(lambda name=name: total(scripted_stack, "chat", name) > before[name])  # type: ignore[misc]


def test_a_refusal_is_counted_as_one(scripted_stack: Stack) -> None:
    before = total(scripted_stack, "chat", "RequestsRefused")
    with scripted_stack.client("lam_no_such") as client:
        assert client.post("/chat", json=CHAT).status_code == 401
    until(lambda: total(scripted_stack, "chat", "RequestsRefused") > before)


def changes(stack: Stack) -> tuple[float, float]:
    """How often the breaker opened, and closed, whosever call it was."""
    chat, step = (
        [total(stack, function, name) for name in ("BreakerOpened", "BreakerClosed")]
        for function in ("chat", "step")
    )
    return chat[0] + step[0], chat[1] + step[1]


def test_a_breaker_that_opens_and_closes_is_counted_once_each(
    scripted_stack: Stack, script: ScriptedModel
) -> None:
    answered = total(scripted_stack, "chat", "Requests")
    for _ in range(3):  # as many as close a breaker that another test has opened
        assert wait_for(scripted_stack, 200, within_s=20).status_code == 200
    # A line comes after its answer, and tells of the breaker too: these three must be there.
    until(lambda: total(scripted_stack, "chat", "Requests") >= answered + 3)
    opened, closed = changes(scripted_stack)
    script.stop_listening()
    try:
        with scripted_stack.client() as client:
            for _ in range(5):  # no more: a sixth could be a probe that opens it again
                assert client.post("/chat", json=CHAT).status_code == 503
    finally:
        script.listen_again()
    until(lambda: changes(scripted_stack) == (opened + 1, closed))
    for _ in range(3):
        assert wait_for(scripted_stack, 200, within_s=20).status_code == 200
    until(lambda: changes(scripted_stack) == (opened + 1, closed + 1))


def test_a_model_call_is_logged_under_its_request_run_and_step(
    scripted_stack: Stack, script: ScriptedModel
) -> None:
    script.when(lambda asked: "Sum up the article" in str(asked.json), Reply.text("Colour."))
    completed = total(scripted_stack, "step", "RunsCompleted")
    with scripted_stack.client() as client:
        answer = client.post("/runs", json={**DIGEST, "input": {}})
        run_id, request_id = answer.json()["id"], answer.headers["x-request-id"]
        wait_until(client, run_id, "completed")
    until(lambda: total(scripted_stack, "step", "RunsCompleted") > completed)
    calls = [
        line
        for line in lines_of(scripted_stack, "step")
        if line.get("message") == "Model call" and line["run_id"] == run_id
    ]
    assert {line["request_id"] for line in calls} == {request_id}
    assert all(line["step"] for line in calls)
    assert total(scripted_stack, "step", "StepMs") > 0
    assert total(scripted_stack, "gateway", "RunsStarted") >= 1

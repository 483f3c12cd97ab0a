"""The seed's decision tree over HTTP, branch by branch, and what happens when a part is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from local.services import ScriptedModel
from local.services.script import Reply
from tests.functions.stack import Stack

CHAT = {"agent": "chat", "input": "hello"}


def assert_problem(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == status
    assert document["type"] == f"urn:lambent:problem:{code}"
    assert "Traceback" not in answer.text


def wait_for(stack: Stack, status: int, *, within_s: float) -> httpx.Response:
    until = time.monotonic() + within_s
    with stack.client() as client:
        while True:
            answer = client.post("/chat", json=CHAT)
            if answer.status_code == status or time.monotonic() > until:
                return answer
            time.sleep(0.1)


@pytest.mark.parametrize("path", ["/chat", "/chat/stream"])
@pytest.mark.parametrize("key", ["x", "nonsense", "lam_", "lam_abc_def", "lam_" + "x" * 5000])
def test_401_without_a_good_key(scripted_stack: Stack, path: str, key: str) -> None:
    with scripted_stack.client(key) as client:
        assert_problem(client.post(path, json=CHAT), 401, "unauthenticated")


def test_401_comes_before_501(scripted_stack: Stack) -> None:
    with scripted_stack.client("lam_abc_def") as client:
        answer = client.post("/chat", json={"agent": "nobody", "input": "x"})
    assert_problem(answer, 401, "unauthenticated")


def test_a_revoked_key_is_refused_at_once(scripted_stack: Stack) -> None:
    with scripted_stack.client() as admin:
        made = admin.post("/keys", json={"name": "k", "client": "c", "scopes": ["chat"]}).json()
        with scripted_stack.client(made["key"]) as client:
            assert client.post("/chat", json=CHAT).status_code == 200
            assert admin.delete(f"/keys/{made['id']}").status_code == 204
            assert_problem(client.post("/chat", json=CHAT), 401, "unauthenticated")


def test_403_for_a_key_without_the_scope(scripted_stack: Stack) -> None:
    key = scripted_stack.new_key(scopes=["runs"])
    with scripted_stack.client(key) as client:
        assert_problem(client.post("/chat", json=CHAT), 403, "forbidden")
        assert_problem(client.get("/keys"), 403, "forbidden")


def test_429_comes_before_501_and_never_too_late(scripted_stack: Stack) -> None:
    key = scripted_stack.new_key(limit=20)

    def one(_: int) -> httpx.Response:
        with scripted_stack.client(key) as client:
            return client.post("/chat", json={"agent": "nobody", "input": "x"})

    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(one, range(60)))
    regained = (time.monotonic() - began) / 60 * 20
    passed = [one for one in answers if one.status_code == 501]
    refused = [one for one in answers if one.status_code == 429]
    assert len(passed) + len(refused) == 60
    assert 20 <= len(passed) <= 21 + regained
    assert_problem(refused[0], 429, "rate_limited")
    assert int(refused[0].headers["retry-after"]) >= 1
    assert "ratelimit" in refused[0].headers


def test_501_for_an_unknown_agent(scripted_stack: Stack) -> None:
    with scripted_stack.client() as client:
        answer = client.post("/chat/stream", json={"agent": "nobody", "input": "x"})
    assert_problem(answer, 501, "unknown_agent")


def test_503_opens_after_five_failures_and_one_probe_closes_it(
    scripted_stack: Stack, script: ScriptedModel
) -> None:
    script.stop_listening()
    try:
        with scripted_stack.client() as client:
            codes = [client.post("/chat", json=CHAT).json()["type"] for _ in range(6)]
            assert codes[:5] == ["urn:lambent:problem:model_unavailable"] * 5
            assert codes[5] == "urn:lambent:problem:breaker_open"
            refused = client.post("/chat", json=CHAT)
            assert_problem(refused, 503, "breaker_open")
            assert int(refused.headers["retry-after"]) >= 1
    finally:
        script.listen_again()
    assert wait_for(scripted_stack, 200, within_s=20).status_code == 200


def test_503_with_the_place_in_the_queue_when_no_slot_comes_free(
    scripted_stack: Stack, script: ScriptedModel
) -> None:
    for _ in range(3):  # as many as close a breaker that another test has opened
        assert wait_for(scripted_stack, 200, within_s=20).status_code == 200
    script.script(*[Reply.many(6000, delay_s=0.01)] * 4)
    with scripted_stack.client() as client, ExitStack() as held:
        asked = [client.stream("POST", "/chat/stream", json=CHAT) for _ in range(4)]
        reading = [held.enter_context(one).iter_lines() for one in asked]
        assert all(next(lines).startswith("id: ") for lines in reading)
        refused = client.post("/chat", json=CHAT)
    assert_problem(refused, 503, "no_slot")
    assert refused.json()["position"] == 1
    assert int(refused.headers["retry-after"]) >= 1


def test_a_stopped_postgres_is_503_and_heals_without_a_restart(scripted_stack: Stack) -> None:
    assert wait_for(scripted_stack, 200, within_s=20).status_code == 200
    before = scripted_stack.pids()
    os.kill(before["postgres"], signal.SIGKILL)
    with scripted_stack.client() as client:
        began = time.monotonic()
        answer = client.post("/chat", json=CHAT)
        took_s = time.monotonic() - began
    if answer.status_code != 200:
        assert_problem(answer, 503, "store_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert took_s < 3
    assert wait_for(scripted_stack, 200, within_s=30).status_code == 200
    assert scripted_stack.pids()["functions"]["chat"][0] in before["functions"]["chat"]


@contextmanager
def frozen(parent: int) -> Iterator[None]:
    """A process and its children that do nothing until the end of the block."""
    os.kill(parent, signal.SIGSTOP)  # first: then it starts no child, and reaps none
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True, check=True
    ).stdout
    stopped = [*(int(pid) for pid in listed.split()), parent]
    try:
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in stopped:  # the parent last: a child that had ended is gone as soon as it goes on
            os.kill(pid, signal.SIGCONT)


def test_a_frozen_postgres_is_503_within_three_seconds(scripted_stack: Stack) -> None:
    assert wait_for(scripted_stack, 200, within_s=20).status_code == 200
    with frozen(scripted_stack.pids()["postgres"]), scripted_stack.client() as client:
        answer = client.post("/chat", json=CHAT)
    assert_problem(answer, 503, "store_unavailable")
    assert answer.elapsed.total_seconds() < 3.5
    assert wait_for(scripted_stack, 200, within_s=20).status_code == 200

"""The seed's picture: a workflow reads, sums up, waits and publishes; the chat answers from it."""

from __future__ import annotations

import time
from typing import Any

import httpx

from local.services import ScriptedModel
from local.services.script import Reply
from tests.functions.stack import Stack, frames

DIGEST = {"workflow": "news.digest", "input": {"approval": True}}


def wait_until(client: httpx.Client, run_id: str, status: str, *, within_s: float = 30) -> Any:
    until = time.monotonic() + within_s
    while True:
        run = client.get(f"/runs/{run_id}").json()
        if run["status"] == status:
            return run
        assert time.monotonic() < until, run
        time.sleep(0.05)


def test_a_digest_waits_for_its_editor_and_is_published(
    scripted_stack: Stack, script: ScriptedModel
) -> None:
    script.when(
        lambda asked: "Sum up the article" in str(asked.json), Reply.text("It is about colour.")
    )
    with scripted_stack.client() as client:
        run_id = client.post("/runs", json=DIGEST).json()["id"]
        waiting = wait_until(client, run_id, "waiting")
        assert [one["type"] for one in waiting["waits"]] == ["news.digest.decided"]
        event = {"specversion": "1.0", "id": run_id, "source": "/desk", "subject": run_id}
        decided = {**event, "type": "news.digest.decided", "data": {"approved": True}}
        assert client.post("/events", json=decided).status_code == 202
        done = wait_until(client, run_id, "completed")
        published = client.get("/events", params={"type": "news.digest.ready"}).json()
    assert done["output"]["status"] == "published"
    assert {one["summary"] for one in done["output"]["articles"]} == {"It is about colour."}
    assert run_id in [one["event"]["subject"] for one in published["events"]]


def test_the_chat_starts_a_digest_and_answers_from_it(
    scripted_stack: Stack, script: ScriptedModel
) -> None:
    script.when(
        lambda asked: "from this digest" in str(asked.json), Reply.text("Two things are new.")
    )
    with scripted_stack.client() as client:
        told = frames(client.post("/chat/stream", json={"input": "/digest What is new?"}).text)
    deltas = "".join(one.get("delta", "") for one in told if isinstance(one, dict))
    assert deltas == "Two things are new."
    sources = [one["sources"] for one in told if isinstance(one, dict) and "sources" in one]
    assert {one["title"] for one in sources[0]} == {"Sky", "Grass"}


def test_a_runs_progress_streams_until_its_end(scripted_stack: Stack) -> None:
    with scripted_stack.client() as client:
        run_id = client.post("/runs", json={"workflow": "news.digest"}).json()["id"]
        told = frames(client.get(f"/runs/{run_id}/events").text)
    assert told[-1] == "[DONE]"
    assert isinstance(told[-2], dict)
    assert told[-2]["status"] == "completed"


def test_a_key_without_the_scope_starts_nothing(scripted_stack: Stack) -> None:
    key = scripted_stack.new_key(scopes=["chat"])
    with scripted_stack.client(key) as client:
        assert client.post("/runs", json=DIGEST).status_code == 403
        answer = client.post("/chat", json={"input": "/digest"}).json()
    assert "as run" not in answer["output"]

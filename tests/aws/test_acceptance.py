"""What users are promised, asked from outside: the same tests locally, in LocalStack and at AWS.

`./local/test --target local|localstack|aws` runs them there. For AWS the environment names the
deployment: LAMBENT_CHAT_URL, LAMBENT_GATEWAY_URL, LAMBENT_ADMIN_KEY. Its agents `chat` and
`news.digest` are asked; what the suite makes there, it ends.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.aws.target import Target, frames
from tests.functions.function_url import function_url
from tests.functions.stack import ROOT
from tests.store.secure_services import Certificate

CHAT = {"agent": "chat", "input": "Say hello.", "options": {"num_predict": 12}}
# Nothing listens there: a feed that cannot be read ends nothing, and no model is asked.
NO_FEED = "http://127.0.0.1:9/feed"


def assert_problem(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == f"urn:lambent:problem:{code}"


def start_digest(target: Target, **input: Any) -> str:
    body = {"workflow": "news.digest", "input": {"feeds": [NO_FEED], **input}}
    started = target.ask(target.gateway, "POST", "/runs", json=body)
    assert started.status_code == 202, started.text
    return str(started.json()["id"])


def test_every_store_and_the_model_server_answer(target: Target) -> None:
    target.until(
        lambda: target.ask(target.gateway, "GET", "/health/ready"), lambda a: a.status_code == 200
    )
    assert target.ask(target.chat, "GET", "/health", key="none").status_code == 200


def test_a_chat_is_answered(target: Target) -> None:
    # Elsewhere the model may have to be loaded, which takes longer than a first token may.
    answer = target.until(
        lambda: target.ask(target.chat, "POST", "/chat", json=CHAT), lambda a: a.status_code != 503
    )
    assert answer.status_code == 200, answer.text
    assert "ratelimit" in answer.headers


def test_a_chat_streams_to_its_end(target: Target) -> None:
    answer = target.ask(target.chat, "POST", "/chat/stream", json=CHAT)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    *deltas, last, done = frames(answer.text)
    assert all("delta" in one for one in deltas)
    assert last["finish_reason"]
    assert done == "[DONE]"


def test_openai_s_path_is_the_chat_s(target: Target) -> None:
    models = target.ask(target.chat, "GET", "/v1/models")
    assert "agent:chat" in [one["id"] for one in models.json()["data"]]
    refused = target.ask(target.chat, "GET", "/v1/models", key="none")
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")


def test_a_key_is_made_used_and_ended(target: Target) -> None:
    body = {"name": "acceptance", "client": "acceptance", "scopes": ["chat"]}
    made = target.ask(target.gateway, "POST", "/keys", json=body).json()
    assert target.ask(target.chat, "GET", "/agents", key=made["key"]).status_code == 200
    refused = target.ask(target.gateway, "GET", "/keys", key=made["key"])
    assert_problem(refused, 403, "forbidden")
    assert target.ask(target.gateway, "DELETE", f"/keys/{made['id']}").status_code == 204
    ended = target.ask(target.chat, "POST", "/chat", key=made["key"], json=CHAT)
    assert_problem(ended, 401, "unauthenticated")


def test_can_i_run_this_agent_is_answered_in_order(target: Target) -> None:
    """401 before 429 before 501: a client with one request a minute finds all three."""
    nobody = {"agent": "nobody", "input": "x"}
    unknown = target.ask(target.chat, "POST", "/chat", key="lam_no_such", json=nobody)
    assert_problem(unknown, 401, "unauthenticated")
    key = target.new_key(limit=1)
    answers = [target.ask(target.chat, "POST", "/chat", key=key, json=nobody) for _ in range(4)]
    assert_problem(answers[0], 501, "unknown_agent")
    limited = next(answer for answer in answers if answer.status_code == 429)
    assert_problem(limited, 429, "rate_limited")
    assert int(limited.headers["retry-after"]) >= 1


def test_a_model_server_that_is_away_opens_the_breaker_and_closes_it_again(target: Target) -> None:
    if target.line is None:
        pytest.skip("the model server of this target is not ours to take away")
    with target.model_away():
        codes = [target.ask(target.chat, "POST", "/chat", json=CHAT) for _ in range(6)]
        assert_problem(codes[0], 503, "model_unavailable")
        assert_problem(codes[5], 503, "breaker_open")
        assert int(codes[5].headers["retry-after"]) >= 1
    for _ in range(3):  # as many successes as close it
        target.until(
            lambda: target.ask(target.chat, "POST", "/chat", json=CHAT),
            lambda answer: answer.status_code == 200,
        )


def test_a_run_is_started_once_for_its_key_and_finishes(target: Target) -> None:
    body = {"workflow": "news.digest", "input": {"feeds": [NO_FEED]}, "key": secrets.token_hex(8)}
    first, again = (target.ask(target.gateway, "POST", "/runs", json=body) for _ in range(2))
    assert first.status_code == 202, first.text
    assert again.json()["id"] == first.json()["id"]
    ended = target.until(lambda: target.run(first.json()["id"]), lambda run: run["finished_at"])
    assert (ended["status"], ended["output"]["status"]) == ("completed", "published")


def test_an_event_reaches_the_run_that_waits_for_it(target: Target) -> None:
    """Gateway, step and deliver invoke each other; nobody polls for it but the test."""
    run_id = start_digest(target, approval=True)
    target.until(
        lambda: target.run(run_id), lambda run: run["status"] == "waiting" and run["waits"]
    )
    decided = {"id": run_id, "type": "news.digest.decided", "subject": run_id}
    target.publish({**decided, "data": {"approved": True}})
    ended = target.until(lambda: target.run(run_id), lambda run: run["finished_at"])
    assert ended["output"]["status"] == "published"


def test_an_event_starts_the_workflow_that_asks_for_it(target: Target) -> None:
    identity = secrets.token_hex(8)
    data = {"feeds": [NO_FEED, f"{NO_FEED}/{identity}"]}
    target.publish({"id": identity, "type": "news.requested", "data": data})

    def started() -> list[dict[str, Any]]:
        page = target.ask(target.gateway, "GET", "/runs", params={"workflow": "news.digest"})
        return [run for run in page.json()["runs"] if identity in str(run)]

    assert target.until(started, bool)


def test_a_waiting_run_is_cancelled(target: Target) -> None:
    run_id = start_digest(target, approval=True)
    target.until(lambda: target.run(run_id), lambda run: run["status"] == "waiting")
    assert target.ask(target.gateway, "POST", f"/runs/{run_id}/cancel").status_code == 202
    target.until(lambda: target.run(run_id), lambda run: run["status"] == "cancelled")


def test_a_timer_fires(target: Target) -> None:
    """A schedule's tick: found by the poller, handed to deliver, run by step."""
    name = f"acceptance-{secrets.token_hex(4)}"
    body = {"name": name, "cron": "*/3 * * * * *", "workflow": "news.digest"}
    made = target.ask(
        target.gateway, "POST", "/schedules", json={**body, "input": {"feeds": [NO_FEED]}}
    )
    assert made.status_code == 201, made.text
    path = f"/schedules/{made.json()['id']}"
    try:
        ticked = target.until(
            lambda: target.ask(target.gateway, "GET", path).json(), lambda one: one["last_run"]
        )
    finally:  # else it ticks for ever, on somebody's account
        assert target.ask(target.gateway, "DELETE", path).status_code == 204
    target.until(lambda: target.run(ticked["last_run"]), lambda run: run["status"] == "completed")


def left_behind(target: Target) -> tuple[list[str], list[str]]:
    """What lets somebody in, and what goes on by itself."""
    keys = target.ask(target.gateway, "GET", "/keys").json()["keys"]
    schedules = target.ask(target.gateway, "GET", "/schedules").json()["schedules"]
    good = [one["id"] for one in keys if not one["revoked_at"]]
    return sorted(good), [one["id"] for one in schedules]


def test_a_deployment_that_the_environment_names_is_asked_at_two_addresses_over_tls(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The command of the README for AWS, with the local functions standing for those there."""
    if request.config.getoption("--target"):
        pytest.skip("this suite is what that test runs")
    local: Target = request.getfixturevalue("local_target")
    before = left_behind(local)
    certificate = Certificate.make(tmp_path)
    with function_url(certificate) as chat, function_url(certificate) as gateway:
        for one, function in ((chat, "chat"), (gateway, "gateway")):
            one.behind, one.function = local.gateway.url, function
        kept = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
        done = subprocess.run(
            [ROOT / "local/test", "--target", "aws", "-rs"],
            env={**kept, "SSL_CERT_FILE": str(certificate.path), "LAMBENT_CHAT_URL": chat.url,
                 "LAMBENT_GATEWAY_URL": f"{gateway.url}/", "LAMBENT_ADMIN_KEY": local.admin_key},
            capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "11 passed, 2 skipped" in done.stdout
    assert left_behind(local) == before

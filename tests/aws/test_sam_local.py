"""Every function, built by the real `sam build`, run by the real `sam local invoke` in Docker."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest

from tests.aws.conftest import Containers, recorded

pytestmark = [pytest.mark.aws, pytest.mark.xdist_group("docker")]


def test_setup_made_the_tables_and_the_admin_key(containers: Containers) -> None:
    assert containers.admin_key.startswith("lam_admin_")


def test_chat_answers_a_function_url(containers: Containers) -> None:
    """The streaming runtime, which the interface emulator makes buffer its answer."""
    answer = containers.invoke("Chat", recorded("chat_stream", containers.admin_key)).json()
    assert answer["statusCode"] == 200
    assert answer["headers"]["content-type"].startswith("text/event-stream")
    assert '"delta"' in answer["body"]
    assert answer["body"].rstrip().endswith("data: [DONE]")


def test_the_gateway_reaches_every_store(containers: Containers) -> None:
    answer = containers.invoke("Gateway", recorded("gateway_ready", containers.admin_key)).json()
    assert answer["statusCode"] == 200, answer
    assert json.loads(answer["body"])


def test_step_takes_a_nudge_for_a_run_that_is_gone(containers: Containers) -> None:
    assert containers.invoke("Step", recorded("step")).json() == {"advanced": 0}


def test_deliver_takes_a_nudge_for_an_event_that_is_gone(containers: Containers) -> None:
    answer = containers.invoke("Deliver", recorded("deliver")).json()
    assert "errorMessage" not in answer


def test_the_poller_ends_where_nothing_is_due(containers: Containers) -> None:
    answer = containers.invoke("Poller", recorded("poller_tick")).json()
    assert answer["left"], answer


def test_a_setting_that_is_wrong_is_named_in_one_line(containers: Containers) -> None:
    wrong = containers.with_variables(POSTGRES_DSN="nonsense")
    done = wrong.invoke("Setup", recorded("setup"))
    answer = done.json()
    assert "POSTGRES_DSN" in answer["errorMessage"]
    assert "nonsense" not in done.log + done.answer


def test_the_poller_of_start_lambda_sends_what_is_due_to_its_functions(
    containers: Containers,
) -> None:
    """The run is started where nobody can be nudged: only a poller can find it."""
    asked = recorded("gateway_run", containers.admin_key)
    started = containers.invoke("Gateway", asked).json()
    assert started["statusCode"] == 202, started
    path = f"/runs/{json.loads(started['body'])['id']}"
    with containers.start_lambda() as started_lambda:

        def invoke(function: str, event: dict[str, Any], how: str) -> httpx.Response:
            where = f"{started_lambda.url}/2015-03-31/functions/{function}/invocations"
            headers = {"X-Amz-Invocation-Type": how}
            return httpx.post(where, json=event, headers=headers, timeout=120, trust_env=False)

        assert invoke("Poller", recorded("poller_tick"), "Event").status_code == 202
        look = {**asked, "rawPath": path, "body": None}
        look["requestContext"]["http"] |= {"path": path, "method": "GET"}
        until_s = time.monotonic() + 240  # three cold containers on a busy machine
        while True:
            answer = invoke("Gateway", look, "RequestResponse").json()
            run = json.loads(answer["body"])
            if run["status"] == "completed" or time.monotonic() > until_s:
                break
            time.sleep(1)
        log = started_lambda.log()
    assert run["status"] == "completed", f"{run}\n{log[-4000:]}"

"""Each recorded event, given to the function that its name begins with, on a running platform."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from local.services import ScriptedModel
from local.services.script import Reply
from tests.functions.stack import ROOT, Stack, frames
from tests.inbox import Inbox

FOLDER = ROOT / "tests" / "events"
EVENTS = sorted(FOLDER.glob("*.json"))
# What an HTTP event's answer holds, and what any other event's is.
ANSWERS: dict[str, Any] = {
    "chat_health": (200, '"status"'),
    "chat_stream": (200, "[DONE]"),
    "chat_stream_api_gateway": (200, "[DONE]"),
    "gateway_keys": (200, '"keys"'),
    "gateway_ready": (200, '"services"'),
    "gateway_run": (202, '"id"'),
    "deliver": {"webhooks": 0, "ticks": 0},
    "poller_tick": {"left"},
    "setup": {"applied", "admin_key"},
    "setup_create": "SUCCESS",
    "setup_delete": "SUCCESS",
    "setup_settings": "SUCCESS",
    "setup_update": "SUCCESS",
    "step": {"advanced": 0},
}


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    inbox = Inbox()
    yield inbox
    inbox.close()


def recorded(path: Path, stack: Stack, inbox: Inbox) -> dict[str, Any]:
    """The event, with a key and an address of today in place of the recorded ones."""
    event: dict[str, Any] = json.loads(path.read_text().replace("KEY", stack.admin_key))
    if "ResponseURL" in event:
        event["ResponseURL"] = inbox.url
        # Another secret would be the end of this platform's admin key.
        event["ResourceProperties"].pop("AdminKeySecret", None)
    return event


def invoke(stack: Stack, function: str, event: dict[str, Any]) -> bytes:
    where = f"{stack.ready['invoke_url']}/2015-03-31/functions/{function}/invocations"
    answer = httpx.post(where, json=event, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text
    assert "x-amz-function-error" not in answer.headers, answer.text
    return answer.content


def http_answer(raw: bytes) -> tuple[int, str]:
    """Of a function that streams, and of one that does not."""
    head, streamed, body = raw.partition(bytes(8))
    said = json.loads(head)
    if not streamed:
        coded = said["isBase64Encoded"]
        body = base64.b64decode(said["body"]) if coded else said["body"].encode()
    return said["statusCode"], body.decode()


def test_every_recorded_event_has_its_answer_here() -> None:
    assert {path.stem for path in EVENTS} == ANSWERS.keys()


@pytest.mark.parametrize("path", EVENTS, ids=lambda path: path.stem)
def test_a_recorded_event_is_answered_as_expected(
    path: Path, scripted_stack: Stack, script: ScriptedModel, inbox: Inbox
) -> None:
    script.script(*[Reply.text("Hello there")] * path.stem.startswith("chat_stream"))
    event = recorded(path, scripted_stack, inbox)
    raw = invoke(scripted_stack, path.stem.partition("_")[0], event)
    match ANSWERS[path.stem]:
        case (status, part):
            assert http_answer(raw)[0] == status, raw
            assert part in http_answer(raw)[1]
        case dict() as whole:
            assert json.loads(raw).items() >= whole.items()
        case set() as names:
            assert set(json.loads(raw)) == names
        case told:
            assert [one["Status"] for one in inbox.answers] == [told]


def test_both_fronts_of_a_chat_stream_the_same_words(
    scripted_stack: Stack, script: ScriptedModel, inbox: Inbox
) -> None:
    told = []
    for name in ("chat_stream", "chat_stream_api_gateway"):
        script.script(Reply.text("one two three"))
        event = recorded(FOLDER / f"{name}.json", scripted_stack, inbox)
        _, body = http_answer(invoke(scripted_stack, "chat", event))
        told.append([one.get("delta") for one in frames(body) if isinstance(one, dict)])
    assert "".join(filter(None, told[0])) == "one two three"
    assert told[0] == told[1]

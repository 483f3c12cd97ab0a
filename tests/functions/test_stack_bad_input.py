"""Bad input through the front port: a clear problem document each time, and nothing half-done."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from local.services import ScriptedModel
from tests.functions.stack import Stack

JSON = {"content-type": "application/json"}
BAD: list[tuple[str, bytes, int]] = [
    ("empty body", b"", 400),
    ("broken JSON", b'{"agent": "chat", "input": ', 400),
    ("not UTF-8", b'{"agent": "chat", "input": "\xff\xfe"}', 400),
    ("NaN", b'{"agent": "chat", "input": "x", "options": {"temperature": NaN}}', 400),
    ("bottomless", b"[" * 100_000, 400),
    ("an array", b"[]", 422),
    ("wrong type", b'{"agent": "chat", "input": 7}', 422),
    ("empty message", b'{"agent": "chat", "input": ""}', 422),
    ("no input", b'{"agent": "chat"}', 422),
    ("both inputs", b'{"input": "x", "messages": [{"role": "user", "content": "x"}]}', 422),
    ("unknown field", b'{"agent": "chat", "input": "x", "inputs": 1}', 422),
    ("unknown option", b'{"agent": "chat", "input": "x", "options": {"heat": 1}}', 422),
    ("unknown role", b'{"messages": [{"role": "robot", "content": "x"}]}', 422),
    ("unknown model", b'{"agent": "chat", "input": "x", "model": "nope"}', 404),
    ("unknown conversation", b'{"agent": "chat", "input": "x", "conversation": "c1"}', 404),
]


@pytest.mark.parametrize("path", ["/chat", "/chat/stream"])
@pytest.mark.parametrize(("body", "status"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_a_bad_body_is_a_problem_document(
    scripted_stack: Stack, path: str, body: bytes, status: int
) -> None:
    with scripted_stack.client() as client:
        answer = client.post(path, content=body, headers=JSON)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]
    assert "Traceback" not in answer.text


def test_a_body_over_six_megabytes_is_413(scripted_stack: Stack) -> None:
    body = json.dumps({"agent": "chat", "input": "x" * (6 * 1024 * 1024)}).encode()
    with scripted_stack.client() as client:
        assert client.post("/chat", content=body, headers=JSON).status_code == 413
        assert client.post("/keys", content=body, headers=JSON).status_code == 413
        assert client.post("/chat", json={"input": "still there"}).status_code == 200


def test_a_message_of_100_000_characters_is_answered(
    scripted_stack: Stack, script: ScriptedModel
) -> None:
    with scripted_stack.client() as client:
        assert client.post("/chat", json={"input": "ä" * 100_000}).status_code == 200
    assert script.generations[-1].json["messages"][-1]["content"] == "ä" * 100_000


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/chat", 405),
        ("PUT", "/chat/stream", 405),
        ("DELETE", "/agents", 405),
        ("GET", "/nothing/here", 404),
        ("GET", "/chat/nothing", 404),
    ],
)
def test_a_wrong_method_or_path_says_so(
    scripted_stack: Stack, method: str, path: str, status: int
) -> None:
    with scripted_stack.client() as client:
        answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert status != 405 or answer.headers["allow"]


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
likely = st.dictionaries(
    st.sampled_from(["agent", "input", "messages", "model", "options", "conversation", "x"]),
    anything,
)


@hypothesis_settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(body=likely | anything)
def test_any_json_gets_an_answer_or_a_problem(scripted_stack: Stack, body: Any) -> None:
    with scripted_stack.client() as client:
        answer = client.post("/chat", json=body)
    assert answer.status_code in {200, 400, 404, 422, 501}, answer.text
    if answer.status_code != 200:
        assert answer.headers["content-type"] == "application/problem+json"


def test_no_secret_is_in_any_log_line(scripted_stack: Stack) -> None:
    key = scripted_stack.new_key()
    with scripted_stack.client(key) as client:
        client.post("/chat", json={"agent": "chat", "input": "hello", "key": key})
        client.post("/chat", content=key.encode(), headers=JSON)
        client.get(f"/keys/{key}")
    logs = scripted_stack.logs()
    assert logs
    assert key.rsplit("_", 1)[1] not in logs
    assert scripted_stack.admin_key.rsplit("_", 1)[1] not in logs

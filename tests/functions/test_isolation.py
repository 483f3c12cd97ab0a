"""Nobody sees, steers, resumes or attaches to what belongs to another client, on any route."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.functions.stack import Stack

ALL = ["chat", "runs", "events"]
PLAN = {"cron": "0 0 1 1 *", "workflow": "news.digest"}
SAID = {"messages": [{"role": "user", "content": "a word of the owner's"}]}
# What a route wants to be sent before it can say that there is no such thing.
BODIES: dict[str, Any] = {
    "PUT /schedules/{}": PLAN,
    "PATCH /webhooks/{}": {"description": "taken over"},
    "PATCH /conversations/{}": {"title": "taken over"},
    "POST /conversations/{}/messages": SAID,
    "POST /conversations/{}/fork": {"at": "1"},
    "POST /runs/{}/approvals/{}": {"approve": True},
}
# Without a key of any client: the token in the path is the secret.
PUBLIC = ("/callbacks/",)
# For admins alone.
ADMINS = ("/keys/", "/admin/", "/budgets/", "/sessions/", "/overview/", "/runs/{run_id}/history")
# Not in the gateway's own document, or only for who asks in OpenAI's way.
MORE = [
    ("GET", "/runs/{run_id}/events"),
    ("GET", "/v1/responses/{id}"),
    ("DELETE", "/v1/responses/{id}"),
]


def operations(stack: Stack) -> list[tuple[str, str]]:
    """Every documented method and path with an id in it, and those of `MORE`."""
    with stack.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    found = [(method.upper(), path) for path, one in paths.items() for method in one]
    return sorted({one for one in [*found, *MORE] if "{" in one[1]})


@pytest.fixture(scope="module")
def owner(scripted_stack: Stack) -> Iterator[httpx.Client]:
    with scripted_stack.client(scripted_stack.new_key(scopes=ALL)) as client:
        yield client


@pytest.fixture(scope="module")
def stranger(scripted_stack: Stack) -> Iterator[httpx.Client]:
    with scripted_stack.client(scripted_stack.new_key(scopes=ALL)) as client:
        yield client


@pytest.fixture(scope="module")
def owned(owner: httpx.Client) -> dict[str, str]:
    """One of each thing that a client can own: its id, by the first part of its path."""

    def made(path: str, body: Any, field: str = "id") -> str:
        answer = owner.post(path, json=body)
        assert answer.is_success, answer.text
        return str(answer.json()[field])

    event = {"specversion": "1.0", "id": "1", "source": "/owner", "type": "isolated.happened"}
    hook = {"url": "https://example.com/hook", "types": ["isolated.happened"]}
    webhook = made("/webhooks", hook)
    sent = owner.post(
        "/events", json=event, headers={"content-type": "application/cloudevents+json"}
    )
    key = str(_first(sent.json())["key"])
    streamed = owner.post("/chat/stream", json={"input": "Hello"})
    deliveries = owner.get(f"/webhooks/{webhook}/deliveries").json()["deliveries"]
    return {
        "runs": made("/runs", {"workflow": "news.digest", "input": {}}),
        "events": key,
        "schedules": made("/schedules", {"name": "yearly", **PLAN}),
        "webhooks": webhook,
        "deliveries": str(deliveries[0]["id"]),
        "conversations": made("/conversations", SAID),
        "chat": _stream_id(streamed),
        "v1": made("/v1/responses", {"model": "smollm2:135m", "input": "Hello"}),
    }


def _first(answer: Any) -> Any:
    if isinstance(answer, dict) and "events" in answer:
        return answer["events"][0]
    return answer[0] if isinstance(answer, list) else answer


def _stream_id(answer: httpx.Response) -> str:
    place = answer.headers.get("content-location") or answer.headers["x-stream-id"]
    return str(place).rsplit("/", 1)[-1]


def _filled(path: str, owned: dict[str, str]) -> str:
    kind = "deliveries" if "/deliveries/" in path else path.split("/")[1]
    own = owned.get(kind, "some-id")
    first = re.sub(r"\{[a-z_]+\}", own, path, count=1)
    return re.sub(r"\{[a-z_]+\}", "call-1", first)


def test_no_route_lets_a_stranger_at_what_another_client_owns(
    scripted_stack: Stack, stranger: httpx.Client, owned: dict[str, str]
) -> None:
    reached: list[str] = []
    for method, path in operations(scripted_stack):
        if path.startswith(PUBLIC):
            continue
        body = BODIES.get(f"{method} {re.sub('{[a-z_]+}', '{}', path)}")
        sent: dict[str, Any] = {"json": body}
        if path.endswith("/leave"):  # a beacon: its body is the key
            sent = {"content": stranger.headers["authorization"].removeprefix("Bearer ")}
        answer = stranger.request(method, _filled(path, owned), **sent)
        if answer.status_code != (403 if path.startswith(ADMINS) else 404):
            reached.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
    assert reached == [], "\n".join(reached)


def beginning(client: httpx.Client, path: str) -> str:
    """The answer, of a stream its first frame."""
    with client.stream("GET", path) as answer:
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            return next(answer.iter_text(), "")
        return answer.read().decode()


def test_no_list_shows_a_stranger_what_another_client_owns(
    scripted_stack: Stack, stranger: httpx.Client, owned: dict[str, str]
) -> None:
    with scripted_stack.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    lists = [path for path, one in paths.items() if "get" in one and "{" not in path]
    seen = {path: beginning(stranger, path) for path in lists}
    leaks = [(path, kind) for path in seen for kind, one in owned.items() if one in seen[path]]
    assert leaks == []


def test_bulk_commands_of_a_stranger_reach_none_of_the_owners_runs(
    owner: httpx.Client, stranger: httpx.Client, owned: dict[str, str]
) -> None:
    for command in ("cancel", "retry"):
        answer = stranger.post(f"/runs/{command}", json={"workflow": "news.digest"})
        assert (answer.status_code, answer.json()["count"]) == (200, 0)
    assert owner.get(f"/runs/{owned['runs']}").json()["status"] != "cancelled"


def test_the_owner_still_has_everything_after_a_stranger_tried(
    owner: httpx.Client, owned: dict[str, str]
) -> None:
    for kind in ("runs", "events", "schedules", "webhooks", "conversations"):
        answer = owner.get(f"/{kind}/{owned[kind]}")
        assert answer.status_code == 200, answer.text
        assert "taken over" not in answer.text
    assert owner.get(f"/chat/streams/{owned['chat']}").status_code == 200


def test_a_turn_does_not_go_on_from_what_another_client_said(
    stranger: httpx.Client, owned: dict[str, str]
) -> None:
    body = {"input": "Go on", "conversation": owned["conversations"]}
    assert stranger.post("/chat", json=body).status_code == 404
    asked = {"model": "smollm2:135m", "input": "Go on", "previous_response_id": owned["v1"]}
    answer = stranger.post("/v1/responses", json=asked)
    # OpenAI's own answer to an unknown one.
    assert (answer.status_code, answer.json()["error"]["code"]) == (
        400,
        "previous_response_not_found",
    )


def test_an_idempotency_key_belongs_to_its_client(
    owner: httpx.Client, stranger: httpx.Client
) -> None:
    headers = {"idempotency-key": "the-same-for-both"}
    first = owner.post("/chat", json={"input": "Say one"}, headers=headers)
    other = stranger.post("/chat", json={"input": "Say another"}, headers=headers)
    assert (first.status_code, other.status_code) == (200, 200), other.text

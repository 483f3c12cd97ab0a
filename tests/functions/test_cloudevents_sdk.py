"""The official CloudEvents package sends to the platform, and reads back what it sent."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from cloudevents.core.bindings.http import (
    HTTPMessage,
    from_http_event,
    to_binary_event,
    to_structured_event,
)
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from tests.functions.stack import Stack

BATCH = "application/cloudevents-batch+json"


def order(number: int, data: Any, **more: Any) -> CloudEvent:
    """An event with every attribute that the specification knows, and one that it does not."""
    attributes = {
        "id": f"{secrets.token_hex(4)}-{number}",
        "source": "urn:shop:berlin",
        "type": "sdk.order.placed",
        "specversion": "1.0",
        "subject": f'Bestellung "{number}" für 100 %',
        "time": datetime(2026, 5, 4, 3, 2, 1, 123456, tzinfo=UTC),
        "datacontenttype": "application/json",
        "dataschema": "https://shop.example/order.json",
        "shelf": "A7",
    }
    return CloudEvent(attributes={**attributes, **more}, data=data)


def batch_of(*events: CloudEvent) -> HTTPMessage:
    """The batched mode: the package writes each event, and has no helper for the list of them."""
    body = b"[" + b",".join(JSONFormat().write(one) for one in events) + b"]"
    return HTTPMessage(headers={"content-type": BATCH}, body=body)


def published(client: httpx.Client, message: HTTPMessage) -> list[dict[str, Any]]:
    answer = client.post("/events", content=message.body, headers=message.headers)
    assert answer.status_code == 202, answer.text
    events: list[dict[str, Any]] = answer.json()["events"]
    return events


def read_back(client: httpx.Client, key: str) -> CloudEvent:
    """The event as GET /events/{key} tells it, read by the package."""
    event = client.get(f"/events/{key}").json()["event"]
    headers = {"content-type": "application/cloudevents+json"}
    found = from_http_event(HTTPMessage(headers=headers, body=json.dumps(event).encode()))
    assert isinstance(found, CloudEvent)
    return found


def same(one: CloudEvent, other: CloudEvent) -> bool:
    same_data: bool = one.get_data() == other.get_data()
    return same_data and one.get_attributes() == other.get_attributes()


@pytest.fixture
def client(scripted_stack: Stack) -> Any:
    key = scripted_stack.new_key(scopes=["events"])
    with scripted_stack.client(key) as client:
        yield client


@pytest.mark.parametrize("write", [to_structured_event, to_binary_event])
@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ({"total": 99.5, "lines": ["ä", None, True]}, "application/json"),
        ({"total": 1}, "application/vnd.shop+json"),
        ("grüße", "text/plain; charset=utf-8"),
        (None, "application/json"),
    ],
)
def test_what_the_package_sends_it_reads_back(
    client: httpx.Client, write: Callable[[CloudEvent], HTTPMessage], data: Any, kind: str
) -> None:
    sent = order(1, data, datacontenttype=kind)
    (there,) = published(client, write(sent))
    assert (there["id"], there["duplicate"]) == (sent.get_id(), False)
    assert same(read_back(client, there["key"]), sent)
    (again,) = published(client, write(sent))
    assert (again["key"], again["duplicate"]) == (there["key"], True)


@pytest.mark.parametrize("write", [to_structured_event, to_binary_event])
def test_bytes_stay_bytes(client: httpx.Client, write: Callable[[CloudEvent], HTTPMessage]) -> None:
    sent = order(2, b"\x89PNG\x00\xff", datacontenttype="image/png")
    (there,) = published(client, write(sent))
    assert same(read_back(client, there["key"]), sent)


def test_a_batch_is_read_back_event_by_event_and_listed(client: httpx.Client) -> None:
    sent = [order(n, {"n": n}) for n in range(3)]
    there = published(client, batch_of(*sent, sent[0]))
    assert [one["duplicate"] for one in there] == [False, False, False, True]
    for one, event in zip(there, sent, strict=False):
        assert same(read_back(client, one["key"]), event)
    listed = client.get("/events", params={"type": "sdk.order.placed"}).json()["events"]
    assert {one["event"]["id"] for one in listed} == {one.get_id() for one in sent}
    stored = client.get("/events", params={"subject": sent[1].get_subject()}).json()["events"]
    assert [one["event"]["id"] for one in stored] == [sent[1].get_id()]

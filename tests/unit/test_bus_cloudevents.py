"""CloudEvents in and out: each content mode, and a clear refusal of everything else."""

import json
from typing import Any

import pytest
from cloudevents.core.bindings import http as official_http
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent as OfficialEvent

from lambent.bus.cloudevents import BATCH, STRUCTURED, CloudEvent, read_http, to_structured
from lambent.errors import TooLarge, Unprocessable, UnsupportedMedia

MINIMAL = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}


def structured(**changes: Any) -> CloudEvent:
    body = json.dumps({**MINIMAL, **changes}).encode()
    return read_http({"content-type": f"{STRUCTURED}; charset=utf-8"}, body)[0]


def refused(**changes: Any) -> list[dict[str, str]]:
    with pytest.raises(Unprocessable) as caught:
        structured(**changes)
    errors: list[dict[str, str]] = caught.value.fields["errors"]
    return errors


def test_a_structured_event_is_given_back_as_it_came() -> None:
    full = MINIMAL | {
        "subject": "héllo/1",
        "time": "2026-01-01T00:00:00.123456789+02:00",
        "datacontenttype": "application/json",
        "dataschema": "https://example.com/s",
        "traceparent": "00-0af7",
        "retries": 3,
        "urgent": True,
        "data": {"a": [1, 2.5, None, "x"]},
    }
    assert to_structured(structured(**full)) == full


def test_bytes_travel_as_base64() -> None:
    event = structured(data_base64="AAEC/w==")
    assert event.data == b"\x00\x01\x02\xff"
    assert to_structured(event)["data_base64"] == "AAEC/w=="


def test_binary_mode_takes_attributes_from_percent_encoded_headers() -> None:
    headers = {
        "ce-specversion": "1.0",
        "ce-id": "1",
        "ce-source": "/s",
        "ce-type": "t",
        "ce-subject": "h%C3%A9llo%20%22x%22",
        "ce-traceid": "abc",
        "content-type": "application/vnd.x+json",
        "host": "example.com",
    }
    event = read_http(headers, b'{"n": 1}')[0]
    assert (event.subject, event.data, event.extensions) == (
        'héllo "x"',
        {"n": 1},
        {"traceid": "abc"},
    )
    assert read_http(headers | {"content-type": "text/plain"}, b"hi")[0].data == "hi"
    assert read_http(headers | {"content-type": "image/png"}, b"\x89")[0].data == b"\x89"
    assert read_http(headers, b"")[0].data is None


@pytest.mark.parametrize("mode", ["binary", "structured"])
def test_what_the_official_sdk_sends_is_understood(mode: str) -> None:
    attributes = {"id": "9", "source": "urn:x", "type": "a.b", "subject": "ü", "myext": "1"}
    sent = OfficialEvent(
        attributes={**attributes, "specversion": "1.0", "datacontenttype": "application/json"},
        data={"k": "v"},
    )
    write = official_http.to_binary if mode == "binary" else official_http.to_structured
    message = write(sent, JSONFormat())
    headers = {name.lower(): value for name, value in message.headers.items()}
    event = read_http(headers, message.body)[0]
    assert (event.id, event.subject, event.data) == ("9", "ü", {"k": "v"})
    assert event.extensions == {"myext": "1"}


def test_a_batch_names_the_place_of_each_problem() -> None:
    bad = [MINIMAL, {**MINIMAL, "id": ""}, {**MINIMAL, "Bad_Name": "x"}, 7]
    with pytest.raises(Unprocessable) as caught:
        read_http({"content-type": BATCH}, json.dumps(bad).encode())
    fields = [one["field"] for one in caught.value.fields["errors"]]
    assert fields == ["[1].id", "[2].Bad_Name", "[3]"]


@pytest.mark.parametrize("count", [0, 101])
def test_a_batch_has_one_to_a_hundred_events(count: int) -> None:
    with pytest.raises(Unprocessable, match="1 to 100"):
        read_http({"content-type": BATCH}, json.dumps([MINIMAL] * count).encode())


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"specversion": "0.3"}, "specversion"),
        ({"id": 7}, "id"),
        ({"id": None}, "id"),
        ({"source": "has space"}, "source"),
        ({"type": ""}, "type"),
        ({"subject": ""}, "subject"),
        ({"subject": "line\nbreak"}, "subject"),
        ({"time": "yesterday"}, "time"),
        ({"time": "2026-01-01T00:00:00"}, "time"),
        ({"time": "2026-13-01T00:00:00Z"}, "time"),
        ({"dataschema": "/relative"}, "dataschema"),
        ({"datacontenttype": "json"}, "datacontenttype"),
        ({"big": 2**31}, "big"),
        ({"nested": {"a": 1}}, "nested"),
        ({"UPPER": "x"}, "UPPER"),
        ({"data": 1, "data_base64": "AA=="}, "data_base64"),
        ({"data_base64": "no base64!"}, "data_base64"),
        ({"data": {"n": 2**63}}, "data"),
        ({"data": {"$where": 1}}, "data"),
        ({"data": "\ud800"}, "data"),
    ],
)
def test_each_wrong_attribute_is_refused_by_name(changes: dict[str, Any], field: str) -> None:
    assert [one["field"] for one in refused(**changes)] == [field]


def test_hostile_bodies_are_refused_and_never_crash() -> None:
    kind = {"content-type": STRUCTURED}
    for body in (
        b"",
        b"{",
        b"[" * 100_000,
        b'{"a": NaN}',
        b'{"a": 1e400}',
        b"\xff\xfe",
        b"null",
        b'"x"',
    ):
        with pytest.raises(Unprocessable):
            read_http(kind, body)
    nested = (
        json.dumps({**MINIMAL, "data": 0}).encode().replace(b"0}", b"[" * 80 + b"]" * 80 + b"}")
    )
    with pytest.raises(Unprocessable, match="nested"):
        read_http(kind, nested)


def test_too_much_data_and_unknown_formats_have_their_own_answers() -> None:
    with pytest.raises(TooLarge):
        structured(data="x" * 1_000_001)
    for media in ("application/cloudevents+xml", "text/plain", ""):
        with pytest.raises(UnsupportedMedia):
            read_http({"content-type": media}, b"{}")

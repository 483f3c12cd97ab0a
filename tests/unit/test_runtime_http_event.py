"""HTTP events of both payload versions become correct ASGI scopes."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lambda_stream.failure import RuntimeFault
from lambda_stream.http_event import Payload, payload_of, read_http_event
from lambda_stream.load import as_function
from tests.runtime.events import rest_event, url_event

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def scope_of(event: dict[str, Any]) -> dict[str, Any]:
    payload = payload_of(event)
    assert payload is not None
    return read_http_event(event, payload).scope


def test_a_function_urls_event_gives_a_whole_scope() -> None:
    assert scope_of(url_event("/a%2Fb%20c/%C3%A9?x=%20&y")) == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "https",
        "path": "/a/b c/\xe9",
        "raw_path": b"/a%2Fb%20c/%C3%A9",
        "query_string": b"x=%20&y",
        "root_path": "",
        "headers": [
            (b"host", b"abc.lambda-url.eu-west-1.on.aws"),
            (b"x-forwarded-proto", b"https"),
        ],
        "client": ("203.0.113.9", 0),
        "server": ("abc.lambda-url.eu-west-1.on.aws", 443),
        "extensions": {},
    }


def test_a_stage_of_an_http_api_is_the_root_path() -> None:
    event = url_event("/dev/x")
    event["requestContext"]["stage"] = "dev"
    assert (scope_of(event)["root_path"], scope_of(event)["path"]) == ("/dev", "/dev/x")


def test_a_rest_apis_event_keeps_repeats_and_rebuilds_the_query() -> None:
    scope = scope_of(rest_event("/x"))
    assert (scope["root_path"], scope["path"]) == ("/prod", "/prod/x")
    assert parse_qs(scope["query_string"].decode()) == {"a": ["1", "2"], "b": ["x y"]}
    assert [value for name, value in scope["headers"] if name == b"x-two"] == [b"1", b"2"]
    assert scope["client"] == ("203.0.113.9", 0)


@pytest.mark.parametrize(("whole", "root"), [("/prod", "/prod"), ("/prod/", "/prod"), ("/", "")])
def test_the_root_of_a_rest_api(whole: str, root: str) -> None:
    event = rest_event("/")
    event["requestContext"]["path"] = whole
    assert scope_of(event)["root_path"] == root


def test_cookies_are_rebuilt_once() -> None:
    event = url_event(cookies=["a=1", "b=2"])
    event["headers"]["cookie"] = "a=1; b=2"
    cookies = [value for name, value in scope_of(event)["headers"] if name == b"cookie"]
    assert cookies == [b"a=1; b=2"]


@pytest.mark.parametrize(
    ("host", "server"),
    [
        ("h", ("h", 443)),
        ("h:8", ("h", 443)),
        ("[::1]:8", ("[::1]", 443)),
        ("[::1]", ("[::1]", 443)),
    ],
)
def test_the_server_is_the_host_the_client_asked(host: str, server: tuple[str, int]) -> None:
    assert scope_of(url_event(headers={"host": host}))["server"] == server


@pytest.mark.parametrize(
    "event",
    [
        None, [], "x", 7, {}, {"Records": []}, {"requestContext": None},
        {"requestContext": {"http": "x"}}, {"httpMethod": "GET"},
        {"httpMethod": "GET", "path": "/", "requestContext": {"elb": {}}},
    ],
)  # fmt: skip
def test_other_events_are_not_http(event: Any) -> None:
    assert payload_of(event) is None


@given(ANY_JSON)
@settings(max_examples=200)
def test_no_event_at_all_breaks_the_look_at_its_shape(event: Any) -> None:
    payload_of(event)


@given(st.sampled_from([url_event, rest_event]), st.data())
@settings(max_examples=300)
def test_a_malformed_http_event_is_one_clear_fault(make: Any, data: st.DataObject) -> None:
    event = make()
    for key in data.draw(st.lists(st.sampled_from(sorted(event)), max_size=3)):
        event[key] = data.draw(ANY_JSON)
    payload = payload_of(event)
    if payload is None:
        return
    try:
        request = read_http_event(event, payload)
    except RuntimeFault as fault:
        assert fault.error_type == "Runtime.UnmarshalError"
        return
    assert all(type(n) is bytes and type(v) is bytes for n, v in request.scope["headers"])
    assert type(request.body) is bytes


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_path_and_query_survive(text: str) -> None:
    event = url_event()
    event["rawPath"], event["rawQueryString"] = f"/{text}", text
    scope = scope_of(event)
    assert scope["path"] == unquote(f"/{text}")
    assert unquote(scope["raw_path"].decode("ascii")) == unquote(f"/{text}")
    scope["query_string"].decode("ascii")


def test_three_needed_parameters_make_an_application() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    class Instance:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...

    assert as_function(app, "a.b").asgi is app
    assert as_function(Instance(), "a.b").asgi is not None


def test_anything_else_is_a_plain_handler() -> None:
    def handler(event: Any, context: Any, more: int = 1) -> None: ...

    assert as_function(handler, "a.b").event is handler
    assert as_function(lambda event, context: None, "a.b").asgi is None
    assert as_function(print, "a.b").event is print


def test_payload_versions_are_told_apart() -> None:
    assert payload_of(url_event()) is Payload.FUNCTION_URL
    assert payload_of(rest_event()) is Payload.REST

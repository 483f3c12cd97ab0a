"""One set of stories for every Runtime API; what differs stands in the targets' table."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from tests.runtime.events import rest_event, url_event
from tests.runtime.targets import DIFFERENCES, TARGETS, Difference, Missing, Target

Deploy = Callable[[str], Target]


@pytest.fixture(params=sorted(TARGETS))
def differences(request: pytest.FixtureRequest) -> frozenset[Difference]:
    return DIFFERENCES[request.param]


@pytest.fixture
def deploy(request: pytest.FixtureRequest, differences: frozenset[Difference]) -> Iterator[Deploy]:
    """`deploy(handler)` on the target at hand."""
    name = request.node.callspec.params["differences"]
    with ExitStack() as stack:

        def start(handler: str) -> Target:
            try:
                return stack.enter_context(closing(TARGETS[name](handler)))
            except Missing as missing:
                if os.environ.get("CI") == "true":
                    pytest.fail(str(missing))
                pytest.skip(str(missing))

        yield start


def test_an_application_answers(deploy: Deploy) -> None:
    reply = deploy("sample.app").request(url_event("/hello"))
    assert (reply.status, reply.body, reply.error) == (200, b"hello world", None)


def test_frames_arrive_one_by_one(deploy: Deploy, differences: frozenset[Difference]) -> None:
    reply = deploy("sample.app").request(url_event("/frames?n=4&gap=0.1"))
    assert reply.body == b"".join(b"data: %d\n\n" % n for n in range(4))
    assert reply.headers["content-type"] == "text/event-stream"
    assert (reply.arrivals > 1) is (Difference.NO_STREAM not in differences)


def test_status_headers_and_cookies(deploy: Deploy) -> None:
    reply = deploy("sample.app").request(url_event("/headers"))
    assert reply.cookies == ["a=1; Path=/", "b=2"]
    assert (reply.headers["x-two"], reply.headers["x-latin"]) == ("1, 2", "caf\xe9")


@pytest.mark.parametrize(
    "event", [url_event("/status?code=204"), url_event("/hello", method="HEAD")]
)
def test_an_answer_without_a_body(deploy: Deploy, event: dict[str, object]) -> None:
    reply = deploy("sample.app").request(event)
    assert (reply.body, reply.headers["content-length"]) == (b"", "0")


def test_binary_bodies(deploy: Deploy) -> None:
    target = deploy("sample.app")
    assert target.request(url_event("/untyped")).body == b"\x00\xff"
    event = url_event("/echo", method="POST", body="AP8=", isBase64Encoded=True)
    assert json.loads(target.request(event).body)["body"] == "\x00\xff"


def test_a_rest_apis_event(deploy: Deploy) -> None:
    scope = json.loads(deploy("sample.app").request(rest_event("/echo")).body)
    assert (scope["path"], scope["root_path"]) == ("/prod/echo", "/prod")


def test_an_error_before_the_start(deploy: Deploy, differences: frozenset[Difference]) -> None:
    reply = deploy("sample.app").request(url_event("/raise-before"))
    assert reply.status == 500
    if Difference.NO_TRAILERS not in differences:
        assert reply.error is not None
        assert reply.error["errorType"] == "ValueError"


def test_an_error_after_the_start(deploy: Deploy, differences: frozenset[Difference]) -> None:
    reply = deploy("sample.app").request(url_event("/raise-after"))
    if Difference.BUFFERED not in differences:
        assert reply.body.startswith(b"data: 1\n\nevent: error\n")
    if Difference.NO_TRAILERS not in differences:
        assert reply.error is not None
        assert reply.error["errorMessage"] == "secret of the house"


def test_a_function_goes_on_after_an_error(deploy: Deploy) -> None:
    target = deploy("sample.app")
    for route in ("/raise-before", "/unfinished", "/exit-after"):
        target.request(url_event(route))
        assert target.request(url_event("/hello")).body == b"hello world"


@pytest.mark.parametrize("handler", ["sample.plain", "sample.both"])
def test_a_plain_handler_answers_other_events(deploy: Deploy, handler: str) -> None:
    reply = deploy(handler).invoke({"Records": [1]})
    assert json.loads(reply.body)["event"] == {"Records": [1]}


def test_an_async_handler_answers(deploy: Deploy) -> None:
    assert json.loads(deploy("sample.plain_async").invoke({"n": 1}).body) == {"async": {"n": 1}}


def test_a_plain_handlers_error(deploy: Deploy) -> None:
    target = deploy("sample.plain")
    reply = target.invoke({"raise": "x"})
    assert reply.error is not None
    assert (reply.error["errorType"], reply.error["errorMessage"]) == ("KeyError", "'x'")
    assert target.invoke({"x": 1}).error is None


def test_an_event_that_nothing_answers(deploy: Deploy) -> None:
    reply = deploy("sample.app").invoke({"x": 1})
    assert reply.error is not None
    assert reply.error["errorType"] == "Runtime.UnsupportedEvent"

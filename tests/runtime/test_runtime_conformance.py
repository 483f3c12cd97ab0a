"""One set of stories for every Runtime API; what differs stands in the targets' table."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest

from tests.runtime.contract import Deploy, Difference, Missing, Target
from tests.runtime.events import rest_event, url_event
from tests.runtime.rie import give_up
from tests.runtime.targets import DIFFERENCES, TARGETS


@pytest.fixture(params=sorted(TARGETS))
def differences(request: pytest.FixtureRequest) -> frozenset[Difference]:
    return DIFFERENCES[request.param]


@pytest.fixture
def deploy(request: pytest.FixtureRequest, differences: frozenset[Difference]) -> Iterator[Deploy]:
    """`deploy(handler, timeout_s=20.0)` on the target at hand."""
    name = request.node.callspec.params["differences"]
    with ExitStack() as stack:

        def start(handler: str, *, timeout_s: float = 20.0) -> Target:
            try:
                return stack.enter_context(closing(TARGETS[name](handler, timeout_s=timeout_s)))
            except Missing as missing:
                give_up(missing)

        yield start


def wait_for(target: Target, text: str, timeout_s: float = 30.0) -> None:
    """Wait until the function has written `text`."""
    ends_at_s = time.monotonic() + timeout_s
    while text not in target.output:
        assert time.monotonic() < ends_at_s, f"{text!r} not in:\n{target.output}"
        time.sleep(0.01)


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


def test_a_start_that_fails_is_told_to_the_caller(deploy: Deploy) -> None:
    reply = deploy("broken_import.handler").invoke({})
    assert reply.error is not None
    assert reply.error["errorType"] == "Runtime.ImportModuleError"
    assert "a_module_that_is_nowhere" in reply.error["errorMessage"]


def test_six_megabytes_come_and_go(deploy: Deploy, differences: frozenset[Difference]) -> None:
    target = deploy("sample.app")
    event = url_event("/size", method="POST", body="x" * 6_200_000)
    event["headers"] |= {"content-type": "text/plain"}
    assert target.request(event).body == b"6200000"
    if Difference.SIX_MEGABYTES not in differences:
        assert len(target.request(url_event("/large")).body) == 64 * 262144


def test_an_answer_in_one_piece_may_not_pass_six_megabytes(deploy: Deploy) -> None:
    target = deploy("sample.plain")
    reply = target.invoke({"large": 6_291_557})
    assert reply.error is not None
    assert reply.error["errorType"] == "Function.ResponseSizeTooLarge"
    assert len(target.invoke({"large": 6_200_000}).body) == 6_200_002


def test_an_event_streams_empty_body_is_a_comment(deploy: Deploy) -> None:
    reply = deploy("sample.app").request(url_event("/empty-late?kind=text/event-stream"))
    assert (reply.status, reply.body[:1]) == (200, b":")


def test_a_stream_ends_before_the_deadline(
    deploy: Deploy, differences: frozenset[Difference]
) -> None:
    target = deploy("sample.app", timeout_s=2)
    reply = target.request(url_event("/pending"))
    if Difference.BUFFERED not in differences:
        assert (reply.status, reply.body[:9]) == (200, b"data: 1\n\n")
    wait_for(target, "CANCELLED http.disconnect")
    if Difference.NO_TRAILERS not in differences:
        assert reply.error is not None
        assert reply.error["errorType"] == "Runtime.DeadlineExceeded"
    assert target.request(url_event("/hello")).body == b"hello world"


def test_a_caller_that_leaves_stops_the_application(
    deploy: Deploy, differences: frozenset[Difference]
) -> None:
    if Difference.NO_LEAVING in differences:
        pytest.skip(Difference.NO_LEAVING)
    target = deploy("sample.app")
    target.hang_up(url_event("/pending"))
    wait_for(target, "CANCELLED http.disconnect")
    assert target.request(url_event("/hello")).body == b"hello world"


def test_an_idle_environment_is_shut_down_in_order(
    deploy: Deploy, differences: frozenset[Difference]
) -> None:
    if Difference.NO_STOP in differences:
        pytest.skip(Difference.NO_STOP)
    target = deploy("sample.app")
    assert target.request(url_event("/hello")).status == 200
    target.stop()
    wait_for(target, "LIFESPAN DOWN")
    assert target.output.index("SHUTDOWN") < target.output.index("LIFESPAN DOWN")


def test_a_stream_under_way_is_ended_by_a_shutdown(
    deploy: Deploy, differences: frozenset[Difference]
) -> None:
    if Difference.NO_STOP in differences:
        pytest.skip(Difference.NO_STOP)
    target = deploy("sample.app")
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(target.request, url_event("/pending?say=BEGUN"))
        wait_for(target, "BEGUN")
        target.stop()
        wait_for(target, "CANCELLED http.disconnect")
        reply.exception(20)
        if Difference.DROPS_CALLER not in differences:
            assert reply.result(20).body.startswith(b"data: 1\n\n")

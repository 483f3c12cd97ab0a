"""The streamed answer of lambda_stream, looked at byte by byte through a strict Runtime API."""

from __future__ import annotations

import json
import time

import pytest

from tests.runtime.environment import Start
from tests.runtime.events import rest_event, url_event
from tests.runtime.strict_api import Fault, StrictRuntimeAPI


def test_prelude_and_delimiter_are_two_chunks_and_each_frame_is_one(start_runtime: Start) -> None:
    call = start_runtime().api.invoke(url_event("/hello")).wait()
    assert call.prelude == {
        "statusCode": 200,
        "headers": {"content-type": "text/plain"},
        "cookies": [],
    }
    assert call.chunks[1:] == [bytes(8), b"hello", b" world"]
    assert call.ended_cleanly
    assert call.trailers == {}


def test_the_request_declares_streaming_and_its_trailers(start_runtime: Start) -> None:
    headers = start_runtime().api.invoke(url_event()).wait().request_headers
    assert headers["content-type"] == "application/vnd.awslambda.http-integration-response"
    assert headers["lambda-runtime-function-response-mode"] == "streaming"
    assert headers["transfer-encoding"] == "chunked"
    assert headers["trailer"] == (
        "Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body"
    )


def test_each_answer_has_a_connection_of_its_own(start_runtime: Start) -> None:
    api = start_runtime().api
    calls = [api.invoke(url_event()).wait() for _ in range(3)]
    assert len({call.connection for call in calls}) == 3


def test_no_frame_waits_for_another_even_if_the_application_blocks(start_runtime: Start) -> None:
    call = start_runtime().api.invoke(url_event("/blocking-frames")).wait()
    frames = [b"data: %d%s\n\n" % (n, mark) for n in range(4) for mark in (b"", b"+")]
    assert call.payload == b"".join(frames)
    arrivals = list(zip(call.chunks[2:], call.chunk_times_s[2:], strict=True))
    at_s = [next(at for data, at in arrivals if frame in data) for frame in frames]
    for first in (0, 2, 4, 6):
        assert at_s[first + 1] - at_s[first] < 0.1, "a frame waited until the application went on"
    for last in (1, 3, 5):
        assert at_s[last + 1] - at_s[last] > 0.1, "the application did pause in between"


def test_frames_that_are_ready_together_may_share_a_chunk(start_runtime: Start) -> None:
    call = start_runtime().api.invoke(url_event("/frames?n=2000")).wait()
    assert call.payload == b"".join(b"data: %d\n\n" % n for n in range(2000))
    assert call.chunks[2] == b"data: 0\n\n", "the first frame waited for others"
    assert len(call.chunks) < 1000


def test_frames_arrive_while_the_application_still_runs(start_runtime: Start) -> None:
    call = start_runtime().api.invoke(url_event("/frames?n=5&gap=0.1")).wait()
    assert call.chunk_times_s[-1] - call.chunk_times_s[2] > 0.3


def test_cookies_stand_apart_and_repeats_are_joined(start_runtime: Start) -> None:
    prelude = start_runtime().api.invoke(url_event("/headers")).wait().prelude
    assert prelude["cookies"] == ["a=1; Path=/", "b=2"]
    assert prelude["headers"] == {
        "content-type": "text/plain",
        "x-two": "1, 2",
        "x-latin": "caf\xe9",
    }


def test_payload_version_1_keeps_repeats_apart(start_runtime: Start) -> None:
    prelude = start_runtime().api.invoke(rest_event("/headers")).wait().prelude
    assert prelude["multiValueHeaders"] == {"x-two": ["1", "2"]}
    assert prelude["cookies"] == ["a=1; Path=/", "b=2"]


def test_an_answer_without_content_type_gets_one(start_runtime: Start) -> None:
    call = start_runtime().api.invoke(url_event("/untyped")).wait()
    assert call.prelude["headers"]["content-type"] == "application/octet-stream"
    assert call.payload == b"\x00\xff"


@pytest.mark.parametrize("query", ["code=200", "code=204&body=x", "code=304&body=x", "code=307"])
def test_an_empty_body_says_so_in_the_prelude(start_runtime: Start, query: str) -> None:
    call = start_runtime().api.invoke(url_event(f"/status?{query}")).wait()
    assert call.prelude["headers"]["content-length"] == "0"
    assert call.payload == b""


def test_an_answer_to_head_has_no_body(start_runtime: Start) -> None:
    call = start_runtime().api.invoke(url_event("/hello", method="HEAD")).wait()
    assert call.prelude["headers"]["content-length"] == "0"
    assert call.payload == b""


def test_an_empty_event_stream_holds_a_comment(start_runtime: Start) -> None:
    call = start_runtime().api.invoke(url_event("/empty-late?kind=text/event-stream")).wait()
    assert call.payload == b":\n\n"


def test_a_body_that_turns_out_empty_a_little_later_still_says_so(start_runtime: Start) -> None:
    call = start_runtime().api.invoke(url_event("/empty-late?kind=text/plain")).wait()
    assert call.prelude["headers"]["content-length"] == "0"


def test_a_large_stream_arrives_whole(start_runtime: Start) -> None:
    payload = start_runtime().api.invoke(url_event("/large")).wait(30).payload
    assert payload == b"".join(bytes([number]) * 262144 for number in range(64))


@pytest.mark.parametrize("status", [400, 403, 410, 413])
def test_an_early_refusal_cancels_the_application(start_runtime: Start, status: int) -> None:
    environment = start_runtime()
    call = environment.api.invoke(url_event("/pending"), fault=Fault(3, status=status))
    call.wait().wait_closed()
    environment.process.wait_for("CANCELLED http.disconnect")
    environment.process.wait_for(f"answered {status} before")
    assert environment.api.invoke(url_event()).wait().payload == b"hello world"


@pytest.mark.parametrize("route", ["/forever", "/hot", "/large"])
def test_a_reset_while_sending_ends_the_invocation_only(start_runtime: Start, route: str) -> None:
    environment = start_runtime()
    call = environment.api.invoke(url_event(route), fault=Fault(4, reset=True))
    call.wait().wait_closed()
    environment.process.wait_for("The stream was cut")
    assert environment.api.invoke(url_event()).wait().payload == b"hello world"


def test_the_deadline_ends_the_stream_cleanly(start_runtime: Start) -> None:
    environment = start_runtime()
    call = environment.api.invoke(url_event("/forever"), deadline_s=1.5).wait()
    assert call.ended_cleanly
    assert call.answered_at_s - call.taken_at_s < 1.4
    assert call.trailers["lambda-runtime-function-error-type"] == "Runtime.DeadlineExceeded"
    assert call.payload.endswith(b'"title":"Gateway Timeout","status":504}\n\n')
    environment.process.wait_for("CANCELLED http.disconnect")


@pytest.mark.parametrize("route", ["/hot", "/stubborn"])
def test_the_deadline_stops_an_application_that_will_not(start_runtime: Start, route: str) -> None:
    call = start_runtime().api.invoke(url_event(route), deadline_s=1.5).wait()
    assert call.ended_cleanly
    assert call.answered_at_s - call.taken_at_s < 1.5


def test_an_application_may_say_goodbye_at_the_deadline(start_runtime: Start) -> None:
    call = start_runtime().api.invoke(url_event("/polite"), deadline_s=1.2).wait()
    assert call.payload == b"data: 1\n\ndata: bye\n\n"
    assert call.trailers == {}


def test_nothing_sent_until_the_deadline_is_a_504(start_runtime: Start) -> None:
    environment = start_runtime()
    call = environment.api.invoke(url_event("/silent"), deadline_s=1.0).wait()
    assert call.prelude["statusCode"] == 504
    environment.process.wait_for("STOPPED")


def test_the_next_invocation_waits_until_lambda_took_the_stream(start_runtime: Start) -> None:
    api = StrictRuntimeAPI()
    api.answer_delay_s = 0.2
    call = start_runtime(api=api).api.invoke(url_event())
    call.wait()
    assert call.wait_closed().ended_cleanly


def test_background_work_ends_before_the_next_invocation(start_runtime: Start) -> None:
    environment = start_runtime()
    call = environment.api.invoke(url_event("/background")).wait()
    assert "BACKGROUND" not in environment.process.output, "the answer waited for the work"
    started_s = time.monotonic()
    call.wait_closed()
    environment.process.wait_for("BACKGROUND", 0.2)
    assert time.monotonic() - started_s > 0.05


def test_after_its_answer_the_application_sees_a_disconnect(start_runtime: Start) -> None:
    environment = start_runtime()
    call = environment.api.invoke(url_event("/after-end")).wait().wait_closed()
    environment.process.wait_for("AFTER http.disconnect")
    environment.process.wait_for("RuntimeError: late")
    assert call.trailers == {}


def test_buffered_mode_gives_one_json_document(start_runtime: Start) -> None:
    api = start_runtime(AWS_SAM_LOCAL="true").api
    text = api.invoke(url_event("/headers")).wait()
    assert text.json["statusCode"] == 200
    assert (text.json["body"], text.json["isBase64Encoded"]) == ("x", False)
    assert text.json["cookies"] == ["a=1; Path=/", "b=2"]
    raw = api.invoke(url_event("/untyped")).wait()
    assert (raw.json["body"], raw.json["isBase64Encoded"]) == ("AP8=", True)
    rest = api.invoke(rest_event("/headers")).wait()
    assert rest.json["multiValueHeaders"]["set-cookie"] == ["a=1; Path=/", "b=2"]


def test_the_scope_of_a_function_url_event(start_runtime: Start) -> None:
    event = url_event(
        "/echo?a=%20b&a=2",
        method="post",
        cookies=["a=1", "b=2"],
        body="aGk=",
        isBase64Encoded=True,
    )
    scope = json.loads(start_runtime().api.invoke(event).wait().payload)
    assert (scope["method"], scope["path"], scope["query_string"]) == (
        "POST",
        "/echo",
        "a=%20b&a=2",
    )
    assert ["cookie", "a=1; b=2"] in scope["headers"]
    assert (scope["body"], scope["client"]) == ("hi", ["203.0.113.9", 0])
    assert scope["state"] == {"started": True}
    assert 28_000 < scope["left_ms"] <= 30_000


@pytest.mark.parametrize("route", ["/hot", "/forever"])
def test_an_endless_answer_to_head_ends_at_once(start_runtime: Start, route: str) -> None:
    environment = start_runtime()
    call = environment.api.invoke(url_event(route, method="HEAD"), deadline_s=4).wait()
    assert call.answered_at_s - call.taken_at_s < 2
    assert (call.payload, call.prelude["headers"]["content-length"]) == (b"", "0")


def test_background_work_is_cut_before_the_deadline(start_runtime: Start) -> None:
    environment = start_runtime()
    call = environment.api.invoke(url_event("/long-background"), deadline_s=1.5).wait()
    call.wait_closed(2)
    environment.process.wait_for("1 background tasks did not end")

"""The life of an execution environment of lambda_stream: start, invocations, snapshot, shutdown."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from tests.runtime.environment import Start
from tests.runtime.events import url_event
from tests.runtime.strict_api import StrictRuntimeAPI


def test_the_extension_waits_before_the_first_next(start_runtime: Start) -> None:
    api = start_runtime().api
    assert api.asked_next.wait(10)
    assert api.registered == {"name": "lambda-stream", "events": []}
    order = [line.rpartition("/")[2] for line in api.requests]
    assert order == ["register", "next", "next"]
    assert api.requests[1] == "GET /2020-01-01/extension/event/next"


def test_a_runtime_api_without_extensions_is_tolerated(start_runtime: Start) -> None:
    environment = start_runtime(api=StrictRuntimeAPI(extensions=False))
    assert environment.api.invoke(url_event()).wait().payload == b"hello world"


def test_sigterm_while_idle_runs_callbacks_and_lifespan_shutdown(start_runtime: Start) -> None:
    environment = start_runtime()
    assert environment.api.asked_next.wait(10)
    time.sleep(0.1)
    started_s = time.monotonic()
    environment.process.terminate()
    assert environment.process.wait() == 0
    assert time.monotonic() - started_s < 10
    assert "SHUTDOWN" in environment.process.output
    assert "LIFESPAN DOWN" in environment.process.output
    assert "Warning" not in environment.process.output


def test_sigterm_lets_an_invocation_settle(start_runtime: Start) -> None:
    environment = start_runtime("sample.plain_async")
    call = environment.api.invoke({"wait": True})
    environment.api.invoke({"never": "taken"})
    time.sleep(1.0)
    environment.process.terminate()
    assert call.wait().json == "settled"
    assert environment.process.wait() == 0


def test_sigterm_cuts_an_invocation_that_does_not_settle(start_runtime: Start) -> None:
    environment = start_runtime("sample.plain_async")
    call = environment.api.invoke({"hang": True})
    time.sleep(1.0)
    environment.process.terminate()
    assert call.wait(3).json["errorType"] == "Runtime.Shutdown"
    assert environment.process.wait() == 0


def test_sigterm_ends_a_stream_in_flight(start_runtime: Start) -> None:
    environment = start_runtime()
    call = environment.api.invoke(url_event("/forever"))
    assert call.began.wait(10)
    environment.process.terminate()
    assert call.wait(3).ended_cleanly
    assert call.trailers["lambda-runtime-function-error-type"] == "Runtime.Shutdown"
    assert environment.process.wait() == 0


def test_with_a_drain_time_a_stream_ends_by_itself_first(start_runtime: Start) -> None:
    environment = start_runtime(LAMBDA_STREAM_DRAIN_MS="20000")
    call = environment.api.invoke(url_event("/frames?n=8&gap=0.1"))
    environment.api.invoke(url_event("/hello"))  # never taken
    assert call.began.wait(10)
    environment.process.terminate()
    assert call.wait().payload.count(b"data:") == 8
    assert environment.process.wait() == 0
    assert "SHUTDOWN" in environment.process.output
    assert "LIFESPAN DOWN" in environment.process.output


def test_after_the_drain_time_a_stream_has_what_lambda_gives(start_runtime: Start) -> None:
    environment = start_runtime(LAMBDA_STREAM_DRAIN_MS="500")
    call = environment.api.invoke(url_event("/forever"))
    assert call.began.wait(10)
    environment.process.terminate()
    began_s = time.monotonic()
    environment.process.wait_for("SHUTDOWN")
    assert time.monotonic() - began_s > 0.4
    assert call.wait(3).trailers["lambda-runtime-function-error-type"] == "Runtime.Shutdown"


def test_a_blocking_handler_does_not_hold_up_sigterm(start_runtime: Start) -> None:
    environment = start_runtime("sample.plain")
    call = environment.api.invoke({"sleep": 30})
    time.sleep(1.0)
    started_s = time.monotonic()
    os.kill(environment.process.pid, signal.SIGTERM)
    environment.process.wait_for("SHUTDOWN", 2)
    assert environment.process.wait(5) == 0
    assert time.monotonic() - started_s < 10
    assert call.wait(3).json["errorType"] == "Runtime.Shutdown"


def test_a_function_value_sorts_events_by_shape(start_runtime: Start) -> None:
    api = start_runtime("sample.both").api
    assert api.invoke(url_event()).wait().payload == b"hello world"
    assert api.invoke({"Records": []}).wait().json["event"] == {"Records": []}


def test_an_async_handler_runs_on_the_one_loop(start_runtime: Start) -> None:
    api = start_runtime("sample.plain_async").api
    assert [api.invoke({"n": n}).wait().json for n in range(2)] == [
        {"async": {"n": 0}},
        {"async": {"n": 1}},
    ]


def test_a_plain_handler_may_run_a_loop_of_its_own(start_runtime: Start) -> None:
    assert start_runtime("sample.plain").api.invoke({"loop": 1}).wait().json == "own loop"


def test_background_work_of_a_plain_handler_is_awaited(start_runtime: Start) -> None:
    environment = start_runtime("sample.plain")
    call = environment.api.invoke({"background": 1}).wait()
    call.wait_closed()
    environment.process.wait_for("BACKGROUND", 0.2)


def test_the_trace_id_is_set_for_one_invocation_only(start_runtime: Start) -> None:
    api = start_runtime().api
    traced = api.invoke(url_event("/echo"), Lambda_Runtime_Trace_Id="Root=1-2-3").wait()
    bare = api.invoke(url_event("/echo")).wait()
    assert json.loads(traced.payload)["trace"] == "Root=1-2-3"
    assert json.loads(bare.payload)["trace"] is None


@pytest.mark.parametrize("route", ["/hello", "/raise-before"])
def test_the_invocation_id_is_echoed_on_streams(start_runtime: Start, route: str) -> None:
    call = start_runtime().api.invoke(url_event(route), Lambda_Runtime_Invocation_Id="i-7").wait()
    assert call.request_headers["lambda-runtime-invocation-id"] == "i-7"


@pytest.mark.parametrize("event", [{"x": 1}, {"raise": "x"}])
def test_the_invocation_id_is_echoed_on_answers(start_runtime: Start, event: object) -> None:
    api = start_runtime("sample.plain").api
    call = api.invoke(event, Lambda_Runtime_Invocation_Id="i-7").wait()
    assert call.request_headers["lambda-runtime-invocation-id"] == "i-7"
    assert "lambda-runtime-invocation-id" not in api.invoke(event).wait().request_headers


def test_a_tenant_id_reaches_the_context(start_runtime: Start) -> None:
    api = start_runtime("sample.plain").api
    assert api.invoke({}, Lambda_Runtime_Aws_Tenant_Id="t-1").wait().json["tenant"] == "t-1"


def test_a_connection_dropped_while_idle_is_renewed(start_runtime: Start) -> None:
    api = StrictRuntimeAPI()
    api.drop_idle = True
    environment = start_runtime("sample.plain", api=api)
    assert [environment.api.invoke({"n": n}).wait().json["event"] for n in (1, 2)] == [
        {"n": 1},
        {"n": 2},
    ]


def test_a_slow_next_is_waited_for(start_runtime: Start) -> None:
    environment = start_runtime("sample.plain")
    assert environment.api.asked_next.wait(10)
    time.sleep(1.5)
    assert environment.api.invoke({}).wait().kind == "response"


def test_the_deadline_is_optional(start_runtime: Start) -> None:
    api = start_runtime().api
    call = api.invoke(url_event("/frames?n=3&gap=0.2"), Lambda_Runtime_Deadline_Ms="")
    assert call.wait().payload == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"


def test_snapshot_hooks_run_around_the_restore(start_runtime: Start) -> None:
    environment = start_runtime("snap.handler", AWS_LAMBDA_INITIALIZATION_TYPE="snap-start")
    assert environment.api.restore_asked.wait(10)
    assert not environment.api.asked_next.is_set()
    environment.api.restore_go.set()
    assert environment.api.invoke({}).wait().json == ["b2", "b1", "a1", "a2"]


@pytest.mark.parametrize(("when", "status"), [("before", 64), ("after", 65)])
def test_a_failing_snapshot_hook_is_told(start_runtime: Start, when: str, status: int) -> None:
    environment = start_runtime(
        "snap.handler", AWS_LAMBDA_INITIALIZATION_TYPE="snap-start", FAIL=when
    )
    environment.api.restore_go.set()
    assert environment.process.wait() == status
    told = environment.api.init_error if when == "before" else environment.api.restore_error
    assert told is not None
    assert told["errorMessage"] == f"{when} fails"


def test_a_failed_lifespan_after_a_restore_is_a_restore_error(start_runtime: Start) -> None:
    environment = start_runtime("sample.bad_lifespan", AWS_LAMBDA_INITIALIZATION_TYPE="snap-start")
    environment.api.restore_go.set()
    assert environment.process.wait() == 65
    assert environment.api.restore_error is not None


def test_without_a_runtime_api_the_message_is_clear(start_runtime: Start) -> None:
    process = start_runtime(AWS_LAMBDA_RUNTIME_API="").process
    assert process.wait() == 1
    assert process.output == "lambda_stream: AWS_LAMBDA_RUNTIME_API is not set"


@pytest.mark.parametrize("route", ["/stubborn", "/long-background", "/silent", "/hot"])
def test_sigterm_ends_the_process_whatever_is_running(start_runtime: Start, route: str) -> None:
    environment = start_runtime()
    call = environment.api.invoke(url_event(route))
    call.began.wait(2)
    time.sleep(0.2)
    started_s = time.monotonic()
    environment.process.terminate()
    assert environment.process.wait() == 0
    assert time.monotonic() - started_s < 10
    assert "LIFESPAN DOWN" in environment.process.output

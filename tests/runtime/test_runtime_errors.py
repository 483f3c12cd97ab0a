"""What lambda_stream tells Lambda and the client when something goes wrong."""

from __future__ import annotations

import base64
import json

import pytest

from tests.runtime.environment import Start
from tests.runtime.events import url_event
from tests.runtime.strict_api import Fault, StrictRuntimeAPI


def test_an_error_before_the_answer_is_a_500_that_lambda_hears_of(start_runtime: Start) -> None:
    environment = start_runtime()
    call = environment.api.invoke(url_event("/raise-before")).wait()
    assert (call.prelude["statusCode"], call.payload) == (500, b"Internal Server Error")
    assert call.trailers["lambda-runtime-function-error-type"] == "Runtime.ValueError"
    environment.process.wait_for("[ERROR] ValueError: secret of the house")


def test_an_error_after_the_start_ends_the_stream_with_trailers(start_runtime: Start) -> None:
    call = start_runtime().api.invoke(url_event("/raise-after")).wait()
    assert call.ended_cleanly
    error = json.loads(base64.b64decode(call.trailers["lambda-runtime-function-error-body"]))
    assert (error["errorType"], error["errorMessage"]) == ("ValueError", "secret of the house")
    assert "sample.py" in error["stackTrace"][0]
    frame = b'event: error\ndata: {"type":"about:blank","title":"Internal Server Error"'
    assert frame in call.payload
    assert b"secret" not in call.payload


def test_only_an_event_stream_gets_an_error_frame(start_runtime: Start) -> None:
    call = start_runtime().api.invoke(url_event("/raise-after?kind=application/json")).wait()
    assert call.payload == b"data: 1\n\n"
    assert call.trailers


@pytest.mark.parametrize(
    ("route", "status", "error"),
    [
        ("/no-answer", 500, "Runtime.NoAnswer"),
        ("/raise-at-once", 500, "Runtime.ValueError"),
        ("/unfinished", 200, "Runtime.Unfinished"),
        ("/too-long", 200, "Runtime.RuntimeError"),
        ("/out-of-turn", 500, "Runtime.RuntimeError"),
        ("/exit-after", 200, "Runtime.SystemExit"),
        ("/big-headers", 500, "Runtime.ValueError"),
        ("/split-header", 500, "Runtime.ValueError"),
        ("/nowhere", 500, "Runtime.KeyError"),
    ],
)
def test_a_faulty_application_is_told_apart(
    start_runtime: Start, route: str, status: int, error: str
) -> None:
    environment = start_runtime()
    call = environment.api.invoke(url_event(route)).wait()
    assert call.ended_cleanly
    assert call.prelude["statusCode"] == status
    assert call.trailers["lambda-runtime-function-error-type"] == error
    assert environment.api.invoke(url_event()).wait().payload == b"hello world"


def test_a_plain_handlers_error_goes_to_the_error_path(start_runtime: Start) -> None:
    call = start_runtime("sample.plain").api.invoke({"raise": "x"}).wait()
    assert call.kind == "error"
    assert call.request_headers["lambda-runtime-function-error-type"] == "KeyError"
    assert call.json["errorMessage"] == "'x'"
    assert call.json["requestId"] == call.request_id
    assert ["sample.py" in frame for frame in call.json["stackTrace"]] == [True]


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (b"{not json", "Runtime.UnmarshalError"),
        (b"\xff", "Runtime.UnmarshalError"),
        (b"[" * 100_000, "Runtime.UnmarshalError"),
        ({"unserialisable": 1}, "Runtime.MarshalError"),
    ],
)
def test_what_is_no_json_is_an_error(start_runtime: Start, event: object, error: str) -> None:
    call = start_runtime("sample.plain").api.invoke(event).wait()
    assert (call.kind, call.json["errorType"]) == ("error", error)


@pytest.mark.parametrize(
    "change", [{"body": "%", "isBase64Encoded": True}, {"headers": {"a": 1}}, {"rawPath": 7}]
)
def test_a_malformed_http_event_is_an_error(
    start_runtime: Start, change: dict[str, object]
) -> None:
    call = start_runtime().api.invoke(url_event() | change).wait()
    assert (call.kind, call.json["errorType"]) == ("error", "Runtime.UnmarshalError")


def test_an_answer_that_is_too_large_becomes_an_error(start_runtime: Start) -> None:
    environment = start_runtime("sample.plain")
    call = environment.api.invoke({"large": 100}, fault=Fault(-1, status=413)).wait()
    assert (call.kind, call.json["errorType"]) == ("error", "Function.ResponseSizeTooLarge")


def test_a_handler_that_exits_is_reported_and_ends_the_process(start_runtime: Start) -> None:
    environment = start_runtime("sample.plain")
    call = environment.api.invoke({"exit": 7}).wait()
    assert (call.kind, call.json["errorType"]) == ("error", "SystemExit")
    assert environment.process.wait() == 7


@pytest.mark.parametrize(
    ("handler", "error", "message"),
    [
        ("nowhere.app", "Runtime.ImportModuleError", "No module named 'nowhere'"),
        ("broken_import.app", "Runtime.ImportModuleError", "a_module_that_is_nowhere"),
        ("sample.missing", "Runtime.HandlerNotFound", "'missing' missing on module 'sample'"),
        ("sample.not_callable", "Runtime.HandlerNotFound", "is not callable"),
        ("sample", "Runtime.MalformedHandlerName", "Bad handler 'sample'"),
        ("sys.exit", "Runtime.BuiltInModuleConflict", "built-in module sys"),
        ("sample.bad_lifespan", "Runtime.LifespanStartupFailed", "no database"),
    ],
)
def test_a_failed_start_is_told_to_lambda(
    start_runtime: Start, handler: str, error: str, message: str
) -> None:
    environment = start_runtime(handler)
    assert environment.process.wait() == 1
    assert environment.api.init_error is not None
    assert environment.api.init_error["errorType"] == error
    assert message in environment.api.init_error["errorMessage"]
    assert environment.api.init_error_headers["lambda-runtime-function-error-type"] == error
    assert message in environment.process.output


@pytest.mark.parametrize("status", [403, 410, 500])
def test_a_refused_next_ends_the_process(start_runtime: Start, status: int) -> None:
    environment = start_runtime(api=StrictRuntimeAPI(next_status=status))
    assert environment.process.wait() == 1
    assert f"/next answered {status}" in environment.process.output


def test_an_http_event_without_an_application_is_data(start_runtime: Start) -> None:
    call = start_runtime("sample.plain").api.invoke(url_event()).wait()
    assert call.json["event"]["rawPath"] == "/hello"


def test_another_event_without_a_handler_is_an_error(start_runtime: Start) -> None:
    call = start_runtime().api.invoke({"x": 1}).wait()
    assert (call.kind, call.json["errorType"]) == ("error", "Runtime.UnsupportedEvent")


def test_an_error_in_the_background_is_logged(start_runtime: Start) -> None:
    environment = start_runtime()
    call = environment.api.invoke(url_event("/background-error")).wait().wait_closed()
    assert (call.payload, call.trailers) == (b"done", {})
    environment.process.wait_for("[ERROR] ValueError: in the background")

"""Answers every error under /v1 in OpenAI's shape, with the headers that OpenAI's clients read."""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lambent.admission import limits
from lambent.admission.decisions import LimitState
from lambent.clock import Clock
from lambent.errors import (
    BudgetExceeded,
    Forbidden,
    LambentError,
    RateLimited,
    RequestError,
    RetryLater,
    Unauthenticated,
    UnknownAgent,
    UnknownModel,
    Unprocessable,
)
from lambent.first_aid import explain
from lambent.http.key_header import KeyReused
from lambent.http.problems import as_lambent, error_headers, request_id_of, send_json
from lambent.telemetry import log_fields, logger, redact

# OpenAI's clients try a 500 again by themselves: one of ours is a bug, and would be paid twice.
_NO_RETRY: Final = {"x-should-retry": "false"}


class BadParam(RequestError):
    """A field of the request cannot stand as it is; `param` says which, as OpenAI writes it."""

    code = "invalid_value"

    def __init__(self, detail: str, *, param: str) -> None:
        super().__init__(detail, fields={"param": param})


class MissingParam(BadParam):
    code = "missing_required_parameter"


class UnknownParam(BadParam):
    code = "unknown_parameter"


class Unsupported(BadParam):
    """OpenAI knows it; this platform cannot honour it, and says so instead of ignoring it."""

    code = "unsupported_value"


def openai_limit_headers(limit: LimitState | None) -> dict[str, str]:
    """The IETF's headers and OpenAI's own."""
    return {**limits.headers(limit), **limits.openai_headers(limit)}


def openai_status(error: LambentError) -> int:
    """The status that OpenAI's clients understand, where it is not the class's own."""
    match error:
        case UnknownAgent():
            return 404  # a 501 is tried again, twice
        case Unprocessable() if not isinstance(error, KeyReused):
            return 400
        case _:
            return error.status


def openai_error(error: LambentError) -> dict[str, Any]:
    """`{"error": {"message", "type", "param", "code"}}`."""
    kind, code = _kind(error)
    message = redact(error.detail)
    if isinstance(error, UnknownAgent):
        message = f"{message.partition(';')[0]}; GET /v1/models lists models and agents."
    param = "model" if code == "model_not_found" else error.fields.get("param")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _kind(error: LambentError) -> tuple[str, str]:
    match error:
        case Unauthenticated():
            return "invalid_request_error", "invalid_api_key"
        case Forbidden():
            return "invalid_request_error", "insufficient_permissions"
        case BudgetExceeded():
            return "insufficient_quota", "insufficient_quota"
        case RateLimited():
            return "requests", "rate_limit_exceeded"
        case UnknownModel() | UnknownAgent():
            return "invalid_request_error", "model_not_found"
        case RequestError():
            return "invalid_request_error", error.code
        case _:
            return "server_error", error.code


class OpenAiErrors:
    """Stands around the application, within `ProblemsMiddleware`; touches only paths under /v1."""

    def __init__(self, app: ASGIApp, *, clock: Clock) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_openai_path(scope["path"]):
            await self._app(scope, receive, send)
            return
        began_s = self._clock.monotonic_s()
        started = False

        async def noting(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                took_ms = max(1, round((self._clock.monotonic_s() - began_s) * 1000))
                timing = (b"openai-processing-ms", str(took_ms).encode())
                message["headers"] = [*message.get("headers", ()), timing]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:  # an edge: a client gets a document, never a trace
            if started or isinstance(error, ClientDisconnect):
                raise
            failure, headers = as_lambent(error)
            _log(error, failure, request_id_of(scope))
            status = openai_status(failure)
            # Nor does a budget come back while a client waits.
            final = status == 500 or isinstance(failure, BudgetExceeded)
            more = _NO_RETRY if final else {}
            told = {**headers, **error_headers(failure), **more}
            await send_json(noting, openai_error(failure), status=status, headers=told)


def is_openai_path(path: str) -> bool:
    """Whether OpenAI's rules hold for this path."""
    return path == "/v1" or path.startswith("/v1/")


def _log(error: Exception, failure: LambentError, request_id: str) -> None:
    if failure.status == 500:
        logger().error("A request failed", exc_info=error, **log_fields(request_id=request_id))
    elif isinstance(failure, RetryLater) and failure.status >= 503:
        why = log_fields(request_id=request_id, code=failure.code, detail=explain(failure))
        logger().warning("A request was turned away", **why)

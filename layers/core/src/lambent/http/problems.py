"""Problem documents (RFC 9457), and the outermost layer that turns every error into one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lambent.clock import Clock
from lambent.errors import (
    LambentError,
    MethodNotAllowed,
    NotFound,
    RequestError,
    RetryLater,
    Unauthenticated,
)
from lambent.first_aid import explain
from lambent.ids import new_ulid
from lambent.telemetry import correlated, log_fields, logger, redact

_PROBLEM: Final = b"application/problem+json"
_JSON: Final = b"application/json"
_CAUSE_LENGTH: Final = 500


class Rejected(Exception):
    """An error on its way out with headers of its own, such as the caller's limit."""

    def __init__(self, error: LambentError, headers: Mapping[str, str]) -> None:
        super().__init__(error.detail)
        self.error = error
        self.headers = headers


def problem(error: LambentError, request_id: str) -> dict[str, Any]:
    """The document; extra fields come from the error and never replace the standard's."""
    shown = {key: value for key, value in error.fields.items() if key not in _STANDARD}
    return {
        "type": f"urn:lambent:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": redact(error.detail),
        "instance": f"urn:lambent:request:{request_id}",
        **shown,
    }


_STANDARD: Final = frozenset({"type", "title", "status", "detail", "instance"})


def error_headers(error: LambentError) -> dict[str, str]:
    """What belongs to an error beside its document."""
    headers = {"cache-control": "no-store"}
    if isinstance(error, RetryLater):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, Unauthenticated):
        headers["www-authenticate"] = 'Bearer realm="lambent"'
    return headers


def request_id_of(scope: Scope) -> str:
    """The id of this request, as in `x-request-id` and in every log line about it."""
    return str(scope["lambent.request_id"])


async def send_json(
    send: Send,
    body: object,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    media_type: bytes = _JSON,
) -> None:
    """Send one whole answer."""
    data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
    raw = [(b"content-type", media_type), (b"content-length", str(len(data)).encode())]
    raw += encode_headers(headers or {})
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": data})


async def send_problem(
    send: Send, error: LambentError, *, request_id: str, headers: Mapping[str, str] | None = None
) -> None:
    """Send the error as a problem document with its status."""
    await send_json(
        send,
        problem(error, request_id),
        status=error.status,
        headers={**(headers or {}), **error_headers(error)},
        media_type=_PROBLEM,
    )


def encode_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Names in lower case, as ASGI wants them."""
    return [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()]


def as_lambent(error: Exception) -> tuple[LambentError, Mapping[str, str]]:
    """The error of our tree that an exception stands for, and headers that go with it."""
    match error:
        case Rejected():
            return error.error, error.headers
        case LambentError():
            return error, {}
        case HTTPException(status_code=404):
            return NotFound("There is nothing at this path."), {}
        case HTTPException(status_code=405):
            allow = dict(error.headers or {})
            return MethodNotAllowed(fields={"allow": allow.get("Allow", "")}), allow
        case HTTPException():
            return RequestError(), {}
        case _:
            # Its text may hold anything; the log has it, under the same request id.
            return LambentError("Something went wrong; the request id finds it in the log."), {}


def _uncached(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers, with the word that a front must keep no copy unless the answer allows it."""
    kept = list(headers)
    if all(name.lower() != b"cache-control" for name, _ in kept):
        kept.append((b"cache-control", b"no-store"))
    return kept


class ProblemsMiddleware:
    """Gives each request an id and answers every error that comes out of the application."""

    def __init__(self, app: ASGIApp, *, clock: Clock) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = self._new_id(scope)
        scope["lambent.request_id"] = request_id
        with correlated(request_id=request_id):
            await self._answer(scope, receive, send, request_id)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        id_header = (b"x-request-id", request_id.encode("latin-1"))
        started = ended = False

        async def noting(message: Message) -> None:
            nonlocal started, ended
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*_uncached(message.get("headers", ())), id_header]
            else:
                ended = not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:  # the process edge: a client gets a document, never a trace
            if isinstance(error, ClientDisconnect) or (isinstance(error, OSError) and started):
                return  # nobody is there to be answered
            failure, headers = as_lambent(error)
            self._log(error, failure, request_id)
            if ended:  # FastAPI answers first, and then raises what it answered
                return
            if started:
                raise
            await send_problem(noting, failure, request_id=request_id, headers=headers)

    def _new_id(self, scope: Scope) -> str:
        with suppress(KeyError, AttributeError):
            return str(scope["aws.context"].aws_request_id)
        return new_ulid(self._clock)

    def _log(self, error: Exception, failure: LambentError, request_id: str) -> None:
        if type(failure) is LambentError or failure.status == 500:
            logger().error("A request failed", exc_info=error, **log_fields(request_id=request_id))
        elif isinstance(failure, RetryLater) and failure.status >= 503:
            # A client is told that a store is away; why, and what to do about it, stands here.
            cause = failure.__cause__
            said = f"{type(cause).__name__}: {cause}"[:_CAUSE_LENGTH] if cause else None
            why = log_fields(
                request_id=request_id, code=failure.code, detail=explain(failure), cause=said
            )
            logger().warning("A request was turned away", **why)

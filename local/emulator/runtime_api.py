"""The Lambda Runtime API and Extensions API as one environment's process sees them."""

import asyncio
import base64
import json
import logging
import uuid
from dataclasses import dataclass
from typing import Protocol

from local.emulator.exchange import Exchange
from local.emulator.reply import HTTP_STREAM_TYPE, JSON_TYPE, Failure, Head, Invocation
from local.emulator.template import ACCOUNT, Function

log = logging.getLogger("lambent.local.runtime_api")

RESPONSE_LIMIT_BYTES = 6_291_556
STREAM_LIMIT_BYTES = 200 * 1024 * 1024
_RUNTIME = "/2018-06-01/runtime/"
_EXTENSION = "/2020-01-01/extension/"


class RuntimeListener(Protocol):
    """What the environment learns from its process."""

    def on_ready(self) -> None:
        """The runtime, and every extension, waits for the next event."""

    def on_next(self) -> None:
        """The runtime asked for the next event: the one before is over."""

    def on_lost(self) -> None:
        """The runtime let go of /next without an answer: it is about to end, or out of order."""

    def on_init_error(self, failure: Failure) -> None: ...


@dataclass(slots=True)
class _Extension:
    name: str
    events: tuple[str, ...]
    waiter: "asyncio.Future[dict[str, object]] | None" = None


@dataclass(slots=True)
class _Current:
    """The invocation that the runtime holds, and how far its answer has come."""

    invocation: Invocation
    deadline_ms: int
    invocation_id: str
    answering: bool = False


class RuntimeApi:
    """Handles the requests of one environment's process."""

    def __init__(self, function: Function, listener: RuntimeListener) -> None:
        self._function = function
        self._listener = listener
        self._waiter: asyncio.Future[_Current] | None = None
        self._current: _Current | None = None
        self._extensions: dict[str, _Extension] = {}
        self._initialised = False

    @property
    def has_extension(self) -> bool:
        """Only then does Lambda send the runtime a SIGTERM before it is killed."""
        return bool(self._extensions)

    def deliver(self, invocation: Invocation, *, deadline_ms: int) -> None:
        """Hand the invocation to the runtime that waits at /next."""
        assert self._waiter is not None
        assert not self._waiter.done()
        self._current = _Current(invocation, deadline_ms, str(uuid.uuid4()))
        self._waiter.set_result(self._current)
        for extension in self._extensions.values():
            if "INVOKE" in extension.events:
                self._tell(extension, self._invoke_event(self._current))

    def shutdown(self, reason: str, *, deadline_ms: int) -> None:
        """Tell the extensions that asked for it."""
        for extension in self._extensions.values():
            if "SHUTDOWN" in extension.events:
                event = {"eventType": "SHUTDOWN", "shutdownReason": reason}
                self._tell(extension, {**event, "deadlineMs": deadline_ms})

    async def __call__(self, exchange: Exchange) -> None:
        path = exchange.request.path
        match exchange.request.method, path:
            case "GET", "/2018-06-01/runtime/invocation/next":
                await self._next(exchange)
            case "POST", "/2018-06-01/runtime/init/error" | "/2018-06-01/runtime/restore/error":
                await self._init_error(exchange)
            case "GET", "/2018-06-01/runtime/restore/next":
                await exchange.respond(200)
            case "POST", _ if path.startswith(f"{_RUNTIME}invocation/"):
                await self._answer(exchange, path.removeprefix(f"{_RUNTIME}invocation/"))
            case "POST", "/2020-01-01/extension/register":
                await self._register(exchange)
            case "GET", "/2020-01-01/extension/event/next":
                await self._extension_next(exchange)
            case "POST", _ if path in (f"{_EXTENSION}init/error", f"{_EXTENSION}exit/error"):
                await self._init_error(exchange)
            case _:
                await _refuse(exchange, 404, "NotFound", f"no such path: {path}")

    # The runtime's loop.

    async def _next(self, exchange: Exchange) -> None:
        self._current = None
        self._waiter = waiter = asyncio.get_running_loop().create_future()
        self._listener.on_next()
        self._ready_if_all_wait()
        await asyncio.wait({waiter, exchange.gone}, return_when=asyncio.FIRST_COMPLETED)
        if exchange.gone.done():
            if self._waiter is waiter:
                self._listener.on_lost()
            return
        current = waiter.result()
        invocation = current.invocation
        fields = {
            "Content-Type": JSON_TYPE,
            "Lambda-Runtime-Aws-Request-Id": invocation.request_id,
            "Lambda-Runtime-Deadline-Ms": str(current.deadline_ms),
            "Lambda-Runtime-Invoked-Function-Arn": invocation.arn,
            "Lambda-Runtime-Trace-Id": invocation.trace_id,
            "Lambda-Runtime-Client-Context": invocation.client_context or "",
            "Lambda-Runtime-Invocation-Id": current.invocation_id,
        }
        headers = [(key, value) for key, value in fields.items() if value]
        await exchange.respond(200, invocation.payload, headers)

    async def _answer(self, exchange: Exchange, rest: str) -> None:
        request_id, _, what = rest.partition("/")
        current = self._current
        if current is None or current.invocation.request_id != request_id:
            await _refuse(exchange, 400, "InvalidRequestID", "Invalid request ID")
            return
        echoed = exchange.request.header("lambda-runtime-invocation-id")
        if echoed not in (None, current.invocation_id):
            await _refuse(exchange, 400, "InvalidInvocationID", "Invalid invocation ID")
            return
        if what not in ("response", "error"):
            await _refuse(exchange, 404, "NotFound", "no such path")
        elif current.answering:
            await _refuse(exchange, 403, "InvalidStateTransition", "Already answered")
        else:
            current.answering = True
            if what == "error":
                await self._error(exchange, current.invocation)
            else:
                await self._response(exchange, current.invocation)

    async def _response(self, exchange: Exchange, invocation: Invocation) -> None:
        streaming = exchange.request.header("lambda-runtime-function-response-mode") == "streaming"
        content_type = exchange.request.header("content-type") or JSON_TYPE
        reply = invocation.reply
        if streaming:
            reply.on_abandon = exchange.abort
            if reply.abandoned:  # the client left before the answer began
                exchange.abort()
                return
            reply.begin(Head(content_type, streaming=True))
            await self._stream(exchange, invocation)
            return
        size, pieces = 0, []
        async for data in exchange.frames():
            size += len(data)
            if size <= RESPONSE_LIMIT_BYTES:
                pieces.append(data)
        if size > RESPONSE_LIMIT_BYTES:
            reply.end(_too_large())
            await _refuse(exchange, 413, "RequestEntityTooLarge", "Exceeded maximum payload size")
            return
        reply.begin(Head(content_type, streaming=content_type == HTTP_STREAM_TYPE))
        reply.feed(b"".join(pieces))
        reply.end()
        await _accept(exchange)

    async def _stream(self, exchange: Exchange, invocation: Invocation) -> None:
        reply = invocation.reply
        size = 0
        try:
            async for data in exchange.frames():
                size += len(data)
                if size > STREAM_LIMIT_BYTES:
                    reply.end(Failure("Function.ResponseSizeTooLarge", "Streamed over 200 MB"))
                    await _refuse(exchange, 413, "RequestEntityTooLarge", "Streamed over 200 MB")
                    return
                reply.feed(data)
                await reply.room()
        except Exception:
            # The runtime, or the caller through `on_abandon`, broke the connection.
            message = "The connection broke before the answer ended"
            reply.end(Failure("Runtime.TruncatedResponse", message))
            raise
        reply.on_abandon = None
        reply.end(_trailer_failure(exchange.trailers))
        await _accept(exchange)

    async def _error(self, exchange: Exchange, invocation: Invocation) -> None:
        failure = await _read_failure(exchange)
        invocation.reply.end(failure)
        await _accept(exchange)

    async def _init_error(self, exchange: Exchange) -> None:
        self._listener.on_init_error(await _read_failure(exchange))
        await _accept(exchange)

    # Extensions.

    async def _register(self, exchange: Exchange) -> None:
        if self._initialised:
            await _refuse(exchange, 403, "Extension.RegistrationClosed", "Start-up is over")
            return
        name = exchange.request.header("lambda-extension-name")
        try:
            events = tuple(json.loads(await exchange.body() or b"{}").get("events", ()))
        except (ValueError, AttributeError):
            await _refuse(exchange, 400, "Extension.InvalidRequest", "The body is not JSON")
            return
        if not name:
            await _refuse(exchange, 400, "Extension.InvalidName", "Lambda-Extension-Name is empty")
            return
        identifier = str(uuid.uuid4())
        self._extensions[identifier] = _Extension(name, events)
        body = {
            "functionName": self._function.name,
            "functionVersion": self._function.version,
            "handler": self._function.handler,
            "accountId": ACCOUNT,
        }
        headers = [("Lambda-Extension-Identifier", identifier), ("Content-Type", JSON_TYPE)]
        await exchange.respond(200, json.dumps(body).encode(), headers)

    async def _extension_next(self, exchange: Exchange) -> None:
        identifier = exchange.request.header("lambda-extension-identifier") or ""
        extension = self._extensions.get(identifier)
        if extension is None:
            await _refuse(exchange, 403, "Extension.UnknownExtensionIdentifier", "Not registered")
            return
        extension.waiter = waiter = asyncio.get_running_loop().create_future()
        self._ready_if_all_wait()
        await asyncio.wait({waiter, exchange.gone}, return_when=asyncio.FIRST_COMPLETED)
        if waiter.done():
            headers = [("Lambda-Extension-Identifier", identifier), ("Content-Type", JSON_TYPE)]
            await exchange.respond(200, json.dumps(waiter.result()).encode(), headers)

    def _ready_if_all_wait(self) -> None:
        runtime_waits = self._waiter is not None and not self._waiter.done()
        if runtime_waits and all(ext.waiter is not None for ext in self._extensions.values()):
            self._initialised = True
            self._listener.on_ready()

    def _tell(self, extension: _Extension, event: dict[str, object]) -> None:
        if extension.waiter is not None and not extension.waiter.done():
            extension.waiter.set_result(event)
            extension.waiter = None

    def _invoke_event(self, current: _Current) -> dict[str, object]:
        return {
            "eventType": "INVOKE",
            "deadlineMs": current.deadline_ms,
            "requestId": current.invocation.request_id,
            "invokedFunctionArn": current.invocation.arn,
            "tracing": {"type": "X-Amzn-Trace-Id", "value": current.invocation.trace_id},
        }


async def _accept(exchange: Exchange) -> None:
    await exchange.respond(202, b'{"status":"OK"}\n', [("Content-Type", JSON_TYPE)])


async def _refuse(exchange: Exchange, status: int, error_type: str, message: str) -> None:
    body = json.dumps({"errorType": error_type, "errorMessage": message}).encode()
    await exchange.respond(status, body, [("Content-Type", JSON_TYPE), ("Connection", "close")])


async def _read_failure(exchange: Exchange) -> Failure:
    body = await exchange.body()
    header = exchange.request.header("lambda-runtime-function-error-type")
    try:
        document = json.loads(body)
        error_type, message = document.get("errorType"), document.get("errorMessage")
    except (ValueError, AttributeError):
        error_type, message, body = None, body.decode("utf-8", "replace"), b""
    return Failure(str(error_type or header or "Runtime.Unknown"), str(message or ""), body)


def _trailer_failure(trailers: dict[str, str]) -> Failure | None:
    error_type = trailers.get("lambda-runtime-function-error-type")
    if not error_type:
        return None
    try:
        body = base64.b64decode(trailers.get("lambda-runtime-function-error-body", ""))
        message = str(json.loads(body).get("errorMessage", "")) if body else ""
    except (ValueError, AttributeError):
        body, message = b"", ""
    return Failure(error_type, message, body)


def _too_large() -> Failure:
    limit = f"maximum allowed payload size ({RESPONSE_LIMIT_BYTES} bytes)"
    message = f"Response payload size exceeded {limit}."
    return Failure("Function.ResponseSizeTooLarge", message)

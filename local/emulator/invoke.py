"""Speaks Lambda's Invoke API, as boto3 uses it: RequestResponse, Event, DryRun, streamed."""

import asyncio
import base64
import json
import re
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import parse_qs, unquote

from local.emulator.deferred import EventQueue
from local.emulator.eventstream import encode_event
from local.emulator.exchange import BodyTooLarge, Exchange, Request
from local.emulator.pool import Pool, Throttled
from local.emulator.reply import Abandoned, Invocation
from local.emulator.template import Function

REQUEST_LIMIT_BYTES = 6_291_556
EVENT_LIMIT_BYTES = 1_048_576
_TAIL_PAUSE_S = 0.05  # what a function wrote comes through another pipe than its answer
_V2015 = "/2015-03-31/functions/"
_SIGNED_BY = re.compile(r"Credential=([^/,]+)/")
_V2021 = "/2021-11-15/functions/"


class ApiError(Exception):
    """An error in AWS's own shape."""

    def __init__(self, status: int, kind: str, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.reason = reason


class InvokeApi:
    """The handler of the port that `AWS_ENDPOINT_URL_LAMBDA` names."""

    def __init__(
        self, find: Callable[[str], Pool | None], queue: Callable[[Function], EventQueue]
    ) -> None:
        self._find = find
        self._queue = queue

    async def __call__(self, exchange: Exchange) -> None:
        try:
            await self._route(exchange)
        except Abandoned:
            return
        except Throttled as error:
            reason = "ReservedFunctionConcurrentInvocationLimitExceeded"
            if not error.reserved:
                reason = "ConcurrentInvocationLimitExceeded"
            await _error(
                exchange, ApiError(429, "TooManyRequestsException", str(error), reason=reason)
            )
        except BodyTooLarge:
            message = f"Request must be smaller than {REQUEST_LIMIT_BYTES} bytes"
            await _error(exchange, ApiError(413, "RequestTooLargeException", message))
        except ApiError as error:
            await _error(exchange, error)

    async def _route(self, exchange: Exchange) -> None:
        request = exchange.request
        path = request.path
        if path.startswith(_V2015) and path.endswith("/invocations"):
            name = path.removeprefix(_V2015).removesuffix("/invocations")
            await self._invoke(exchange, *self._admit(name, request))
        elif path.startswith(_V2021) and path.endswith("/response-streaming-invocations"):
            name = path.removeprefix(_V2021).removesuffix("/response-streaming-invocations")
            await self._stream(exchange, *self._admit(name, request))
        elif path.startswith(_V2015) and request.method == "GET":
            pool, qualifier = self._resolve(path.removeprefix(_V2015).strip("/"), request)
            await _json(exchange, 200, _describe(pool.function, qualifier))
        else:
            raise ApiError(404, "UnknownOperationException", f"No operation at {path}")

    async def _invoke(self, exchange: Exchange, pool: Pool, qualifier: str | None) -> None:
        kind = exchange.request.header("x-amz-invocation-type") or "RequestResponse"
        payload = await _payload(exchange)
        match kind:
            case "DryRun":
                await exchange.respond(HTTPStatus.NO_CONTENT)
            case "Event":
                if len(payload) > EVENT_LIMIT_BYTES:
                    raise BodyTooLarge
                context = _client_context(exchange.request)
                request_id = self._queue(pool.function).put(
                    payload, qualifier=qualifier, client_context=context
                )
                headers = [("x-amzn-RequestId", request_id)]
                await exchange.respond(HTTPStatus.ACCEPTED, b"", headers)
            case "RequestResponse":
                await self._wait_for_reply(exchange, pool, qualifier, payload)
            case _:
                raise ApiError(400, "InvalidParameterValueException", f"InvocationType {kind}")

    async def _wait_for_reply(
        self, exchange: Exchange, pool: Pool, qualifier: str | None, payload: bytes
    ) -> None:
        invocation = _invocation(exchange.request, pool.function, qualifier, payload)
        pool.submit(invocation)
        await pool.admitted(invocation)
        head = await invocation.reply.head
        body = await invocation.reply.read()
        headers = [
            ("Content-Type", head.content_type),
            ("x-amzn-RequestId", invocation.request_id),
            ("X-Amz-Executed-Version", pool.function.version),
        ]
        failure = invocation.reply.failure
        if failure is not None:
            headers.append(("X-Amz-Function-Error", "Unhandled"))
            body = failure.document()
        if exchange.request.header("x-amz-log-type") == "Tail":
            await asyncio.sleep(_TAIL_PAUSE_S)
            tail = base64.b64encode(bytes(invocation.log_tail)).decode()
            headers.append(("X-Amz-Log-Result", tail))
        await exchange.respond(200, body, headers)

    async def _stream(self, exchange: Exchange, pool: Pool, qualifier: str | None) -> None:
        payload = await _payload(exchange)
        invocation = _invocation(exchange.request, pool.function, qualifier, payload)
        reply = invocation.reply
        exchange.gone.add_done_callback(lambda _: reply.abandon())
        pool.submit(invocation)
        await pool.admitted(invocation)
        head = await reply.begun(exchange.gone)
        headers = [
            ("Content-Type", "application/vnd.amazon.eventstream"),
            ("x-amzn-RequestId", invocation.request_id),
            ("X-Amz-Executed-Version", pool.function.version),
        ]
        exchange.start(200, headers)
        while data := await reply.chunk():
            if not head.function_error:
                event = encode_event("PayloadChunk", data, content_type="application/octet-stream")
                exchange.send(event)
                await exchange.drain()
        complete: dict[str, str] = {}
        if reply.failure is not None:
            complete["ErrorCode"] = reply.failure.error_type
            complete["ErrorDetails"] = reply.failure.document().decode("utf-8", "replace")
        end = json.dumps(complete).encode()
        exchange.send(encode_event("InvokeComplete", end, content_type="application/json"))
        exchange.finish()

    def _admit(self, path_name: str, request: Request) -> tuple[Pool, str | None]:
        """As `_resolve`, if the function that signed this may invoke that one; others may."""
        pool, qualifier = self._resolve(path_name, request)
        signed = _SIGNED_BY.search(request.header("authorization") or "")
        caller = self._find(signed[1]) if signed else None
        arn = pool.function.arn(qualifier)
        granted = None if caller is None else caller.function.may_invoke
        if caller is not None and granted is not None and arn not in granted:
            message = (
                f"The role of {caller.function.name} is not authorized to perform: "
                f"lambda:InvokeFunction on resource: {arn}"
            )
            raise ApiError(403, "AccessDeniedException", message)
        return pool, qualifier

    def _resolve(self, path_name: str, request: Request) -> tuple[Pool, str | None]:
        """The function for a name, `name:qualifier`, partial or whole ARN."""
        name = unquote(path_name)
        if name.startswith("arn:"):
            parts = name.split(":")
            name, qualifier = parts[6], parts[7] if len(parts) > 7 else None
        elif ":function:" in name:
            name, _, rest = name.partition(":function:")[2].partition(":")
            qualifier = rest or None
        else:
            name, _, rest = name.partition(":")
            qualifier = rest or None
        asked = parse_qs(request.query).get("Qualifier")
        qualifier = asked[0] if asked else qualifier
        pool = self._find(name)
        known = pool is not None and qualifier in {None, "$LATEST", "1", pool.function.alias}
        if pool is None or not known:
            arn = f"arn:aws:lambda:us-east-1:123456789012:function:{name}"
            arn += f":{qualifier}" if qualifier else ""
            raise ApiError(404, "ResourceNotFoundException", f"Function not found: {arn}")
        return pool, qualifier


def _invocation(
    request: Request, function: Function, qualifier: str | None, payload: bytes
) -> Invocation:
    invocation = Invocation(payload, function.arn(qualifier), _client_context(request))
    trace_id = request.header("x-amzn-trace-id")
    if trace_id:
        invocation.trace_id = trace_id
    return invocation


async def _payload(exchange: Exchange) -> bytes:
    payload = await exchange.body(REQUEST_LIMIT_BYTES)
    try:
        json.loads(payload or b"{}")
    except ValueError as error:
        message = f"Could not parse request body into json: {error}"
        raise ApiError(400, "InvalidRequestContentException", message) from error
    return payload or b"{}"


def _client_context(request: Request) -> str | None:
    encoded = request.header("x-amz-client-context")
    if not encoded:
        return None
    try:
        return base64.b64decode(encoded, validate=True).decode()
    except ValueError as error:
        message = "Client context must be a valid Base64-encoded JSON object."
        raise ApiError(400, "InvalidRequestContentException", message) from error


def _describe(function: Function, qualifier: str | None) -> dict[str, object]:
    configuration = {
        "FunctionName": function.name,
        "FunctionArn": function.arn(qualifier),
        "Runtime": "python3.13",
        "Handler": function.handler,
        "Timeout": int(function.timeout_s),
        "MemorySize": function.memory_mb,
        "Version": function.version,
        "State": "Active",
        "LastUpdateStatus": "Successful",
        "PackageType": "Zip",
    }
    answer: dict[str, object] = {"Configuration": configuration, "Code": {}}
    if function.reserved_concurrency is not None:
        limit = {"ReservedConcurrentExecutions": function.reserved_concurrency}
        answer["Concurrency"] = limit
    return answer


async def _json(exchange: Exchange, status: int, document: object) -> None:
    headers = [("Content-Type", "application/json")]
    await exchange.respond(status, json.dumps(document).encode(), headers)


async def _error(exchange: Exchange, error: ApiError) -> None:
    document = {"Type": "User", "Message": str(error), "message": str(error)}
    if error.reason:
        document["Reason"] = error.reason
    headers = [
        ("Content-Type", "application/json"),
        ("x-amzn-ErrorType", error.kind),
        ("Connection", "close"),
    ]
    await exchange.respond(error.status, json.dumps(document).encode(), headers)

"""Answers HTTP requests with a function, as its Function URL would: streamed or buffered."""

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime

from local.emulator.exchange import BodyTooLarge, Exchange
from local.emulator.http_event import (
    DELIMITER,
    PRELUDE_LIMIT_BYTES,
    BadAnswer,
    HttpHead,
    build_event,
    read_buffered,
    read_prelude,
)
from local.emulator.pool import Pool, Throttled
from local.emulator.reply import HTTP_STREAM_TYPE, Abandoned, Invocation, Reply
from local.emulator.template import UrlMode

log = logging.getLogger("lambent.local.url")

REQUEST_LIMIT_BYTES = 6 * 1024 * 1024
_EVENT_LIMIT_BYTES = 6_291_556

Route = Callable[[str], Pool | None]
"""Finds the function for a path."""


class FunctionUrls:
    """The handler of a port: routes each request to a function and hands on its answer."""

    def __init__(self, route: Route) -> None:
        self._route = route

    async def __call__(self, exchange: Exchange) -> None:
        pool = self._route(exchange.request.path)
        if pool is None or pool.function.url is None:
            await _refuse(exchange, 404, "ResourceNotFoundException", "No function has this path")
            return
        try:
            body = await exchange.body(REQUEST_LIMIT_BYTES)
        except BodyTooLarge:
            await _refuse_body(exchange)
            return
        function = pool.function
        host = exchange.request.header("host") or "localhost"
        event = build_event(
            exchange.request,
            body,
            function=function,
            domain=host.partition(":")[0],
            source_ip=exchange.peer,
            scheme="http",
        )
        payload = json.dumps(event).encode()
        if len(payload) > _EVENT_LIMIT_BYTES:
            await _refuse_body(exchange)
            return
        invocation = Invocation(payload, function.arn(function.alias))

        def leave(_: object) -> None:
            # A client that has all it was promised may go: the function is told of no break.
            if not exchange.complete:
                invocation.reply.abandon()

        exchange.gone.add_done_callback(leave)
        try:
            pool.submit(invocation)
            await pool.admitted(invocation)
        except Throttled as error:
            if not error.reserved:
                log.warning(
                    "%s: all %d environments are busy, and a request was refused; "
                    "--max-environments allows more",
                    function.short,
                    pool.limit,
                )
            await _refuse_throttled(exchange, reserved=error.reserved)
            return
        try:
            await self._answer(exchange, invocation, mode=function.url or UrlMode.BUFFERED)
        except Abandoned:
            return

    async def _answer(self, exchange: Exchange, invocation: Invocation, *, mode: UrlMode) -> None:
        reply = invocation.reply
        head = await reply.begun(exchange.gone)
        common = [("date", _date()), ("x-amzn-requestid", invocation.request_id)]
        try:
            if head.function_error:
                await reply.read()
                raise BadAnswer("function error")
            if mode is UrlMode.BUFFERED:
                await self._buffered(exchange, reply, head.content_type, common)
            elif head.content_type == HTTP_STREAM_TYPE:
                await self._streamed(exchange, reply, common)
            elif head.streaming:  # a stream without a prelude is the body itself
                plain = HttpHead(headers=(("content-type", head.content_type),))
                await self._forward(exchange, reply, plain, common, b"")
            else:
                await self._buffered(exchange, reply, head.content_type, common)
        except BadAnswer as error:
            if str(error) != "function error":
                log.warning("%s: %s", invocation.request_id, error)
            await exchange.respond(
                502,
                b"Internal Server Error",
                [*common, ("content-type", "text/plain"), ("x-amzn-errortype", "BadGateway")],
            )

    async def _buffered(
        self, exchange: Exchange, reply: Reply, content_type: str, common: list[tuple[str, str]]
    ) -> None:
        payload = await reply.read()
        if reply.failure is not None:
            raise BadAnswer("function error")
        if content_type == HTTP_STREAM_TYPE:
            prelude, delimiter, body = payload.partition(DELIMITER)
            if not delimiter:
                raise BadAnswer("the prelude has no end")
            head = read_prelude(prelude)
        else:
            head, body = read_buffered(payload)
        await exchange.respond(head.status, body, [*head.headers, *common])

    async def _streamed(
        self, exchange: Exchange, reply: Reply, common: list[tuple[str, str]]
    ) -> None:
        received = b""
        while (end := received.find(DELIMITER)) < 0:
            data = await reply.chunk()
            if not data or len(received) > PRELUDE_LIMIT_BYTES:
                raise BadAnswer("the prelude has no end")
            received += data
        head = read_prelude(received[:end])
        await self._forward(exchange, reply, head, common, received[end + len(DELIMITER) :])

    async def _forward(
        self,
        exchange: Exchange,
        reply: Reply,
        head: HttpHead,
        common: list[tuple[str, str]],
        first: bytes,
    ) -> None:
        exchange.start(head.status, [*head.headers, *common])
        exchange.send(first)
        while data := await reply.chunk():
            exchange.send(data)
            await exchange.drain()
        if reply.failure is not None:
            exchange.truncate()  # a broken stream must not look like a whole one
        else:
            exchange.finish()


async def _refuse(
    exchange: Exchange, status: int, error_type: str, message: str, *, close: bool = False
) -> None:
    body = json.dumps({"Message": message}).encode()
    headers = [("content-type", "application/json"), ("x-amzn-errortype", error_type)]
    if close:
        headers.append(("connection", "close"))
    await exchange.respond(status, body, headers)


async def _refuse_body(exchange: Exchange) -> None:
    message = f"Request must be smaller than {REQUEST_LIMIT_BYTES} bytes"
    await _refuse(exchange, 413, "RequestEntityTooLargeException", message, close=True)


async def _refuse_throttled(exchange: Exchange, *, reserved: bool) -> None:
    whose = "ReservedFunction" if reserved else ""
    body = {
        "Reason": f"{whose}ConcurrentInvocationLimitExceeded",
        "Type": "User",
        "message": "Rate Exceeded.",
    }
    headers = [
        ("content-type", "application/json"),
        ("x-amzn-errortype", "TooManyRequestsException"),
    ]
    await exchange.respond(429, json.dumps(body).encode(), headers)


def _date() -> str:
    return format_datetime(datetime.now(UTC), usegmt=True)

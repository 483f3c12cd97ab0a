"""A small HTTP/1.1 server for the model servers: sees hang-ups at once, streams without waiting.

h11 frames requests and heads. Chunks of a body are written by hand, so that a thousand ready
frames cost one `send`, and a scripted server can break a connection in the middle of one.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote, urlsplit

import h11

MAX_BODY_BYTES = 128 * 1024 * 1024
MAX_HEAD_BYTES = 64 * 1024
JSON = "application/json; charset=utf-8"
NDJSON = "application/x-ndjson"
TEXT = "text/plain"

Handler = Callable[["Exchange"], Awaitable[None]]


class ClientGone(Exception):
    """The client closed its connection; nothing more can be told to it."""


def encode_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def as_chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


class Exchange:
    """One request and the answer to it."""

    def __init__(self, connection: "Connection", request: h11.Request, body: bytes) -> None:
        self._connection = connection
        self.method = request.method.decode("ascii")
        self.path = unquote(urlsplit(request.target.decode("latin-1")).path)
        self.headers = {n.decode("latin-1"): v.decode("latin-1") for n, v in request.headers}
        self.body = body
        self.started = False
        self.finished = False

    @property
    def gone_at_s(self) -> float | None:
        """When it was noticed, by `time.monotonic`, that the client closed its side."""
        return self._connection.gone_at_s

    def respond(
        self,
        status: int,
        body: bytes,
        *,
        content_type: str = JSON,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        length = ("content-length", str(len(body)))
        self._head(status, (("content-type", content_type), length, *headers))
        if self.method != "HEAD":
            self._connection.send(h11.Data(data=body))
        self._finish()

    def respond_json(self, status: int, value: object) -> None:
        self.respond(status, encode_json(value))

    def start_stream(self, status: int = 200, *, content_type: str = NDJSON) -> None:
        self._head(status, (("content-type", content_type), ("transfer-encoding", "chunked")))

    async def write(self, body: bytes) -> None:
        """Send one chunk; waits while the client reads too slowly. Raises ClientGone."""
        await self.write_framed(as_chunk(body))

    async def write_framed(self, chunks: bytes) -> None:
        """Send chunks that are framed already."""
        if self._connection.gone:
            raise ClientGone
        self._connection.transport.write(chunks)
        await self._connection.drained()

    def end_stream(self) -> None:
        self._finish()

    def abort(self) -> None:
        """Reset the connection, as a crash of the server would."""
        self.finished = True
        self._connection.transport.abort()

    def _head(self, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        if self._connection.gone:
            raise ClientGone
        self.started = True
        self._connection.send(h11.Response(status_code=status, headers=list(headers)))

    def _finish(self) -> None:
        self.finished = True
        if not self._connection.gone:
            self._connection.send(h11.EndOfMessage())


class Connection(asyncio.Protocol):
    """One client's connection; its requests are answered one after the other.

    A handler is cancelled as soon as its client leaves.
    """

    transport: asyncio.Transport

    def __init__(self, handler: Handler, open_connections: set["Connection"]) -> None:
        self._handler = handler
        self._open_connections = open_connections
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._request: h11.Request | None = None
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._writable = asyncio.Event()
        self._writable.set()
        self._task: asyncio.Task[None] | None = None
        self.gone_at_s: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._open_connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open_connections.discard(self)
        self._note_gone()

    def eof_received(self) -> bool:
        # Go's server, and so Ollama, takes a half-closed connection for a client that left.
        self._note_gone()
        return False

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        try:
            self._h11.receive_data(data)
        except h11.RemoteProtocolError as error:
            self._refuse(error.error_status_hint, str(error))
        else:
            self._go_on()

    @property
    def gone(self) -> bool:
        return self.gone_at_s is not None

    async def drained(self) -> None:
        await self._writable.wait()
        if self.gone:
            raise ClientGone

    def send(self, event: h11.Response | h11.Data | h11.EndOfMessage) -> None:
        data = self._h11.send(event)
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def _note_gone(self) -> None:
        if self.gone:
            return
        self.gone_at_s = time.monotonic()
        self._writable.set()
        if self._task is not None:
            self._task.cancel()

    def _go_on(self) -> None:
        try:
            self._read()
        except h11.RemoteProtocolError as error:
            self._refuse(error.error_status_hint, str(error))

    def _read(self) -> None:
        while True:
            if self._h11.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                self.transport.write(self._h11.send(go_on) or b"")
            event = self._h11.next_event()
            if isinstance(event, h11.Request):
                self._request, self._body, self._body_bytes = event, [], 0
            elif isinstance(event, h11.Data):
                self._body_bytes += len(event.data)
                if self._body_bytes > MAX_BODY_BYTES:
                    self._refuse(413, "http: request body too large")
                    return
                self._body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                self._begin()
            else:  # more data is needed, or the answer to this request comes first
                return

    def _begin(self) -> None:
        assert self._request is not None
        exchange = Exchange(self, self._request, b"".join(self._body))
        self._task = asyncio.get_running_loop().create_task(self._answer(exchange))

    async def _answer(self, exchange: Exchange) -> None:
        try:
            await self._handler(exchange)
        except ClientGone:
            pass
        except asyncio.CancelledError:
            if not self.gone:
                raise
        except Exception as error:
            # The edge of the process: whatever went wrong becomes an answer, not a dead server.
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"{exchange.method} {exchange.path} failed", "exception": error}
            )
            if not exchange.started:
                with contextlib.suppress(ClientGone):
                    exchange.respond_json(500, {"error": str(error)})
        if not exchange.finished:
            exchange.abort()
        if self.transport.is_closing():
            return
        if self._h11.our_state is h11.MUST_CLOSE:
            self.transport.close()
        elif self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
            self._go_on()  # a next request may have come already

    def _refuse(self, status: int, reason: str) -> None:
        if self._h11.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            body = encode_json({"error": reason})
            headers = [("content-type", JSON), ("content-length", str(len(body)))]
            close = [*headers, ("connection", "close")]
            self.send(h11.Response(status_code=status, headers=close))
            self.send(h11.Data(data=body))
            self.send(h11.EndOfMessage())
        self.transport.close()


class HttpServer:
    """Listens on 127.0.0.1 until stopped; may listen again on the same port."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._open: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def listen(self, port: int = 0, *, host: str = "127.0.0.1") -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self._handler, self._open), host, port, backlog=1024
        )
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening and reset every open connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._open):
            connection.transport.abort()
        await asyncio.sleep(0)


def parse_json(body: bytes) -> Any:
    """The body's value; ValueError says what is wrong with it."""
    try:
        return json.loads(body)
    except UnicodeDecodeError as error:
        raise ValueError(f"invalid UTF-8 in request body: {error.reason}") from error

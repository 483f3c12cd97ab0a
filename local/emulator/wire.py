"""Serves HTTP/1.1 on asyncio with h11's framing: one handler call an exchange, bytes as they come.

Made for the two things that a general server does not give: a handler learns at once that its
client hung up (`Exchange.gone`), and a streamed body passes through without being parsed twice.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from urllib.parse import urlsplit

import h11

from local.emulator.chunked import BadChunk
from local.emulator.exchange import Exchange, Request

log = logging.getLogger("lambent.local.wire")

Handler = Callable[[Exchange], Awaitable[None]]

_MAX_HEAD_BYTES = 64 * 1024
_HIGH_WATER_BYTES = 256 * 1024
_LINGER_S = 2.0


class _Connection(asyncio.Protocol):
    """One client's connection; requests are handled one after the other."""

    def __init__(self, handler: Handler, open_connections: "set[_Connection]") -> None:
        loop = asyncio.get_running_loop()
        self.gone: asyncio.Future[None] = loop.create_future()
        self.peer = ""
        self._handler = handler
        self._open = open_connections
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD_BYTES)
        self._raw: bytearray | None = None
        self._pending_bytes = 0
        self._discarding = False
        self._answering = False
        self._outgoing = bytearray()
        self._more: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.peer = (transport.get_extra_info("peername") or ("",))[0]
        self._open.add(self)
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        if self._discarding:
            return
        if self._raw is not None:
            self._raw += data
        else:
            self._http.receive_data(data)
        self._pending_bytes += len(data)
        if self._pending_bytes > _HIGH_WATER_BYTES:
            self._transport.pause_reading()
        _wake(self._more)

    def eof_received(self) -> bool:
        self._lost()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)
        self._lost()

    def pause_writing(self) -> None:
        self._room = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        _wake(self._room)
        self._room = None

    def _lost(self) -> None:
        if not self.gone.done():
            self.gone.set_result(None)
        _wake(self._more)
        self.resume_writing()

    @property
    def busy(self) -> bool:
        unsent = bool(self._outgoing) or self._transport.get_write_buffer_size() > 0
        return self._answering or unsent

    # What an exchange calls.

    async def read(self) -> bytes:
        """The next piece of the request's body, b"" at its end."""
        event = await self._event()
        if isinstance(event, h11.Data):
            return bytes(event.data)
        return b""

    def detach(self) -> bytes:
        """From here on the body is read raw; returns what h11 had already taken in."""
        self._raw = bytearray()
        received, _ = self._http.trailing_data
        return received

    async def read_raw(self) -> bytes:
        assert self._raw is not None
        while not self._raw:
            await self._wait_for_data()
        received = bytes(self._raw)
        self._raw.clear()
        return received

    def write(self, data: bytes) -> None:
        """Send with everything else that is written in this turn of the event loop."""
        if self.gone.done():
            return
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outgoing += data

    def _flush(self) -> None:
        if self._outgoing and not self.gone.done():
            self._transport.write(bytes(self._outgoing))
        self._outgoing.clear()

    def write_event(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self.write(data)

    async def writable(self) -> None:
        if len(self._outgoing) > _HIGH_WATER_BYTES:
            self._flush()
        if self._room is not None:
            await self._room

    def truncate(self) -> None:
        self._flush()
        self._transport.close()
        self._lost()

    def abort(self) -> None:
        self._transport.abort()
        self._lost()

    async def close(self) -> None:
        self._task.cancel()
        self._transport.abort()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    # The loop over requests.

    async def _serve(self) -> None:
        try:
            while await self._one_exchange():
                pass
        except (h11.RemoteProtocolError, BadChunk) as error:
            self._reject(getattr(error, "error_status_hint", 400))
        except ConnectionResetError:
            self._transport.abort()
        except h11.LocalProtocolError:  # an answer that does not keep to its own head
            log.warning("an answer broke its own framing; the connection is closed", exc_info=True)
            self._transport.abort()
        except Exception:  # the edge of this server: one broken exchange must not end the others
            log.exception("a request handler failed")
            self._transport.abort()
        finally:
            self._flush()
            self._transport.close()

    async def _one_exchange(self) -> bool:
        event = await self._event()
        if not isinstance(event, h11.Request):
            return False
        self._answering = True
        try:
            await self._handler(Exchange(self, _request_of(event)))
        finally:
            self._answering = False
        if self.gone.done():
            return False
        if self._http.our_state is h11.SEND_RESPONSE or self._http.our_state is h11.SEND_BODY:
            raise ConnectionResetError  # the handler gave up on its answer
        if self._raw is not None:
            return False
        if self._http.their_state is h11.SEND_BODY and not self._body_has_ended():
            await self._linger()
            return False
        if self._http.our_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    def _body_has_ended(self) -> bool:
        """True where the handler left nothing of the body unread."""
        return not self._http.they_are_waiting_for_100_continue and isinstance(
            self._http.next_event(), h11.EndOfMessage
        )

    async def _linger(self) -> None:
        """Let a client that is still sending read its answer before the connection goes."""
        with contextlib.suppress(h11.RemoteProtocolError, ConnectionResetError):
            if self._http.they_are_waiting_for_100_continue:
                return
            self._discarding = True
            self._transport.resume_reading()
            await asyncio.wait({self.gone}, timeout=_LINGER_S)

    async def _event(self) -> object:
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Event) or event is h11.PAUSED:
                return event
            if self._http.they_are_waiting_for_100_continue:
                self.write_event(h11.InformationalResponse(status_code=100, headers=[]))
            await self._wait_for_data()

    async def _wait_for_data(self) -> None:
        if self.gone.done():
            raise ConnectionResetError
        if self._pending_bytes > _HIGH_WATER_BYTES:
            self._transport.resume_reading()
        self._pending_bytes = 0
        self._more = asyncio.get_running_loop().create_future()
        await self._more

    def _reject(self, status: int) -> None:
        """Answer what was no proper HTTP, if an answer can still be sent."""
        if self._http.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            body = HTTPStatus(status).phrase.encode()
            fields = [("content-length", str(len(body))), ("connection", "close")]
            reply = h11.Response(status_code=status, headers=fields, reason=body)
            for event in (reply, h11.Data(data=body), h11.EndOfMessage()):
                self.write_event(event)


class Server:
    """A listening port and its connections."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self, host: str, port: int = 0) -> "Server":
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self._handler, self._connections), host, port, backlog=1024
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    @property
    def busy(self) -> bool:
        """A request is being answered, or an answer has not wholly left."""
        return any(connection.busy for connection in self._connections)

    def stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()

    async def close(self) -> None:
        """Stop listening and break what is still open."""
        self.stop_listening()
        await asyncio.gather(*(connection.close() for connection in list(self._connections)))


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _request_of(event: h11.Request) -> Request:
    # h11 looks at the size only while a head is incomplete; one that came at once passed it.
    if sum(len(key) + len(value) for key, value in event.headers) > _MAX_HEAD_BYTES:
        raise h11.RemoteProtocolError("head too large", error_status_hint=431)
    target = event.target.decode("latin-1")
    if event.method == b"CONNECT" or (target == "*" and event.method != b"OPTIONS"):
        raise h11.RemoteProtocolError("asks for a tunnel or another protocol")
    if not target.startswith("/"):  # absolute form, as a proxy would send it
        parts = urlsplit(target)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    path, _, query = target.partition("?")
    return Request(
        method=event.method.decode("ascii"),
        target=target,
        path=path,
        query=query,
        headers=tuple((key.decode(), value.decode("latin-1")) for key, value in event.headers),
        http_version=event.http_version.decode(),
    )

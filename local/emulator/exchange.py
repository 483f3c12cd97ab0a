"""One HTTP request and its answer, as a handler sees them."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

import h11

from local.emulator.chunked import ChunkedDecoder

Headers = Iterable[tuple[str, str]]

_BODILESS = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)


class Connection(Protocol):
    """What an exchange needs of the connection that it came over."""

    gone: asyncio.Future[None]
    peer: str

    async def read(self) -> bytes: ...

    def detach(self) -> bytes: ...

    async def read_raw(self) -> bytes: ...

    def write(self, data: bytes) -> None: ...

    def write_event(self, event: h11.Event) -> None: ...

    async def writable(self) -> None: ...

    def truncate(self) -> None: ...

    def abort(self) -> None: ...


class BodyTooLarge(Exception):
    """The request's body passed the limit that the handler set."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request's head; header names are lower case, in the order they came."""

    method: str
    target: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    http_version: str

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key == name]
        return ", ".join(values) if values else None


class Exchange:
    """One request and its answer. `gone` is done once the client has left."""

    def __init__(self, connection: "Connection", request: Request) -> None:
        self.request = request
        self.gone = connection.gone
        self.peer = connection.peer
        self.trailers: dict[str, str] = {}
        self._connection = connection
        self._chunked = False
        self._bodiless = False
        self._due_bytes: int | None = None

    async def body(self, limit_bytes: int | None = None) -> bytes:
        """The whole request body; `BodyTooLarge` as soon as it is known to pass the limit."""
        declared = self.request.header("content-length")
        if limit_bytes is not None and declared is not None and int(declared) > limit_bytes:
            raise BodyTooLarge
        pieces: list[bytes] = []
        size = 0
        while data := await self._connection.read():
            pieces.append(data)
            size += len(data)
            if limit_bytes is not None and size > limit_bytes:
                raise BodyTooLarge
        return b"".join(pieces)

    async def frames(self) -> AsyncIterator[bytes]:
        """The request body as it arrives; after the end `trailers` holds its trailers.

        A chunked body is read by the fast decoder, after which the connection will be closed.
        """
        if "chunked" not in (self.request.header("transfer-encoding") or "").lower():
            while data := await self._connection.read():
                yield data
            return
        decoder = ChunkedDecoder()
        received = self._connection.detach()
        while True:
            if payload := decoder.feed(received):
                yield payload
            if decoder.done:
                self.trailers = decoder.trailers
                return
            received = await self._connection.read_raw()

    async def respond(self, status: int, body: bytes = b"", headers: Headers = ()) -> None:
        """A whole answer at once, with its length."""
        length = ("content-length", str(len(body)))
        others = [(key, value) for key, value in headers if key.lower() != length[0]]
        bodiless = status in _BODILESS or status < HTTPStatus.OK
        self.start(status, others if bodiless else [*others, length])
        if body:
            self.send(body)
        self.finish()
        await self.drain()

    def start(self, status: int, headers: Headers) -> None:
        """Send the head; without a `content-length` the body goes out in chunks."""
        lines = [(key.encode("latin-1"), value.encode("latin-1")) for key, value in headers]
        has_length = any(key.lower() == b"content-length" for key, _ in lines)
        self._bodiless = self.request.method == "HEAD" or status in _BODILESS
        self._chunked = not (has_length or self._bodiless) and self.request.http_version == "1.1"
        try:
            reason = HTTPStatus(status).phrase.encode()
        except ValueError:
            reason = b""
        head = h11.Response(status_code=status, headers=lines, reason=reason)
        self._connection.write_event(head)
        if has_length and not self._bodiless:  # h11 has checked that it is a number
            self._due_bytes = int(next(v for k, v in lines if k.lower() == b"content-length"))

    @property
    def complete(self) -> bool:
        """Whether the client has been sent all that the head promised."""
        return self._due_bytes is not None and self._due_bytes <= 0

    def send(self, data: bytes) -> None:
        """Send a piece of the body now: one chunk, one write."""
        if self._bodiless or not data:
            return
        if self._due_bytes is not None:
            self._due_bytes -= len(data)
        if self._chunked:  # h11 wrote the head and will write the end; the middle needs no state
            self._connection.write(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            self._connection.write_event(h11.Data(data=data))

    def finish(self) -> None:
        self._connection.write_event(h11.EndOfMessage())

    async def drain(self) -> None:
        """Wait while the client is slower than we are."""
        await self._connection.writable()

    def truncate(self) -> None:
        """End without an end: what was sent arrives, and the client sees that more was due."""
        self._connection.truncate()

    def abort(self) -> None:
        """Break the connection at once."""
        self._connection.abort()

"""Speaks HTTP/1.1 with one server over kept connections: all that a nudge needs, and no more.

A general client takes several times as long for one small exchange, and every nudge is on the way
of somebody who waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

import h11

from lambent.clock import Clock

_CONNECT_S: Final = 2.0
_ANSWER_S: Final = 3.0
_FREEZE: Final = timedelta(seconds=20)
_PIECE_BYTES: Final = 65536
_LONGEST_BODY_BYTES: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes


class Origin:
    """The server at the root of a URL; paths are given with each exchange."""

    def __init__(self, url: str, *, clock: Clock) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        secure = parts.scheme == "https"
        self._port = parts.port or (443 if secure else 80)
        # Read once: the trusted roots take tens of milliseconds.
        self._trust = ssl.create_default_context() if secure else None
        self._authority = parts.netloc.rpartition("@")[2]
        self._clock = clock
        self._used_at: datetime = clock.now()
        self._kept: list[_Connection] = []

    async def exchange(
        self, method: str, target: str, *, headers: Mapping[str, str], body: bytes = b""
    ) -> Answer:
        """One request and its answer. Raises OSError (TimeoutError among them) or h11's errors.

        Sent a second time where a kept connection turns out to be closed: only for requests that
        do no harm twice.
        """
        request = h11.Request(
            method=method,
            target=target,
            headers=[
                ("host", headers.get("host", self._authority)),  # as it was signed, if it was
                *((name, value) for name, value in headers.items() if name != "host"),
                ("content-length", str(len(body))),
            ],
        )
        while (kept := self._take()) is not None:
            with contextlib.suppress(ConnectionError, EOFError, h11.RemoteProtocolError):
                return await self._over(kept, request, body)
        return await self._over(await self._connect(), request, body)

    def close(self) -> None:
        """Drop every connection that is kept; the next exchange makes a new one."""
        while self._kept:
            self._kept.pop().abort()

    def _take(self) -> _Connection | None:
        now = self._clock.now()
        if now - self._used_at > _FREEZE:
            # Frozen in between: the sockets may be dead without knowing it. No goodbye on them.
            self.close()
        self._used_at = now
        while self._kept:
            kept = self._kept.pop()
            if kept.open:
                return kept
            kept.abort()
        return None

    async def _connect(self) -> _Connection:
        async with asyncio.timeout(_CONNECT_S):
            made = asyncio.open_connection(self._host, self._port, ssl=self._trust)
            return _Connection(*await made)

    async def _over(self, connection: _Connection, request: h11.Request, body: bytes) -> Answer:
        try:
            async with asyncio.timeout(_ANSWER_S):
                answer = await connection.exchange(request, body)
        except BaseException:
            # Halfway through: what comes next on it is unknown.
            connection.abort()
            raise
        if connection.ready():
            self._kept.append(connection)
        else:
            connection.abort()
        return answer


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT)

    @property
    def open(self) -> bool:
        return not (self._reader.at_eof() or self._writer.is_closing())

    async def exchange(self, request: h11.Request, body: bytes) -> Answer:
        """Raises EOFError where the server closed it instead of answering."""
        http = self._http
        pieces = [http.send(request), http.send(h11.Data(data=body)), http.send(h11.EndOfMessage())]
        # In one piece: two small ones would wait for each other's acknowledgement.
        self._writer.write(b"".join(piece for piece in pieces if piece))
        status, received = 0, bytearray()
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                data = await self._reader.read(_PIECE_BYTES)
                if not data and not status:
                    raise EOFError("the server closed the connection")
                http.receive_data(data)
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                received += event.data
                if len(received) > _LONGEST_BODY_BYTES:
                    raise OSError("the answer is too long")
            elif isinstance(event, h11.EndOfMessage):
                return Answer(status, bytes(received))

    def ready(self) -> bool:
        """Whether another exchange may follow on it; makes it ready for one."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return self.open

    def abort(self) -> None:
        self._writer.transport.abort()

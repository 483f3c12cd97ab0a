"""The streamed answer's connection: frames out at once, an early answer or a reset noticed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from lambda_stream.address import USER_AGENT, Address
from lambda_stream.failure import Failure
from lambda_stream.runtime_api import Invocation
from lambda_stream.wire import Answer, AnswerParser, ProtocolError, chunk, last_chunk, request_head

HIGH_WATER_BYTES = 256 * 1024
LOW_WATER_BYTES = 64 * 1024
_TRAILER_NAMES = "Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body"


class AnswerStream:
    """One POST to /response on a TCP connection of its own, written by chunks.

    Each write is tried on the socket at once, so that no frame waits for another; what the kernel
    does not take is kept and shares the next send. `on_break` is called once, from the event loop
    or from within a write, when the other side answers early or drops the connection.
    """

    def __init__(self, address: Address, on_break: Callable[[str], None]) -> None:
        self._address = address
        self._on_break = on_break
        self._loop = asyncio.get_running_loop()
        self.congested = False
        self._sock: socket.socket | None = None
        self._unsent = bytearray()
        self._writer_on = False
        self._ended = False
        self._parser = AnswerParser()
        self._drained: asyncio.Future[None] | None = None
        self._outcome: asyncio.Future[Answer | None] = self._loop.create_future()

    @property
    def broken(self) -> bool:
        """True once the connection is of no more use for sending."""
        return self._outcome.done()

    def open(self, invocation: Invocation, prelude: bytes) -> None:
        """Connect and send the request's head, then `prelude` (made of whole chunks)."""
        head = request_head(
            "POST",
            invocation.path("response"),
            host=self._address.host,
            headers=[
                USER_AGENT,
                ("Content-Type", "application/vnd.awslambda.http-integration-response"),
                ("Lambda-Runtime-Function-Response-Mode", "streaming"),
                ("Transfer-Encoding", "chunked"),
                ("Trailer", _TRAILER_NAMES),
                *invocation.echo(),
            ],
        )
        try:
            self._sock = sock = self._address.new_socket()
            sock.setblocking(False)
            # Not awaited: on the loopback the handshake is over before connect_ex returns, and
            # until it is, send says "try again" like a full buffer does.
            sock.connect_ex(self._address.target)
        except OSError as error:
            self._break(None, f"connecting failed: {error}")
            return
        self._loop.add_reader(sock, self._readable)
        self._send(head + prelude)

    def write(self, data: bytes) -> None:
        """Send `data` (not empty) as one chunk; nothing happens once the stream is broken."""
        self._send(chunk(data))

    def end(self, failure: Failure | None) -> None:
        """Send the last chunk, with the trailers that tell of `failure`."""
        self._ended = True
        self._send(last_chunk(failure.trailers() if failure else ()))

    async def drain(self) -> None:
        """Wait until what is unsent fell to the low-water mark, or the stream broke."""
        if self._drained is None:
            self._drained = self._loop.create_future()
        await asyncio.shield(self._drained)

    async def answered(self) -> Answer | None:
        """The other side's answer; None if it dropped the connection without one."""
        return await asyncio.shield(self._outcome)

    def close(self) -> None:
        """Let the connection go, whatever its state."""
        self._finish(None)

    def _send(self, data: bytes) -> None:
        sock = self._sock
        if sock is None or self._outcome.done():
            return
        if self._unsent:
            self._unsent += data
            self.congested = len(self._unsent) > HIGH_WATER_BYTES
            return
        try:
            sent = sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._broke_while_sending(error)
            return
        if sent < len(data):
            self._unsent += memoryview(data)[sent:]
            self._loop.add_writer(sock, self._writable)
            self._writer_on = True
            self.congested = len(self._unsent) > HIGH_WATER_BYTES

    def _writable(self) -> None:
        assert self._sock is not None
        try:
            sent = self._sock.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._broke_while_sending(error)
            return
        del self._unsent[:sent]
        if not self._unsent:
            self._loop.remove_writer(self._sock)
            self._writer_on = False
        if len(self._unsent) <= LOW_WATER_BYTES:
            self._wake_drain()

    def _broke_while_sending(self, error: OSError) -> None:
        # The reason may stand in the receive buffer: a refusal is often followed by a reset.
        self._readable()
        if not self._outcome.done():
            self._break(None, f"sending failed: {error}")

    def _readable(self) -> None:
        if self._sock is None or self._outcome.done():
            return
        try:
            answer = self._parser.feed(self._sock.recv(65536))
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, ProtocolError) as error:
            self._break(None, f"the connection broke: {error}")
            return
        if answer is None:
            return
        if self._ended and not self._unsent:
            self._finish(answer)
        else:
            self._break(answer, f"answered {answer.status} before the stream's end")

    def _break(self, answer: Answer | None, reason: str) -> None:
        self._finish(answer)
        self._on_break(reason)

    def _finish(self, answer: Answer | None) -> None:
        if self._sock is not None:
            self._loop.remove_reader(self._sock)
            if self._writer_on:
                self._loop.remove_writer(self._sock)
            self._sock.close()
            self._sock = None
        self._unsent.clear()
        self._wake_drain()
        if not self._outcome.done():
            self._outcome.set_result(answer)

    def _wake_drain(self) -> None:
        self.congested = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

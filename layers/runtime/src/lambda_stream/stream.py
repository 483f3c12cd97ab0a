"""The streamed answer's connection: frames out at once, an early answer or a reset noticed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable

from lambda_stream.address import USER_AGENT, Address
from lambda_stream.failure import Failure
from lambda_stream.guard import guard
from lambda_stream.runtime_api import Invocation
from lambda_stream.wire import Answer, AnswerParser, ProtocolError, chunk, last_chunk, request_head

HIGH_WATER_BYTES = 256 * 1024
LOW_WATER_BYTES = 64 * 1024
HOLD_BYTES = 16 * 1024
_TRAILER_NAMES = "Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body"


class AnswerStream:
    """One POST to /response on a TCP connection of its own, written by chunks.

    The first frame in a turn of the event loop is sent at once. Those that follow in the same turn
    are ready at the same time: they share a chunk, sent at the turn's end or when it is full; where
    the turn does not end because the application blocks, the guard's thread sends it. `_lock` keeps
    the bytes of the two threads in order; all else belongs to the loop's thread.

    `on_break` is called once, on the loop's thread, when the other side answers early or drops the
    connection; it may be called from within a write.
    """

    def __init__(self, address: Address, on_break: Callable[[str], None]) -> None:
        self._address = address
        self._on_break = on_break
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self._held = bytearray()
        self._unsent = bytearray()
        self._fresh = True
        self._turn_noted = False
        self._writer_on = False
        self._ended = False
        self._parser = AnswerParser()
        self._drained: asyncio.Future[None] | None = None
        self._outcome: asyncio.Future[Answer | None] = self._loop.create_future()

    @property
    def broken(self) -> bool:
        """True once the connection is of no more use for sending."""
        return self._outcome.done()

    @property
    def congested(self) -> bool:
        return len(self._unsent) > HIGH_WATER_BYTES

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
        self._note_turn()
        self._send(head + prelude)

    def write(self, data: bytes) -> None:
        """Send `data` (not empty); nothing happens once the stream is broken."""
        if self._fresh:
            self._note_turn()
            self._send(chunk(data))
            return
        with self._lock:
            self._held += data
        if len(self._held) >= HOLD_BYTES:
            self._send(b"")
        else:
            guard.arm(self._flush_from_guard)

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

    def _note_turn(self) -> None:
        """From now on frames are held, until the turn of the event loop ends."""
        self._fresh = False
        if not self._turn_noted:
            self._turn_noted = True
            self._loop.call_soon(self._turn_over)

    def _turn_over(self) -> None:
        self._turn_noted = False
        self._fresh = True
        if self._held:
            self._send(b"")

    def _send(self, data: bytes) -> None:
        """Send what is held, then `data`, as far as the kernel takes it."""
        with self._lock:
            error = self._push(data)
        if error is not None:
            self._broke_while_sending(error)
        else:
            self._watch_writable()

    def _flush_from_guard(self) -> None:
        with self._lock:
            if not self._held:
                return
            error = self._push(b"")
            self._fresh = True
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            if error is not None:
                self._loop.call_soon_threadsafe(self._broke_while_sending, error)
            elif self._unsent:
                self._loop.call_soon_threadsafe(self._watch_writable)

    def _push(self, data: bytes) -> OSError | None:
        """With the lock held: give the kernel all there is, keep what it does not take."""
        if self._held:
            data = chunk(bytes(self._held)) + data
            self._held.clear()
        if self._sock is None or not data:
            return None
        if self._unsent:
            self._unsent += data
            return None
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            return error
        if sent < len(data):
            self._unsent += memoryview(data)[sent:]
        return None

    def _watch_writable(self) -> None:
        if self._unsent and not self._writer_on and self._sock is not None:
            self._loop.add_writer(self._sock, self._writable)
            self._writer_on = True

    def _writable(self) -> None:
        assert self._sock is not None
        with self._lock:
            try:
                sent = self._sock.send(self._unsent)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as caught:
                error: OSError | None = caught
            else:
                error = None
                del self._unsent[:sent]
        if error is not None:
            self._broke_while_sending(error)
            return
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
        with self._lock:
            sock, self._sock = self._sock, None
            self._unsent.clear()
            self._held.clear()
        if sock is not None:
            self._loop.remove_reader(sock)
            if self._writer_on:
                self._loop.remove_writer(sock)
                self._writer_on = False
            sock.close()
        self._wake_drain()
        if not self._outcome.done():
            self._outcome.set_result(answer)

    def _wake_drain(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

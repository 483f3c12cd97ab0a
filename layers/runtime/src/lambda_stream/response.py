"""The state of one HTTP answer: when the prelude goes out, what a body may hold, how it ends."""

from __future__ import annotations

import asyncio
from enum import Enum, auto

from lambda_stream.answer import AnswerSink, Prelude, read_prelude
from lambda_stream.failure import Failure

# How long the prelude waits for the first piece of the body, to learn whether there is any. An
# event stream that turns out empty can still be given a comment, so it need not wait long.
EVENT_STREAM_WAIT_S = 0.005
OTHER_WAIT_S = 0.25
# After so many pieces the event loop gets a turn, however fast the application sends.
PIECES_BETWEEN_YIELDS = 32


class Phase(Enum):
    """How far the answer is.

    WAITING: the application has not begun. HELD: it has, but the prelude waits for the first
    piece of the body. STREAMING: the prelude is out. ENDED: nothing more will be sent.
    """

    WAITING = auto()
    HELD = auto()
    STREAMING = auto()
    ENDED = auto()


class Response:
    """Takes what an application sends and keeps the sink's rules and HTTP's."""

    def __init__(self, sink: AnswerSink, *, method: str) -> None:
        self.phase = Phase.WAITING
        self._sink = sink
        self._is_head = method == "HEAD"
        self.bodiless = False
        self._prelude: Prelude | None = None
        self._hold_timer: asyncio.TimerHandle | None = None
        self._declared_bytes: int | None = None
        self._given_bytes = 0
        self._wrote = False
        self._pieces = 0

    def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Hold the prelude for a moment. Raises ValueError for what cannot be sent."""
        prelude = read_prelude(status, headers)
        length = prelude.header("content-length")
        if length is not None and not (length.isascii() and length.isdigit()):
            raise ValueError(f"content-length {length!r} is no length")
        self.bodiless = self._is_head or status in (204, 205, 304)
        if self.bodiless:
            prelude = prelude.without_body()
        elif length is not None:
            self._declared_bytes = int(length)
        self._sink.check(prelude)
        self._prelude = prelude
        self.phase = Phase.HELD
        wait_s = EVENT_STREAM_WAIT_S if self._is_event_stream else OTHER_WAIT_S
        self._hold_timer = asyncio.get_running_loop().call_later(wait_s, self._release, b"")

    async def body(self, data: bytes, *, more: bool) -> None:
        """Send one piece at once. Raises RuntimeError if it breaks the declared length."""
        if self.bodiless:
            self._end(None)  # whatever else comes, the answer is complete
            return
        self._count(len(data), more=more)
        if self.phase is Phase.HELD:
            self._first_piece(data, more=more)
        elif data:
            self._write(data)
        if not more:
            self._end(None)
            return
        await self.give_way()

    def write_on(self, data: bytes) -> bool:
        """Send a piece (not empty) in the middle of a body; True when `give_way` is due."""
        if self._declared_bytes is not None:
            self._count(len(data), more=True)
        self._wrote = True
        self._sink.write(data)
        self._pieces += 1
        return self._sink.congested or self._pieces % PIECES_BETWEEN_YIELDS == 0

    async def give_way(self) -> None:
        """Let the kernel take what was sent, or at least give the event loop a turn."""
        if self._sink.congested:
            await self._sink.drain()
        else:
            await asyncio.sleep(0)

    def fail(self, failure: Failure, *, status: int, title: str) -> None:
        """End the answer in an error, in whatever phase it is.

        As long as the prelude is held, the client can still be given the status of the error.
        """
        if self.phase in (Phase.WAITING, Phase.HELD):
            self.bodiless = self._is_head
            prelude = read_prelude(status, [(b"content-type", b"text/plain; charset=utf-8")])
            self._prelude = prelude.without_body() if self.bodiless else prelude
            self.phase = Phase.HELD
            self._release(b"" if self.bodiless else title.encode())
        elif self.phase is Phase.STREAMING and self._takes_comment:
            document = f'{{"type":"about:blank","title":"{title}","status":{status}}}'
            self._write(f"event: error\ndata: {document}\n\n".encode())
        self._end(failure)

    def abandon(self) -> None:
        """Nobody takes the answer any more."""
        self._cancel_hold()
        self.phase = Phase.ENDED

    @property
    def _is_event_stream(self) -> bool:
        kind = self._prelude.header("content-type") if self._prelude else None
        return kind is not None and kind.lower().startswith("text/event-stream")

    @property
    def _takes_comment(self) -> bool:
        """Whether something of ours may stand in the body: an event stream of open length."""
        return self._is_event_stream and not self.bodiless and self._declared_bytes is None

    def _count(self, size: int, *, more: bool) -> None:
        if self._declared_bytes is None:
            return
        self._given_bytes += size
        if self._given_bytes > self._declared_bytes:
            raise RuntimeError("the body is longer than its content-length")
        if not more and self._given_bytes < self._declared_bytes:
            raise RuntimeError("the body is shorter than its content-length")

    def _first_piece(self, data: bytes, *, more: bool) -> None:
        assert self._prelude is not None
        if data:
            self._release(data)
        elif not more:
            self._prelude = self._prelude.without_body()
            self._wrote = True
            self._release(b"")

    def _release(self, first: bytes) -> None:
        """Send the prelude, if it has not gone out yet."""
        self._cancel_hold()
        if self.phase is not Phase.HELD or self._prelude is None:
            return
        self.phase = Phase.STREAMING
        self._wrote = self._wrote or bool(first)
        self._sink.start(self._prelude, first)

    def _write(self, data: bytes) -> None:
        self._wrote = True
        self._sink.write(data)

    def _end(self, failure: Failure | None) -> None:
        if self.phase is Phase.ENDED:
            return
        self._release(b"")
        if self.phase is Phase.STREAMING:  # a sink may have broken within the release
            if not self._wrote and self._takes_comment:
                self._sink.write(b":\n\n")  # an empty body would leave the client waiting
            self._sink.end(failure)
        self.phase = Phase.ENDED

    def _cancel_hold(self) -> None:
        if self._hold_timer is not None:
            self._hold_timer.cancel()
            self._hold_timer = None

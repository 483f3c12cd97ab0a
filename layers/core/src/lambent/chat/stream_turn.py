"""`StreamTurn`: a live turn told as numbered events, to any number of readers, and kept."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from lambent.agents.agent import Chunk
from lambent.chat.live_turn import LiveTurn, outlast
from lambent.chat.values import Failed, Finished, Frame, Queued
from lambent.errors import LambentError, StreamStopped, TurnParked, Unavailable
from lambent.streams.keeper import StreamKeeper, Why
from lambent.streams.log import StreamLog
from lambent.streams.values import LEASE_LAPSED, Dialect, StreamStatus
from lambent.telemetry import log_fields, logger

_LOOK_S: Final = 60.0
# Turns of the loop that a reader takes at the most from the news to its socket.
_READERS_TURNS: Final = 8
_CLOSING_S: Final = 10.0
_BLANK: Final = b"\n\n"
_ERROR_ID: Final = re.compile(rb"id: \d+\nevent: error")
_DONE: Final = b"data: [DONE]"
_TOLD: Final = {
    Why.ASKED: "The stream was stopped on request.",
    Why.LAPSED: LEASE_LAPSED,
    Why.TAKEN: "The stream went on elsewhere.",
}

KeeperOf = Callable[[StreamLog, Callable[[Why], None]], StreamKeeper]

AtEnd = Callable[["StreamTurn"], Awaitable[None]]


class FrameEncoder(Protocol):
    """Writes the frames of one stream, in their order."""

    async def encode(self, frames: Sequence[Frame]) -> bytes:
        """All of them as events; nothing where they have nothing to tell."""
        ...


class StreamTurn:
    """Apart from its readers: they come and go, and the slowest holds up nobody.

    `lasting`: it goes on when its first reader is known to have left, because that one said that
    it would come back. `keeper_of` None: nothing is kept, and nobody else can read it, unless
    somebody else keeps it (`kept_by_run`). `at_end` is awaited once it has ended and been kept,
    before `closed` returns.
    """

    def __init__(
        self,
        live: LiveTurn,
        encoder: FrameEncoder,
        *,
        dialect: Dialect,
        keeper_of: KeeperOf | None,
        lasting: bool = False,
        kept_by_run: bool = False,
    ) -> None:
        self.live = live
        self.kept_by_run = kept_by_run
        self.dialect = dialect
        self.log = StreamLog()
        self.refused: LambentError | None = None
        self.begun = False
        self.queued = False
        # Whether only this telling of it ended: a durable turn goes on elsewhere.
        self.goes_on = False
        self.at_end: AtEnd | None = None
        self._encoder = encoder
        self._lasting = lasting and keeper_of is not None
        self._keeper = keeper_of(self.log, self.stop) if keeper_of is not None else None
        self._leaving: asyncio.Task[None] | None = None
        self._attached = False
        self._task = asyncio.create_task(self._tell())

    @property
    def kept(self) -> bool:
        """Whether others can read it."""
        return self.kept_by_run or self._keeper is not None

    @property
    def keeper(self) -> StreamKeeper | None:
        """Who keeps it, if that is this process, and as long as it is live."""
        return None if self.log.ended else self._keeper

    @property
    def reworded(self) -> bool:
        """Whether it is told here in other words than its run keeps it in."""
        return self.live.durable and not self.kept_by_run

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call back once it has ended, and been kept to its end."""
        self._task.add_done_callback(lambda _: callback())

    def stop(self, why: Why) -> None:
        """End it now; its readers are told."""
        self.live.cancel(StreamStopped(_TOLD[why]))

    def attach(self) -> None:
        """Another reader in this process, which renews the readers' lease too."""
        self._attached = True
        if self._keeper is not None:
            self._keeper.renew_readers()

    def reader_left(self, *, for_good: bool) -> None:
        """The first reader's connection is gone; `for_good`: so is this environment, soon."""
        if for_good:
            self.live.cancel()
        elif not self.lasts_alone and self._leaving is None:
            self._leaving = asyncio.create_task(self._stop_unless_attached())

    @property
    def lasts_alone(self) -> bool:
        """Whether it goes on without its first reader, as far as this process knows."""
        return self._lasting or self._attached

    async def closed(self) -> None:
        """Wait, within bounds, until it has ended, been booked, and been kept to its end.

        A cancellation meanwhile is passed on only then: Lambda freezes the process afterwards.
        """
        if await outlast(self._task, _CLOSING_S):
            raise asyncio.CancelledError

    async def _tell(self) -> None:
        try:
            while not self.log.ended:
                if frames := await self.live.take(within_s=_LOOK_S):
                    await self._tell_frames(frames)
        except Exception as error:  # an encoder's bug: the readers must not wait for ever
            logger().exception("A stream could not be told", **log_fields(turn=self.live.id))
            self.refused = error if isinstance(error, LambentError) else LambentError()
            self.log.end(StreamStatus.FAILED)
        # Readers first: their last words leave before books and store take the processor.
        for _ in range(_READERS_TURNS):
            await asyncio.sleep(0)
        booking = asyncio.create_task(self.live.close())
        if self._keeper is not None:
            await self._keeper.finish(unwanted=self.refused is not None)
        await booking
        if self.at_end is not None:
            await self.at_end(self)

    async def _tell_frames(self, frames: Sequence[Frame]) -> None:
        data = await self._encoder.encode(frames)
        last = frames[-1]
        self.goes_on = self.live.durable and only_broke_off(frames)
        if self.kept_by_run and self.goes_on:
            # This telling broke off, not the turn: a reader who comes back must not have a number
            # that the next frame has.
            data = _ERROR_ID.sub(b"event: error", data)
        self.queued = self.queued or isinstance(frames[0], Queued)
        begun = self.begun or any(isinstance(one, Chunk | Finished) for one in frames)
        if isinstance(last, Failed) and not begun:
            self.refused = last.error
        self.begun = begun
        self.log.add(self._numbered(data))
        match last:
            case Finished():
                self.log.end(StreamStatus.DONE)
            case Failed(error=StreamStopped()):
                self.log.end(StreamStatus.STOPPED)
            case Failed():
                self.log.end(StreamStatus.FAILED)

    def _numbered(self, data: bytes) -> list[bytes]:
        if self.dialect is Dialect.LAMBENT:  # its encoder numbers them itself
            return [piece + _BLANK for piece in data.split(_BLANK)[:-1]]
        return numbered(data, after=self.log.last, goes_on=self.goes_on)

    async def _stop_unless_attached(self) -> None:
        if self._keeper is None or not await self._keeper.attached():
            self.live.cancel()


def numbered(data: bytes, *, after: int, goes_on: bool) -> list[bytes]:
    """Events of OpenAI's dialects with the numbers above `after`.

    `goes_on`: the last of them is an error that is no part of the turn, and has no number: who
    comes back must not have one that the next event has.
    """
    # Comments are nothing to come back to. A blank line behind one of them would be an event
    # without data to OpenAI's client, once it has read an id.
    told = [piece for piece in data.split(_BLANK)[:-1] if not piece.startswith(b":")]
    unnumbered = after + len(told) if goes_on else None
    return [
        (b"" if piece == _DONE or number == unnumbered else b"id: %d\n" % number) + piece + _BLANK
        for number, piece in enumerate(told, after + 1)
    ]


def only_broke_off(frames: Sequence[Frame]) -> bool:
    """Whether what ends here, of a durable turn, is this telling of it alone."""
    last = frames[-1]
    return isinstance(last, Failed) and isinstance(last.error, Unavailable | TurnParked)

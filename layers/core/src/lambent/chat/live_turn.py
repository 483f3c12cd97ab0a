"""`LiveTurn`: a turn running in its own task, and the frames it has ready for its reader."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from lambent.admission.decisions import LimitState
from lambent.chat.values import Failed, Finished, Frame
from lambent.errors import LambentError, Unavailable
from lambent.metrics import Metric, note
from lambent.telemetry import log_fields, logger

# What a reader may lag behind before the model has to wait for it.
_ROOM_FRAMES: Final = 2048
# An agent that ignores its cancellation is left to itself after this.
_PATIENCE_S: Final = 1.0
_BOOKING_S: Final = 5.0


class LiveTurn:
    """Frames in order, each told once; the last is `Finished` or `Failed`.

    `work` produces them through `put`; `book` is awaited once after it ended, however it ended.
    `client` owns it; `limit` is that client's as it was after admission. A `durable` turn is a
    run: it goes on without this one, and its frames are kept by whoever has the run.
    """

    def __init__(
        self,
        *,
        id: str,
        client: str,
        limit: LimitState | None,
        work: Callable[[LiveTurn], Coroutine[Any, Any, None]],
        book: Callable[[], Awaitable[None]],
        durable: bool = False,
    ) -> None:
        self.durable = durable
        self.id = id
        self.client = client
        self.limit = limit
        self._book = book
        self._frames: deque[Frame] = deque()
        self._news = asyncio.Event()
        self._space = asyncio.Event()
        self._space.set()
        self._ended = False
        self._booking: asyncio.Task[None] | None = None
        self._task = asyncio.create_task(work(self))
        self._task.add_done_callback(self._work_ended)

    @property
    def ended(self) -> bool:
        """Whether the last frame has been told, or stands ready."""
        return self._ended

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call back once the work has ended."""
        self._task.add_done_callback(lambda _: callback())

    async def put(self, frame: Frame) -> None:
        """Tell one frame; waits while the reader lags too far behind. Nothing follows the last."""
        if len(self._frames) >= _ROOM_FRAMES:
            self._space.clear()
            await self._space.wait()
        self._put_now(frame)

    async def take(self, *, within_s: float) -> list[Frame]:
        """All frames that are ready, else the first to come; none after so much silence."""
        if not self._frames and not self._ended:
            self._news.clear()
            try:
                async with asyncio.timeout(within_s):
                    await self._news.wait()
            except TimeoutError:
                return []
        frames = list(self._frames)
        self._frames.clear()
        self._space.set()
        return frames

    def cancel(self, error: LambentError | None = None) -> None:
        """End the turn now: the generation stops, and its reader is told that it broke off."""
        if not self._ended:
            why = error or Unavailable("The turn was stopped before its end.")
            self._put_now(Failed(why))
        self._task.cancel()

    async def close(self) -> None:
        """End the turn if it runs, and wait, within bounds, until it is booked.

        A cancellation meanwhile is passed on only then: Lambda freezes the process afterwards.
        """
        if not self._ended:
            self.cancel()
        cancelled = await outlast(self._task, _PATIENCE_S)
        if not self._task.done():
            logger().error("An agent ignores its cancellation", **log_fields(turn=self.id))
        cancelled = await outlast(self._start_booking(), _BOOKING_S) or cancelled
        if cancelled:
            raise asyncio.CancelledError

    def _put_now(self, frame: Frame) -> None:
        if self._ended:
            return
        self._ended = isinstance(frame, Failed | Finished)
        self._frames.append(frame)
        self._news.set()

    def _work_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            # A fault of ours, though its reader is told to come again.
            note(Metric.STREAMS_BROKEN)
            logger().error("A turn ended with an error", exc_info=error, **log_fields(turn=self.id))
        # An author's code may have cancelled its own task: the reader must not wait for ever.
        self._put_now(Failed(Unavailable("The turn was stopped before its end.")))
        self._start_booking()

    def _start_booking(self) -> asyncio.Task[None]:
        if self._booking is None:
            self._booking = asyncio.create_task(self._book_logged())
        return self._booking

    async def _book_logged(self) -> None:
        try:
            await self._book()
        except Exception:  # the answer is out; a booking that is lost lapses with its lease
            logger().exception("A turn could not be booked", **log_fields(turn=self.id))


async def outlast(task: asyncio.Task[None], limit_s: float) -> bool:
    """Wait for the task, at most so long; tells whether the waiting itself was cancelled."""
    loop = asyncio.get_running_loop()
    until = loop.time() + limit_s
    cancelled = False
    while not task.done() and (left := until - loop.time()) > 0:
        try:
            await asyncio.wait({task}, timeout=left)
        except asyncio.CancelledError:
            cancelled = True
    return cancelled

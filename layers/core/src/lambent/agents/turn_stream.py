"""`TurnStream`: what a durable turn tells its readers, written away first, then shown, never twice.

A turn's frames follow from its run's journal, so whoever takes the run over can tell where they
stand: it reads what was told (`Told`) and tells only what is missing. Of a model call without a
checkpoint the told text is kept and gone on from. No reader sees a frame that is not kept, so
nothing that a reader has seen can be told differently by a successor. Two owners cannot both tell
a frame: a batch is one insert under the number of its first frame, and the loser reads again.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from lambent.agents.turn_frames import DONE, Body, decode_frame, encode_frame
from lambent.clock import Clock
from lambent.errors import LambentError, StoreUnavailable
from lambent.streams.log import StreamLog
from lambent.streams.store import FramesTaken
from lambent.streams.values import Batch, Stream, StreamStatus

if TYPE_CHECKING:
    from lambent.streams.store import StreamStore

# Tokens that come within this time are written by one insert.
_WRITE_EVERY_S: Final = 0.04
# Also in the silence of a step: how long a stop may take to be heard of, and what it costs.
_LOOK_EVERY_S: Final = 1.0
_RETRY_S: Final = 0.25
# Frames are given a shorter time at the stream's end; a run may wait for people for weeks.
_KEPT: Final = timedelta(days=90)
T = TypeVar("T")


class ToldElsewhere(LambentError):
    """Another function tells this turn's frames, or did in between."""

    code = "told_elsewhere"
    title = "The turn is told elsewhere"


@dataclass(slots=True)
class Told:
    """What the frames say so far; a round is one model call with the tools that it calls."""

    frames: int = 0
    round: int = 0
    text: dict[int, str] = field(default_factory=lambda: defaultdict(str))
    thinking: dict[int, str] = field(default_factory=lambda: defaultdict(str))
    known: set[tuple[str, str]] = field(default_factory=set)
    ended: bool = False

    @property
    def awaits_person(self) -> bool:
        """Whether a call waits for a decision."""
        return any(
            kind == "waiting" and ("tool_result", id) not in self.known for kind, id in self.known
        )

    def note(self, body: Body | None) -> None:
        """One frame more; None for `[DONE]`."""
        self.frames += 1
        match body:
            case {"delta": text}:
                self.text[self.round] += text
            case {"thinking": text}:
                self.thinking[self.round] += text
            case {"tool_call": {"id": id}}:
                self.known.add(("tool_call", id))
                # Calls are told once their round has spoken.
                self.round = int(id.partition(".")[0]) + 1
            case {"waiting": {"id": id}}:
                self.known.add(("waiting", id))
            case {"tool_result": {"id": id}}:
                self.known.add(("tool_result", id))
            case _:
                self.ended = True


class TurnStream:
    """One owner's hand on the stream; `log` is where readers in this process look, if any."""

    def __init__(
        self,
        store: StreamStore,
        stream: Stream,
        *,
        clock: Clock,
        log: StreamLog | None = None,
        fresh: bool = False,
        on_stop: Callable[[], Awaitable[None]],
    ) -> None:
        """`stream`: as it is opened if it is not yet. `fresh`: it is not, and nothing was told.

        `on_stop` is awaited, perhaps more than once, where the turn is to end: somebody wants it,
        or its readers' lease has lapsed (`lapsed`). It may raise `StoreUnavailable`.
        """
        self._store = store
        self._turn = stream.id
        self._opens = stream
        self._clock = clock
        self._log = log
        self._on_stop = on_stop
        self._stream: Stream | None = stream if fresh else None
        self._pending: list[bytes] = []
        self._written = 0
        self._lost = not fresh  # nothing has been read yet
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._idle = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._watcher = asyncio.create_task(self._watch())
        # Beside the first step, which has nothing to say before it.
        self._opening = asyncio.create_task(self._open()) if fresh else None
        self.told = Told()
        self.lapsed = False

    async def ended_by_lapse(self) -> bool:
        """Whether the lease of its readers lapsed before its end was told: then that is asked
        for."""
        await self.ready()
        if self._stream is None or not self.open or self.told.ended:
            return False
        if lapsed := self._has_lapsed(self._stream):
            await self._steady(self._on_stop)
        return lapsed

    async def ready(self) -> None:
        """Know what has been told; read again where somebody else went on meanwhile."""
        if not self._lost:
            return
        await self._stop_writer()
        self.told, self._pending = Told(), []
        self._stream = await self._found()
        while batches := await self._steady(self._next):
            for batch in batches:
                events = batch.after(self.told.frames)
                for event in events:
                    self.told.note(decode_frame(event))
                if self._log is not None and self._log.last < self.told.frames:
                    self._log.add(events[self._log.last - self.told.frames :])
        self._written = self.told.frames
        self._lost = False
        self._idle.set()

    async def _found(self) -> Stream | None:
        """The stream; opened here where whoever began the turn died before he could."""
        found = await self._steady(lambda: self._store.look(self._turn))
        if found is None and await self._open():
            return self._opens
        return found

    async def _open(self) -> bool:
        try:
            await self._steady(lambda: self._store.open(self._opens))
        except FramesTaken:
            return False
        return True

    @property
    def open(self) -> bool:
        """Whether anything can still be told: not where it is another's, or has ended."""
        return self._stream is not None and self._stream.status is StreamStatus.LIVE

    def delta(self, text: str) -> None:
        if text:
            self._tell({"delta": text})

    def thinking(self, text: str) -> None:
        if text:
            self._tell({"thinking": text})

    def once(self, body: Body) -> None:
        """A frame about a tool call, unless it was told."""
        kind, about = next(iter(body.items()))
        if (kind, about["id"]) not in self.told.known:
            self._tell(body)

    def rest_of_round(self, number: int, text: str) -> None:
        """What of the round's text, now on record, has not been told."""
        said = self.told.text[number]
        if self.told.round == number and text.startswith(said):
            self.delta(text[len(said) :])

    async def finish(self, body: Body, status: StreamStatus, *, event: str | None = None) -> None:
        """Tell the last frame, unless there was one, and end the stream."""
        while True:
            await self.ready()
            if not self.open:
                return
            try:
                if not self.told.ended:
                    self._tell(body, event=event)
                    if status is StreamStatus.DONE:
                        self.told.note(None)
                        self._pending.append(DONE)
                await self.flush()
                break
            except ToldElsewhere:
                continue
        stream, self._stream = self._stream, None
        assert stream is not None
        await self._steady(lambda: self._store.finish(stream, status))
        if self._log is not None:
            self._log.end(status)

    async def say(self, *tell: Callable[[], None]) -> None:
        """Tell, whoever has told something meanwhile; each must do nothing where it is told."""
        while True:
            await self.ready()
            try:
                for one in tell:
                    one()
                return
            except ToldElsewhere:
                continue

    async def flush(self) -> None:
        """Return once all that was told is kept. Raises `ToldElsewhere`."""
        self._hurry.set()
        await self._idle.wait()
        self._check()

    async def flush_if_mine(self) -> None:
        """The same where somebody else goes on being no concern: he tells it then."""
        with suppress(ToldElsewhere):
            await self.flush()

    async def close(self) -> None:
        """Write what is left, within bounds; never raises."""
        self._watcher.cancel()
        if self._writer is not None and not self._lost:
            self._hurry.set()
            waiting = asyncio.ensure_future(self._idle.wait())
            await asyncio.wait({waiting}, timeout=1.0)
            waiting.cancel()
        await self._stop_writer()

    def _tell(self, body: Body, *, event: str | None = None) -> None:
        self._check()
        if not self.open:
            return
        self.told.note(body)
        self._pending.append(encode_frame(self.told.frames, body, event=event))
        self._idle.clear()
        self._wake.set()
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_on())

    def _check(self) -> None:
        if self._lost:
            raise ToldElsewhere("Another function went on with this turn.")

    async def _write_on(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            events, self._pending = self._pending, []
            if events and not await self._write(events):
                return
            if not self._pending:
                self._idle.set()
                self._hurry.clear()
            pause = asyncio.ensure_future(self._hurry.wait())
            try:
                await asyncio.wait({pause}, timeout=_WRITE_EVERY_S)
            finally:
                pause.cancel()

    async def _write(self, events: list[bytes]) -> bool:
        stream, first = self._stream, self._written + 1
        assert stream is not None
        try:
            # Before the first frame: who has seen one can come back, and can stop the turn.
            if self._opening is not None and not await self._opening:
                raise FramesTaken(self._turn)
            self._opening = None
            self._written = await self._steady(
                lambda: self._store.append(stream, first, events, kept=_KEPT)
            )
        except FramesTaken:
            self._lost = True
            self._idle.set()
            return False
        if self._log is not None and self._log.last == first - 1:
            self._log.add(events)
        return True

    async def _watch(self) -> None:
        """See whether somebody asked for the end: sooner than by the renewals of the run's lease,
        and also while the model thinks, or a tool works, without a word."""
        while True:
            await self._clock.sleep(_LOOK_EVERY_S)
            with suppress(StoreUnavailable):
                found = await self._store.look(self._turn)
                if found is not None and (found.stop or self._has_lapsed(found)):
                    await self._on_stop()

    async def renew_readers(self, call: str) -> None:
        """A person has decided on the call: whoever that was is there; unless it is long ago."""
        if self._opens.readers_lease_s is not None and ("tool_result", call) not in self.told.known:
            await self._steady(lambda: self._store.renew_readers(self._opens))

    def _has_lapsed(self, found: Stream) -> bool:
        """While a person is waited for, which may take days, the lease rests."""
        until = found.readers_until
        away = until is not None and until < self._clock.now()
        self.lapsed = away and not self.told.awaits_person
        return self.lapsed

    async def _next(self) -> list[Batch]:
        return await self._store.read(self._turn, after=self.told.frames)

    async def _steady(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat while the store is away: the lease of the run says how long that may go on."""
        while True:
            try:
                return await call()
            except StoreUnavailable:
                await self._clock.sleep(_RETRY_S)

    async def _stop_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.cancel()
            await asyncio.wait({writer})


def error_body(error: LambentError) -> dict[str, Any]:
    """The problem document of an error that ends a turn; a run is no request, and has no id of
    one."""
    return {
        "type": f"urn:lambent:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
    }

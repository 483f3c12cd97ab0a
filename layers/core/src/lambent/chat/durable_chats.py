"""`DurableChats`: a durable agent's turn as a chat sees it: started, followed, stopped.

The chat function that starts a turn also does its first slice, so that the first token waits for
nobody. What it tells its reader comes out of the stream's log in either case: fed by the slice
here, or, while somebody else has the run, by what that one has written. A reader who hears nothing
for a while tries to go on with the run himself: it is his only once the lease of a dead owner has
lapsed. A chat whose readers have left gives its slice back at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from lambent.agents.agent import AgentInfo, Chunk
from lambent.agents.durable import NAMED, DurableTurns, stream_of, workflow_name
from lambent.agents.tool_context import Means
from lambent.agents.turn import Turn
from lambent.agents.turn_frames import DONE, Body, chunk_of, decode_frame, is_error
from lambent.agents.turn_input import Place, turn_input
from lambent.chat.exchanges import ExchangeKeeper
from lambent.chat.parked import parked, parked_event
from lambent.clock import FAR_FUTURE, Clock
from lambent.engine.model import ENDED
from lambent.errors import (
    Conflict,
    LambentError,
    NotFound,
    StoreUnavailable,
    StreamStopped,
    TurnParked,
)
from lambent.streams.log import StreamLog
from lambent.streams.values import Stream, StreamStatus
from lambent.telemetry import log_fields, logger

if TYPE_CHECKING:
    from lambent.agents.mcp_servers import McpServers
    from lambent.agents.memory import Memory
    from lambent.agents.registry import AgentRegistry
    from lambent.agents.step_model import StepModel
    from lambent.bus.events import EventBus
    from lambent.chat.service import ChatService
    from lambent.due import Claimed
    from lambent.engine.engine import WorkflowEngine
    from lambent.settings import Settings
    from lambent.streams.reader import Followed
    from lambent.streams.store import StreamStore

# How long a slice may go on here; then the step function has its turn. It begins a step only
# where as much as the step's timeout is left.
_SLICE_S: Final = 840.0
_FIRST_PAUSE_S: Final = 0.03
_LONGEST_PAUSE_S: Final = 0.5
# After so much silence the run is tried: perhaps its owner has died.
_FIRST_SILENCE_S: Final = 1.0
_LONGEST_SILENCE_S: Final = 5.0
_STOPPING_S: Final = 3.0
_LOOK_S: Final = 0.5
_KNOWN: Final = {one.code: one for one in (*NAMED, StreamStopped, TurnParked)}


class TurnFailed(LambentError):
    """The run of a durable turn failed; the detail says why."""

    code = "turn_failed"
    title = "The turn failed"


class Parts(Protocol):
    """What durable turns take from the platform."""

    @property
    def settings(self) -> Settings: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def registry(self) -> AgentRegistry: ...
    @property
    def engine(self) -> WorkflowEngine: ...
    @property
    def bus(self) -> EventBus: ...
    @property
    def chats(self) -> ChatService: ...
    @property
    def step_model(self) -> StepModel: ...
    @property
    def memory(self) -> Memory: ...
    @property
    def mcp(self) -> McpServers: ...
    @property
    def bell(self) -> Bell: ...


class Bell(Protocol):
    """Wakes a poller for what is due."""

    async def ring(self, due_at: datetime) -> bool: ...


def durable_chats_of(parts: Parts) -> DurableChats:
    """Made of the platform's parts, each asked for at its first use."""
    means = Means(
        settings=parts.settings,
        clock=parts.clock,
        engine=lambda: parts.engine,
        bus=lambda: parts.bus,
        memory=lambda: parts.memory,
        mcp=lambda: parts.mcp,
        conversations=lambda: parts.chats.conversations,
    )

    def streams() -> StreamStore:
        return parts.chats.streams

    embed = partial(parts.step_model.embed, parts.settings.embedding_model)
    turns = DurableTurns(
        parts.registry,
        streams=streams,
        means=means,
        exchanges=ExchangeKeeper(
            lambda: parts.chats.conversations,
            engine=lambda: parts.engine,
            settings=parts.settings,
            clock=parts.clock,
        ),
        embed=embed,
        expect=parts.step_model.expect,
    )
    return DurableChats(
        turns,
        engine=lambda: parts.engine,
        streams=streams,
        clock=parts.clock,
        ring=parts.bell.ring,
    )


class DurableChats:
    """One for each environment; `ring` wakes a poller for when a run is due."""

    def __init__(
        self,
        turns: DurableTurns,
        *,
        engine: Callable[[], WorkflowEngine],
        streams: Callable[[], StreamStore],
        clock: Clock,
        ring: Callable[[datetime], Awaitable[object]] | None = None,
    ) -> None:
        self.turns = turns
        self.engine = engine
        self.streams = streams
        self.clock = clock
        self.ring = ring
        self._feeds: dict[str, _Feed] = {}
        self._stopping: dict[str, asyncio.Task[None]] = {}

    async def chunks(
        self,
        turn: Turn,
        agent: AgentInfo,
        *,
        patient: bool,
        lease_s: float | None = None,
        place: Place | None = None,
    ) -> AsyncGenerator[Chunk, None]:
        """Start the turn and tell its answer. Not `patient`: only up to where it waits for a
        person, with the finish reason "waiting". `lease_s`: the lease that its readers renew.
        `place`: that of the turn in a conversation."""
        run_id, taken = await self._start(turn, agent, lease_s, place)
        # Nothing is awaited between the two: what was taken must come into hands.
        async with aclosing(self.follow(turn.id, run_id, after=0, taken=taken)) as followed:
            async for events in followed:
                for event in events:
                    if (body := decode_frame(event)) is None:
                        return
                    if is_error(event):
                        raise failure_of(body)
                    chunk = chunk_of(body)
                    yield chunk
                    if chunk.awaited is not None and not patient:
                        yield Chunk(finish_reason="waiting")
                        return

    async def follow(
        self, turn: str, run_id: str, *, after: int, taken: Claimed | None = None
    ) -> AsyncGenerator[list[bytes], None]:
        """Its events above `after` as they come, an empty list after some silence; ends with the
        turn. All readers in this process share one look at the store. `taken`: the hold on a run
        that was begun here just now."""
        feed = self._feeds.get(turn)
        if feed is None:
            feed = self._feeds[turn] = _Feed(self, turn, run_id, taken)
        feed.readers += 1
        try:
            while True:
                events = feed.log.after(after)
                after += len(events)
                ended = feed.log.ended
                if events or not ended:
                    yield events
                if ended:
                    return
                if feed.parked is not None:
                    yield [parked_event(feed.parked)]
                    return
                await feed.log.news(after, within_s=_LOOK_S)
        finally:
            feed.readers -= 1
            if feed.readers == 0:
                self._feeds.pop(turn, None)
                # Not awaited here: the reader has the end, and its slice has yet to settle.
                stopping = asyncio.create_task(feed.stop())
                self._stopping[turn] = stopping
                stopping.add_done_callback(lambda _: self._stopping.pop(turn, None))

    async def settled(self, turn: str) -> None:
        """Wait, within bounds, until a turn that is followed no more is at rest here: afterwards
        Lambda may freeze the process."""
        if (stopping := self._stopping.get(turn)) is not None:
            await asyncio.wait({stopping})

    async def follow_stream(self, stream: Stream, *, after: int) -> Followed:
        """The same for whoever comes back to it."""
        assert stream.run is not None
        async with aclosing(self.follow(stream.id, stream.run, after=after)) as followed:
            async for events in followed:
                yield events

    async def stop(self, stream: Stream) -> None:
        """End a turn, whoever has it. Raises `Conflict` where its run has ended."""
        run_id = stream.run
        assert run_id is not None
        # Before the cancel: who tells the turn's frames looks for this more often than at the run.
        await self.streams().ask_stop(stream.id, client=stream.client)
        await self.engine().control.cancel(run_id, client=stream.client)
        self.engine().poke_run(run_id)

    async def _start(
        self, turn: Turn, agent: AgentInfo, lease_s: float | None, place: Place | None
    ) -> tuple[str, Claimed | None]:
        input = turn_input(
            agent,
            turn=turn.id,
            messages=turn.messages,
            model=turn.model,
            options=turn.options,
            think=turn.think,
            scopes=turn.scopes,
            key=turn.key,
            lease_s=lease_s,
            place=place,
        )
        client = turn.client or "anonymous"
        self.turns.expect(turn.model, client=client)
        try:
            started = await self.engine().take_internal(
                workflow_name(agent.name),
                input,
                client=client,
                key=f"turn:{turn.id}",
                version=agent.version,
            )
            run_id, taken = str(started.run["_id"]), started.claimed
        except Conflict as error:
            # Who sent the request again has said that it is the same one, though it may be with
            # another of his keys, or in a conversation that knows more by now.
            run_id, taken = str(error.fields["run"]), None
        if taken is None:
            # Its stream, else, is opened by the slice that begins here.
            stream = stream_of(
                turn.id, run_id, client=client, lease_s=lease_s, now=self.clock.now()
            )
            await self.streams().open(stream)
        return run_id, taken


class _Feed:
    """One turn as this process follows it: slices of it here, looks at the store between them."""

    def __init__(self, chats: DurableChats, turn: str, run_id: str, taken: Claimed | None) -> None:
        self.log = StreamLog()
        self.readers = 0
        self.parked: TurnParked | None = None
        self._chats = chats
        self._turn = turn
        self._run_id = run_id
        self._stopped = False
        self._taken = taken
        chats.turns.logs[turn] = self.log
        if taken is not None:
            chats.turns.fresh.add(turn)
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Nobody reads any more: give the slice back, within bounds."""
        self._stopped = True
        if not self._told_to_the_end():
            # Else the slice is about to settle by itself.
            self._chats.engine().stop_run(self._run_id)
        await asyncio.wait({self._task}, timeout=_STOPPING_S)
        self._task.cancel()
        if self._chats.turns.logs.get(self._turn) is self.log:
            del self._chats.turns.logs[self._turn]

    def _told_to_the_end(self) -> bool:
        last = self.log.after(self.log.last - 1)
        return self.log.ended or any(one == DONE or is_error(one) for one in last)

    async def _run(self) -> None:
        silence_s = _FIRST_SILENCE_S
        try:
            while not (self.log.ended or self.parked or self._stopped):
                await self._advance()
                heard = await self._watch(silence_s)
                silence_s = _FIRST_SILENCE_S if heard else min(2 * silence_s, _LONGEST_SILENCE_S)
        except Exception as error:  # a bug of ours: readers must not wait for ever
            logger().exception(
                "A turn cannot be followed", exc_info=error, **log_fields(turn=self._turn)
            )
            self.log.end(StreamStatus.FAILED)

    async def _advance(self) -> None:
        chats = self._chats
        ends_s = chats.clock.monotonic_s() + _SLICE_S
        taken, self._taken = self._taken, None
        try:
            verdicts = await chats.engine().advance([self._run_id], ends_s=ends_s, taken=taken)
        except Exception as error:  # the run goes on elsewhere
            logger().exception(
                "A slice failed", exc_info=error, **log_fields(turn=self._turn, run=self._run_id)
            )
            return
        finally:
            chats.turns.fresh.discard(self._turn)
        due_at = verdicts[self._run_id].due_at
        if chats.ring is not None and due_at < FAR_FUTURE:
            await chats.ring(due_at)

    async def _watch(self, silence_s: float) -> bool:
        """Read on until the end, or until it was silent for so long; whether anything came."""
        store, clock = self._chats.streams(), self._chats.clock
        until_s, pause_s, heard = clock.monotonic_s() + silence_s, _FIRST_PAUSE_S, False
        while not (self.log.ended or self._stopped):
            try:
                # The status first: a stream that is seen to have ended has all its events written.
                stream = await store.look(self._turn)
                came = await self._read(store)
            except StoreUnavailable:
                stream, came = None, False
            else:
                if not came and stream is not None and stream.status is not StreamStatus.LIVE:
                    self.log.end(stream.status)
                    break
            if came:
                until_s, pause_s, heard = clock.monotonic_s() + silence_s, _FIRST_PAUSE_S, True
            elif clock.monotonic_s() >= until_s:
                await self._end_if_over(store, stream)
                break
            await clock.sleep(pause_s)
            pause_s = min(1.5 * pause_s, _LONGEST_PAUSE_S)
        return heard

    async def _read(self, store: StreamStore) -> bool:
        at = self.log.last
        for batch in await store.read(self._turn, after=at):
            self.log.add(batch.after(self.log.last))
        return self.log.last > at

    async def _end_if_over(self, store: StreamStore, stream: Stream | None) -> None:
        """A run that was ended before it began has told nobody, nor has one that is parked."""
        control = self._chats.engine().control
        try:
            with suppress(NotFound):
                run = await control.get(self._run_id, client=None)
                if run.status not in ENDED:
                    self.parked = parked(run, now=self._chats.clock.now())
                    return
            if stream is None:  # its time is over, or it was never opened
                self.log.end(StreamStatus.FAILED)
            else:
                await store.finish(stream, StreamStatus.STOPPED)
        except StoreUnavailable:
            return


def failure_of(body: Body) -> LambentError:
    """The error that an event of the kept stream told."""
    kind = _KNOWN.get(body["type"].rpartition(":")[2], TurnFailed)
    return kind(body["detail"])

"""Owns the order of every store call of several actors, and explores the orders there are.

An actor is one process of production: a slice, a publisher with its delivery, somebody who cancels,
a poller. Each of its store calls and short rests stops at a gate; the scheduler lets one through,
waits until nothing moves any more, and chooses again. An actor may call others into being, as a
nudge does. A schedule is the list of choices: a failing one can be played again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from lambent.intercept import StoreCall
from lambent.testing import Crash

Act = Callable[[], Awaitable[Any]]
Make = Callable[[], Awaitable[Any]]

CRASH = "crash"  # the actor dies before its call is sent
CRASH_AFTER = "crash after"  # the call is done, its answer is lost, the actor is dead
STALL = "stall"  # a lease's time passes: whoever holds one has become a zombie
CLOCK = "clock"  # in the place of a collection: a short rest, over when it is let through


@dataclass
class Point:
    """An actor that waits to make its next call."""

    actor: str
    call: StoreCall
    go: asyncio.Future[str]

    @property
    def rests(self) -> bool:
        return self.call.collection == CLOCK


@dataclass
class Record:
    """What was chosen among what, for the next schedules to differ from."""

    chosen: int
    options: list[str]
    preempts: list[bool]


@dataclass
class Outcome:
    schedule: list[int]
    records: list[Record] = field(default_factory=list)
    log: list[str] = field(default_factory=list)


_ACTOR: ContextVar[str | None] = ContextVar("actor", default=None)


class Scheduler:
    """Runs the actors of one schedule to their ends."""

    def __init__(self, choose: Callable[[list[str], list[bool]], int], stall: Callable[[], None]):
        self._choose = choose
        self._stall = stall
        self._points: list[Point] = []
        self._dead: set[str] = set()
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._last: str | None = None
        self._faults = 1  # one crash or one long stall, anywhere
        self._making = 0
        self._made = asyncio.Event()
        self.log: list[str] = []

    @property
    def faulty(self) -> bool:
        """Whether an actor died or stalled."""
        return self._faults == 0

    async def gate(self, call: StoreCall, make: Make) -> Any:
        """Where the store calls of the actors come through."""
        actor = _ACTOR.get()
        if actor is None:
            return await make()
        if actor in self._dead:
            raise Crash(actor)
        point = Point(actor, call, asyncio.get_running_loop().create_future())
        self._points.append(point)
        try:
            order = await point.go
        except asyncio.CancelledError:  # a timer that is not needed any more
            if point in self._points:
                self._points.remove(point)
            raise
        if order == CRASH:
            raise Crash(actor)
        self._making += 1
        try:
            answer = await make()
        finally:
            self._making -= 1
            self._made.set()
        if order == CRASH_AFTER:
            raise Crash(actor)
        return answer

    async def run(self, actors: dict[str, Act]) -> None:
        """All actors at once, one store call at a time."""
        for name, act in actors.items():
            self.call_up(name, act)
        await self._quiet()
        while self._points:
            await self._next()
            await self._quiet()
        waiting = [name for name, task in self._tasks.items() if not task.done()]
        assert not waiting, f"{waiting} wait for what no store call brings"
        for task in self._tasks.values():
            task.result()

    def call_up(self, name: str, act: Act) -> None:
        """One actor more, from here on."""
        assert name not in self._tasks, name
        self._tasks[name] = asyncio.create_task(self._live(name, act))

    async def _live(self, name: str, act: Act) -> None:
        _ACTOR.set(name)
        with contextlib.suppress(Crash):
            # It looks at the clock only once it is let in: it may arrive after any stall.
            await self.gate(StoreCall("it", "begins", None), _nothing)
            await act()

    async def _next(self) -> None:
        running = any(one.actor == self._last and not one.rests for one in self._points)
        options: list[tuple[str, Point, str]] = []
        for point in self._points:
            options.append((f"{point.actor}: {point.call.collection}.{point.call.name}", point, ""))
        # The one that ran last first: no preemption is the default. Whoever rests comes last.
        options.sort(key=lambda option: (option[1].rests, option[1].actor != self._last))
        if self._faults:
            for _, point, _ in list(options):
                options.append((f"{point.actor} dies before {point.call}", point, CRASH))
                options.append((f"{point.actor} dies after {point.call}", point, CRASH_AFTER))
            options.append(("a lease's time passes", options[0][1], STALL))
        preempts = [
            bool(fault) or (running and point.actor != self._last) for _, point, fault in options
        ]
        label, point, fault = options[self._choose([one[0] for one in options], preempts)]
        self.log.append(label)
        if fault:
            self._faults -= 1
        if fault == STALL:
            self._stall()
            return
        self._last = point.actor
        if fault:
            self._kill(point, fault)
        else:
            self._points.remove(point)
            point.go.set_result("")

    def _kill(self, point: Point, fault: str) -> None:
        self._dead.add(point.actor)
        for other in [one for one in self._points if one.actor == point.actor]:
            self._points.remove(other)
            if other is not point:
                other.go.set_result(CRASH)
        point.go.set_result(fault)

    async def _quiet(self) -> None:
        """Until every actor has ended or stands before a call, and no call is on its way."""
        loop: Any = asyncio.get_running_loop()
        still = 0
        while still < 2:
            if self._making:
                still = 0
                self._made.clear()
                await self._made.wait()
                continue
            await asyncio.sleep(0)
            still = still + 1 if not loop._ready else 0


async def _nothing() -> None:
    """What is behind the gate through which an actor comes in."""


class Walk:
    """Chooses by a list first and then by default (go on with the same actor)."""

    def __init__(self, prefix: Sequence[int]) -> None:
        self._prefix = prefix
        self.records: list[Record] = []

    def choose(self, options: list[str], preempts: list[bool]) -> int:
        at = len(self.records)
        chosen = self._prefix[at] if at < len(self._prefix) else 0
        if chosen >= len(options):
            # Fresh ids and jitter made this play another one than that it began as: once in some
            # thousand. It goes on as any other schedule.
            chosen = 0
        self.records.append(Record(chosen, options, preempts))
        return chosen

    @property
    def schedule(self) -> list[int]:
        return [record.chosen for record in self.records]


class RandomWalk(Walk):
    """Chooses by a seed, after the PCT scheduler (Burckhardt et al., ASPLOS 2010): actors have
    random priorities, the highest goes on, and at a few random calls the one that goes on drops to
    the lowest. One crash or stall at a random call; who stalled often goes last: a zombie."""

    def __init__(self, seed: int, length: int) -> None:
        super().__init__(())
        # No secret hangs on it: a seed that can be played again.
        self._random = random.Random(seed)
        self._ranks: dict[str, float] = {}
        self._drops = {self._random.randrange(length) for _ in range(self._random.randrange(3))}
        self._fault_at = self._random.randrange(length * 5 // 4)
        self._lowest = 0.0

    def choose(self, options: list[str], preempts: list[bool]) -> int:
        at = len(self.records)
        faults = [i for i, one in enumerate(options) if " dies " in one or "lease's" in one]
        calls = [i for i in range(len(options)) if i not in faults]
        chosen = max(calls, key=lambda i: self._rank(options[i]))
        actor = options[chosen].partition(":")[0]
        if at in self._drops:
            self._drop(actor)
            chosen = max(calls, key=lambda i: self._rank(options[i]))
            actor = options[chosen].partition(":")[0]
        if faults and at >= self._fault_at:
            kinds = [i for i in faults if options[i].startswith(f"{actor} dies")]
            chosen = self._random.choice([*kinds, faults[-1], faults[-1]])
            if chosen == faults[-1] and self._random.random() < 0.7:
                self._drop(actor)
        self.records.append(Record(chosen, options, preempts))
        return chosen

    def _rank(self, option: str) -> float:
        actor = option.partition(":")[0]
        return self._ranks.setdefault(actor, 1 + self._random.random())

    def _drop(self, actor: str) -> None:
        self._lowest -= 1
        self._ranks[actor] = self._lowest


@dataclass(frozen=True)
class Branching:
    """The beginning of a schedule, and how many preemptions and faults it has."""

    schedule: list[int]
    preemptions: int


def successors(records: Sequence[Record], start: int, *, preemptions: int) -> Iterator[Branching]:
    """The schedules that differ from this one first at or after `start`, within the bound."""
    used = sum(record.preempts[record.chosen] for record in records[:start])
    for at in range(start, len(records)):
        record = records[at]
        for other in range(len(record.options)):
            if other == record.chosen:
                continue
            count = used + record.preempts[other]
            if count <= preemptions:
                yield Branching([*(one.chosen for one in records[:at]), other], count)
        used += record.preempts[record.chosen]

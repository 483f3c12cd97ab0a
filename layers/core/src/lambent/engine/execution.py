"""Drives one pass of a workflow's code: who waits for what, and when nothing can go on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, TypeVar

from lambent.clock import FAR_FUTURE, Clock
from lambent.due import Settled
from lambent.engine.branch import CURRENT, Branch
from lambent.engine.config import EngineConfig
from lambent.engine.journal import Journal
from lambent.engine.model import Control
from lambent.errors import (
    Abandoned,
    Cancelled,
    ContinuedAsNew,
    LeaseLost,
    NonDeterministic,
    OverBudget,
    Paused,
    StepTimedOut,
    Stopped,
    StoreUnavailable,
    Suspended,
    Unwind,
    WorkflowError,
)
from lambent.leases import Held

T = TypeVar("T")
Probe = Callable[[], Awaitable[bool]]

_STORE_RETRY_S: Final = 0.25
# At SIGTERM there are some 300 ms for everything.
_UNWIND_QUICKLY_S: Final = 0.05


class Ended(StrEnum):
    """How one pass ended."""

    RETURNED = "returned"
    RAISED = "raised"
    SUSPENDED = "suspended"  # settled already
    STOPPED = "stopped"  # no time left: to be settled as due at once
    CONTROLLED = "controlled"  # someone asked for a cancel or a pause
    NONDETERMINISTIC = "nondeterministic"
    OVER_BUDGET = "over budget"
    CONTINUED = "continued as new"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Outcome:
    ended: Ended
    value: Any = None
    error: Exception | None = None
    detail: str = ""


class Parked:
    """A branch that cannot go on before `wake_at`, unless `probe` finds that it can."""

    def __init__(self, branch: Branch, wake_at: datetime, probe: Probe | None, put_off: bool):
        self.branch = branch
        self.wake_at = wake_at
        self.probe = probe
        self.put_off = put_off  # it could go on, but not in this slice
        self.go_on: asyncio.Future[None] = asyncio.get_running_loop().create_future()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settling:
    """What a pass asks of its slice: to settle until `due_at`, and to read the run again."""

    suspend: Callable[[datetime], Awaitable[Settled]]
    reread: Callable[[], Awaitable[Control | None]]


class Execution:
    """One pass over the code of one run. Not reusable."""

    def __init__(
        self,
        *,
        journal: Journal,
        held: Held,
        clock: Clock,
        config: EngineConfig,
        settling: Settling,
        ends_s: float,
        unwinding: bool = False,
        begun: bool = False,
    ) -> None:
        self.journal = journal
        self.clock = clock
        self.config = config
        self.unwinding = unwinding  # replay only: whatever is not on record is refused
        self.begun = begun  # whether this slice has begun a step: a fresh one always does
        self.pausing = False
        self._held = held
        self._settling = settling
        self._ends_s = ends_s
        self._live = 1
        self._parked: set[Parked] = set()
        self._bodies: dict[asyncio.Task[Any], Branch] = {}
        self._changed = asyncio.Event()
        self._poked = False
        self._stopping: Unwind | None = None
        self._unwind_s = config.unwind_s

    # What the steps use

    def check(self) -> None:
        """Raises what this pass is unwinding with, if it is; and LeaseLost past the lease."""
        if self._stopping is not None:
            raise self._stopping
        if self.clock.monotonic_s() >= self._held.lease.ends_s:
            raise self.unwind(LeaseLost())
        if CURRENT.get().given_up() and not self.unwinding:
            raise Abandoned

    def unwind(self, reason: Unwind) -> Unwind:
        """Begin to unwind the whole pass; returns the reason, to be raised."""
        if self._stopping is None:
            self._stopping = reason
            for parked in list(self._parked):
                self._end_wait(parked, self._stopping)
            for body in self._bodies:
                body.cancel()
            self._changed.set()
        return self._stopping

    def stop(self) -> None:
        """SIGTERM: unwind as if the time were over, only quicker."""
        self._unwind_s = min(self._unwind_s, _UNWIND_QUICKLY_S)
        self.unwind(Stopped())

    @property
    def lease_ends_s(self) -> float:
        return self._held.lease.ends_s

    async def park(
        self, wake_at: datetime | None, probe: Probe | None = None, *, put_off: bool = False
    ) -> None:
        """Stay here until `wake_at`, or until `probe` is true after a signal."""
        self.check()
        if self.unwinding:
            raise Cancelled
        branch = CURRENT.get()
        parked = Parked(branch, wake_at or FAR_FUTURE, probe, put_off)
        self._parked.add(parked)
        self._changed.set()
        try:
            await parked.go_on
        finally:
            self._parked.discard(parked)

    async def permit(self, timeout_s: float) -> None:
        """Stay here unless a step of this length may begin now: not while pausing, and not with
        too little time left; but a fresh slice always begins one."""
        self.check()
        left_s = self._ends_s - self.clock.monotonic_s() - self.config.reserve_s
        if self.pausing or (self.begun and left_s < timeout_s):
            await self.park(self.clock.now(), put_off=True)
        self.begun = True

    async def body(self, call: Awaitable[T], timeout_s: float) -> T:
        """Run an author's code; raises StepTimedOut past `timeout_s`, what unwinds if stopped."""
        task = asyncio.ensure_future(call)
        task.add_done_callback(_look_at)
        self._bodies[task] = CURRENT.get()
        try:
            done, _ = await asyncio.wait({task}, timeout=timeout_s)
            if not done:
                raise StepTimedOut(f"It took longer than {timeout_s:g} s.", type="TimeoutError")
            if task.cancelled():
                self.check()
                raise WorkflowError("The step's own code cancelled it.")
            return task.result()
        finally:
            self._bodies.pop(task, None)
            if not task.done():
                task.cancel()

    async def persist(self, write: Callable[[], Awaitable[T]]) -> T:
        """Repeat a store call while the store does not answer, as long as the lease lasts: an
        outage must not become the failure of a step. `write` must be safe to repeat."""
        while True:
            try:
                return await write()
            except StoreUnavailable:
                if self.clock.monotonic_s() >= self._held.lease.ends_s:
                    raise self.unwind(LeaseLost()) from None
                if isinstance(self._stopping, Stopped):
                    raise
            await self.clock.sleep(_STORE_RETRY_S)

    # Branches

    def open_branches(self, count: int) -> None:
        """The branch that calls this is replaced by so many while it waits for them."""
        self._live += count - 1

    def close_branch(self, *, last: bool) -> None:
        """A branch ended; with the last one, the branch around them goes on in its place."""
        if not last:
            self._live -= 1
            self._changed.set()

    def abandon(self, branches: list[Branch]) -> None:
        """Give up these branches: whatever they wait for or do is interrupted."""
        for branch in branches:
            branch.abandoned = True
        self.journal.write_off(branch.path for branch in branches)
        for parked in list(self._parked):
            if parked.branch.given_up():
                self._end_wait(parked, Abandoned())
        for body, branch in self._bodies.items():
            if branch.given_up():
                body.cancel()

    # What the slice uses

    def poke(self) -> None:
        """The run was signalled, or its control was set: look again."""
        self._poked = True
        self._changed.set()

    async def run(self, code: Callable[[], Awaitable[Any]], path: str = "") -> Outcome:
        """Run the code until it ends or nothing in it can go on."""
        CURRENT.set(Branch(path))
        root = asyncio.create_task(self._root(code))
        try:
            while not root.done():
                await self._advance(root)
        except BaseException:
            # A crash of this slice (or its cancellation): take the author's code down with it.
            root.cancel()
            await asyncio.wait({root}, timeout=self._unwind_s)
            raise
        return root.result()

    async def _root(self, code: Callable[[], Awaitable[Any]]) -> Outcome:
        outcome: Outcome | None = None
        try:
            outcome = Outcome(Ended.RETURNED, value=await code())
        except Exception as error:
            outcome = Outcome(Ended.RAISED, error=error)
        except Unwind as reason:
            outcome = self._unwound(self._stopping or reason)
        except asyncio.CancelledError:
            if self._stopping is None:
                raise
        if self._stopping is not None:
            # Even if the author's code swallowed it.
            return self._unwound(self._stopping)
        assert outcome is not None
        return outcome

    def _unwound(self, reason: Unwind) -> Outcome:
        match reason:
            case Suspended():
                return Outcome(Ended.SUSPENDED)
            case Stopped():
                return Outcome(Ended.STOPPED)
            case NonDeterministic():
                return Outcome(Ended.NONDETERMINISTIC, detail=str(reason))
            case OverBudget():
                return Outcome(Ended.OVER_BUDGET, detail=str(reason))
            case ContinuedAsNew():
                return Outcome(Ended.CONTINUED, value=reason.input)
            case Cancelled() | Paused() | Abandoned():
                return Outcome(Ended.CONTROLLED)
            case _:
                return Outcome(Ended.LOST)

    async def _advance(self, root: asyncio.Task[Outcome]) -> None:
        self._changed.clear()
        if self._stopping is not None:
            await self._wait_for_end(root)
        elif self._poked:
            self._poked = False
            await self._look_again()
        elif self._resume_due():
            return
        elif self._parked and len(self._parked) >= self._live:
            await self._nothing_goes_on(root)
        else:
            await self._wait(root, self._earliest(), self._time_left_s())

    async def _wait_for_end(self, root: asyncio.Task[Outcome]) -> None:
        done, _ = await asyncio.wait({root}, timeout=self._unwind_s)
        if not done:
            # The author's code waits for something that is no step.
            root.cancel()
            await asyncio.wait({root}, timeout=self._unwind_s)

    def _resume_due(self) -> bool:
        now = self.clock.now()
        due = [one for one in self._parked if one.wake_at <= now and not one.put_off]
        for parked in due:
            self._end_wait(parked, None)
        return bool(due)

    async def _nothing_goes_on(self, root: asyncio.Task[Outcome]) -> None:
        earliest = self._earliest()
        left_s = self._time_left_s()
        if self.pausing or any(one.put_off for one in self._parked):
            self.unwind(Paused() if self.pausing else Stopped())
            return
        rest_s = (earliest - self.clock.now()).total_seconds()
        if rest_s <= min(self.config.warm_s, left_s):
            await self._wait(root, earliest, left_s)
            return
        match await self.persist(lambda: self._settling.suspend(earliest)):
            case Settled.DONE:
                self.unwind(Suspended())
            case Settled.LOST:
                self.unwind(LeaseLost())
            case Settled.SIGNALLED:
                await self._look_again()

    async def _look_again(self) -> None:
        # The run first, and then what its branches wait for: never the other way round.
        control = await self.persist(self._settling.reread)
        if control is Control.CANCEL:
            self.unwind(Cancelled())
            return
        # A pause lets the running steps finish.
        self.pausing = control is Control.PAUSE
        for parked in list(self._parked):
            if parked.probe is not None and await self.persist(parked.probe):
                self._end_wait(parked, None)

    async def _wait(self, root: asyncio.Task[Outcome], until: datetime, left_s: float) -> None:
        rest_s = (until - self.clock.now()).total_seconds()
        if left_s <= 0:
            self.unwind(Stopped())
            return
        changed = asyncio.ensure_future(self._changed.wait())
        timer = asyncio.ensure_future(self.clock.sleep(max(0.0, min(rest_s, left_s, 3600.0))))
        try:
            await asyncio.wait({root, changed, timer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            timer.cancel()

    def _earliest(self) -> datetime:
        return min((one.wake_at for one in self._parked), default=self.clock.now() + _LONG)

    def _time_left_s(self) -> float:
        return self._ends_s - self.config.reserve_s - self.clock.monotonic_s()

    def _end_wait(self, parked: Parked, reason: Unwind | None) -> None:
        # Off the list at once: the branch counts as going on before it gets its turn.
        self._parked.discard(parked)
        if parked.go_on.done():
            return
        if reason is None:
            parked.go_on.set_result(None)
        else:
            parked.go_on.set_exception(reason)


def _look_at(task: asyncio.Task[Any]) -> None:
    # A body that failed after it was given up has nobody left to tell.
    if not task.cancelled():
        task.exception()


_LONG: Final = timedelta(hours=1)

"""Delivers one event: to waiting runs, to workflows, to webhooks, and only then marks it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from lambent.bus import transitions
from lambent.bus.ports import Bell, NoBell, Nudges, Starts
from lambent.bus.webhooks import WebhookQueue
from lambent.clock import Clock
from lambent.dispatch import EARLY_FOR_S, Work
from lambent.due import Claimed, Database, DueDocuments, Lease, Settled
from lambent.errors import RequestError, RetryLater, StoreUnavailable
from lambent.metrics import Metric, note
from lambent.mongo import Document, guarded
from lambent.telemetry import log_fields, logger
from lambent.tracing import resumed, span
from lambent.waits import Waits

RENEW_EVERY_S: Final = 10.0
MAX_ATTEMPTS: Final = 5
_AT_ONCE: Final = 8  # below the pool of ten connections: a renewal must not queue behind the rest


class Outcome(StrEnum):
    DELIVERED = "delivered"
    UNFINISHED = "unfinished"  # out of time; the cursor is kept, and the event is due at once
    PUT_OFF = "put off"
    FAILED = "failed"
    LOST = "lost"  # someone else has the lease


class _Stage(StrEnum):
    """A part of the fan-out that is being worked on; all before it are done."""

    WAITS = "waits"
    STARTS = "starts"
    WEBHOOKS = "webhooks"


@dataclass(slots=True)
class _Fanout:
    """One delivery on its way: the event, our right to it, and how far it has come."""

    event: Document
    lease: Lease
    stage: _Stage
    after: datetime | None
    deadline_s: float
    renewed_s: float
    nudges: list[asyncio.Future[int]] = field(default_factory=list)
    queueing: asyncio.Task[list[str]] | None = None


class LeaseLost(Exception):
    """Someone else delivers this event now: write nothing more."""


class OutOfTime(Exception):
    """The function ends before the fan-out does."""


class Deliverer:
    """Hands events out; the same code for the publisher, `deliver` and a replay."""

    def __init__(
        self,
        mongo: Database,
        *,
        clock: Clock,
        runs: DueDocuments,
        starts: Starts,
        webhooks: WebhookQueue,
        nudges: Nudges,
        retention: timedelta,
        bell: Bell | None = None,
    ) -> None:
        self._bell = bell or NoBell()
        self.events = DueDocuments(mongo, transitions.EVENTS, clock=clock)
        self._clock = clock
        self._waits = Waits(mongo, clock=clock)
        self._runs = runs
        self._starts = starts
        self._webhooks = webhooks
        self._nudges = nudges
        self._retention = retention
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self._wakes = asyncio.Semaphore(_AT_ONCE)

    async def deliver_due(self, event_ids: Sequence[str], *, deadline_s: float) -> list[Outcome]:
        """Claim and deliver each, several at once, until `deadline_s` of the monotonic clock."""

        async def one(event_id: str) -> Outcome:
            async with self._at_once:
                claimed = await self.events.claim(event_id)
            if claimed is None:
                return Outcome.LOST
            return await self.deliver(claimed, deadline_s=deadline_s)

        return list(await asyncio.gather(*(one(event_id) for event_id in event_ids)))

    async def deliver(self, claimed: Claimed, *, deadline_s: float) -> Outcome:
        """Deliver an event that the caller holds the lease of, and give the lease back.

        Raises `StoreUnavailable`: the lease then lapses, and the poller finds the event.
        """
        event, lease = claimed.document, claimed.lease
        if event["claims"] > MAX_ATTEMPTS:
            return await self._set_aside(lease, "its deliverers died")
        cursor = event.get("cursor") or {}
        fanout = _Fanout(
            event,
            lease,
            stage=_Stage(cursor.get("stage", _Stage.WAITS)),
            after=cursor.get("after"),
            deadline_s=deadline_s,
            renewed_s=self._clock.monotonic_s(),
        )
        with resumed(event.get("trace")), span(f"deliver {event['type']}"):
            async with self._at_once:
                return await self._deliver(fanout)

    async def _deliver(self, fanout: _Fanout) -> Outcome:
        try:
            await self._fan_out(fanout)
        except StoreUnavailable:
            raise
        except LeaseLost:
            return Outcome.LOST
        except OutOfTime:
            return await self._hand_on(fanout)
        # A bug in a part of the fan-out must not make this event's function fail for all others.
        except Exception as problem:
            return await self._put_off(fanout, problem)
        finally:
            # Begun beside the store's work, but this function may be frozen once we return.
            if fanout.queueing is not None:
                await asyncio.gather(fanout.queueing, return_exceptions=True)
            await asyncio.gather(*fanout.nudges)
        return Outcome.DELIVERED

    async def _fan_out(self, fanout: _Fanout) -> None:
        if fanout.stage is _Stage.WAITS:
            if fanout.after is None:
                # Beside the waits, for it stands on the event alone and makes each delivery once.
                fanout.queueing = asyncio.create_task(self._webhooks.queue(fanout.event))
            await self._wake_waiting(fanout)
            fanout.stage = _Stage.STARTS
        await self._keep(fanout)
        refused: RequestError | RetryLater | None = None
        if fanout.stage is _Stage.STARTS:
            try:
                await self._starts.start_for_event(fanout.event)
                fanout.stage = _Stage.WEBHOOKS
            except StoreUnavailable:
                raise
            except (RequestError, RetryLater) as error:
                refused = error  # told below: webhooks are none of that workflow's
        await self._keep(fanout)
        queued = await (fanout.queueing or self._webhooks.queue(fanout.event))
        self._nudge(fanout, Work.WEBHOOKS, queued)
        if refused is not None:
            raise refused
        # Marked last: had it come before any part, a crash in between would lose that part.
        now = self._clock.now()
        await transitions.mark_delivered(
            self.events, fanout.lease, at=now, expire_at=now + self._retention
        )

    async def _wake_waiting(self, fanout: _Fanout) -> None:
        woken: set[str] = set()
        page = await self._waits.satisfy(fanout.event, after=fanout.after)
        while True:
            await self._wake(fanout, page.runs - woken)
            woken |= page.runs
            if page.after is None:
                break
            # Kept only after the wake: a successor begins behind this page.
            fanout.after = page.after
            await self._keep(fanout)
            page = await self._waits.satisfy(fanout.event, after=page.after)
        # Also those that a predecessor, or the run's own look-back, satisfied but did not wake.
        await self._wake(fanout, page.holders - woken, few=0)

    async def _wake(self, fanout: _Fanout, run_ids: Set[str], *, few: int = _AT_ONCE) -> None:
        """Wake them, and nudge those on whom nobody works: an owner sees the signal by itself.

        Where they are few, each has just been given the event while it waited: nearly always
        nobody works on it, and its nudge leaves beside the wake.
        """
        if not run_ids:
            return
        free: set[str] = set()

        async def wake(run_id: str) -> str | None:
            async with self._wakes:
                if await self._runs.wake(run_id, unowned=True):
                    free.add(run_id)
                    return run_id
                return run_id if await self._runs.wake(run_id) else None

        begun_s = self._clock.monotonic_s()
        wakes = asyncio.gather(*map(wake, run_ids))
        early = len(run_ids) <= few
        if early:
            self._nudge(fanout, Work.RUNS, sorted(run_ids), early=True)
        woken = {run_id for run_id in await wakes if run_id is not None}
        if not early or self._clock.monotonic_s() - begun_s > EARLY_FOR_S:
            self._nudge(fanout, Work.RUNS, sorted(free))
        # Of the others, an owner may have let go just before the wake: they are read after it.
        if owned := woken - free:
            self._nudge(fanout, Work.RUNS, sorted(await self._free(owned)))

    async def _free(self, run_ids: Set[str]) -> set[str]:
        query = {"_id": {"$in": list(run_ids)}, "lease_until": {"$lte": self._clock.now()}}
        found = await guarded(self._runs.collection.find(query, {"_id": 1}).to_list())
        return {one["_id"] for one in found}

    def _nudge(
        self, fanout: _Fanout, work: Work, ids: Sequence[str], *, early: bool = False
    ) -> None:
        if ids:
            nudge = self._nudges.nudge(work, ids, news=True, early=early)
            fanout.nudges.append(asyncio.ensure_future(nudge))

    async def _keep(self, fanout: _Fanout) -> None:
        """Between two parts: is there time left, and is the lease still good for a while?"""
        now_s = self._clock.monotonic_s()
        if now_s >= fanout.deadline_s:
            raise OutOfTime
        if now_s - fanout.renewed_s < RENEW_EVERY_S:
            return
        cursor = {"stage": fanout.stage, "after": fanout.after}
        renewed = await transitions.save_cursor(self.events, fanout.lease, cursor)
        if renewed is None:
            raise LeaseLost
        fanout.lease, fanout.renewed_s = renewed, now_s

    async def _hand_on(self, fanout: _Fanout) -> Outcome:
        cursor = {"stage": fanout.stage, "after": fanout.after}
        now = self._clock.now()
        await self.events.settle(
            fanout.lease, due_at=now, seen_signals=None, set={"cursor": cursor}
        )
        await self._nudges.nudge(Work.EVENTS, [fanout.lease.id], news=True)
        return Outcome.UNFINISHED

    async def _put_off(self, fanout: _Fanout, problem: Exception) -> Outcome:
        attempts = fanout.event.get("attempts", 0) + 1
        logger().error(
            "event delivery failed",
            exc_info=problem,
            **log_fields(event=fanout.lease.id, attempts=attempts),
        )
        if attempts >= MAX_ATTEMPTS:
            return await self._set_aside(fanout.lease, repr(problem))
        later = self._clock.now() + timedelta(seconds=2.0**attempts)
        await transitions.put_off(
            self.events, fanout.lease, attempts=attempts, problem=repr(problem), due_at=later
        )
        await self._bell.ring(later)
        return Outcome.PUT_OFF

    async def _set_aside(self, lease: Lease, problem: str) -> Outcome:
        expire_at = self._clock.now() + self._retention
        settled = await transitions.set_aside(
            self.events, lease, problem=problem, expire_at=expire_at
        )
        if settled is Settled.DONE:
            note(Metric.DELIVERIES_DEAD_LETTERED)
        return Outcome.FAILED

"""Starts the runs of schedules whose tick has come."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Protocol, assert_never

from lambent.clock import Clock
from lambent.due import Claimed, Database, DueDocuments, Settled
from lambent.errors import LambentError, StoreUnavailable
from lambent.mongo import Document
from lambent.schedules import transitions
from lambent.schedules.cron import Cron
from lambent.schedules.transitions import SCHEDULES
from lambent.telemetry import log_fields, logger
from lambent.tracing import resumed, span

# A tick this late still counts as on time: the poller comes once a minute.
ON_TIME: Final = timedelta(minutes=2)
# So many of its last runs a schedule has on record, for people who look.
RECENT: Final = 10
_RETRY: Final = timedelta(minutes=1)
_AT_ONCE: Final = 4


class CatchUp(StrEnum):
    """What becomes of ticks that were missed while nothing could run."""

    NONE = "none"
    LAST = "last"
    ALL = "all"


class Started(Protocol):
    """A run that was asked for, new or known."""

    @property
    def run(self) -> Document: ...


class TickStarts(Protocol):
    """Starts a run once by its key, and nudges for it; the engine is one."""

    async def start(
        self,
        workflow: str,
        input: Any = None,
        *,
        client: str,
        key: str | None = None,
        version: int | None = None,
    ) -> Started: ...


class Ticker:
    """Claims due schedules and starts what they ask for."""

    def __init__(self, mongo: Database, *, clock: Clock, starts: TickStarts) -> None:
        self._schedules = DueDocuments(mongo, SCHEDULES, clock=clock)
        self._clock = clock
        self._starts = starts
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    async def tick_due(self, schedule_ids: Sequence[str]) -> int:
        """Claim and tick each; returns how many runs were asked for."""

        async def one(schedule_id: str) -> int:
            async with self._at_once:
                claimed = await self._schedules.claim(schedule_id)
                if claimed is None:
                    return 0
                schedule = claimed.document
                came = schedule.get("trace") or {}
                # A trace of its own, with a link to the request that asked for all its ticks: one
                # that went on with every tick would have no end. Logs go by that request's id.
                asked = {name: text for name, text in came.items() if name == "request_id"}
                with (
                    resumed(asked),
                    span(f"tick {schedule['workflow']}", linked=came, schedule=schedule_id),
                ):
                    return await self._tick(claimed)

        return sum(await asyncio.gather(*(one(schedule_id) for schedule_id in schedule_ids)))

    async def _tick(self, claimed: Claimed) -> int:
        schedule = claimed.document
        now = self._clock.now()
        try:
            cron = Cron(schedule["cron"], schedule["timezone"])
            due = due_ticks(schedule, cron, now)
            runs = [await self._start(schedule, tick_at) for tick_at in due]
        except StoreUnavailable:
            raise
        except LambentError as error:
            return await self._put_off(claimed, error)
        recent = [*schedule.get("recent", ()), *runs][-RECENT:]
        last = {"last_tick_at": due[-1], "last_run": runs[-1], "recent": recent} if due else {}
        settled = await transitions.ticked(
            self._schedules,
            claimed.lease,
            seen_signals=schedule["signals"],
            # Only now: had it gone on before the runs exist, a crash would lose them.
            tick_at=cron.next_after(max(now, schedule["tick_at"])),
            last=last,
        )
        if settled is Settled.SIGNALLED:
            await self._schedules.release(claimed.lease)
        return len(runs)

    async def _start(self, schedule: Document, tick_at: datetime) -> str:
        started = await self._starts.start(
            schedule["workflow"],
            json.loads(schedule["input"]),
            client=schedule["client"],
            # The tick's identity is its UTC instant: the same tick is the same run.
            key=f"tick:{schedule['_id']}:{tick_at.isoformat()}",
            version=schedule["version"],
        )
        return str(started.run["_id"])

    async def _put_off(self, claimed: Claimed, error: LambentError) -> int:
        logger().error(
            "schedule cannot start its run",
            **log_fields(schedule=claimed.document["_id"], problem=error.detail),
        )
        settled = await transitions.put_off(
            self._schedules,
            claimed.lease,
            seen_signals=claimed.document["signals"],
            problem=error.detail,
            due_at=self._clock.now() + _RETRY,
        )
        if settled is Settled.SIGNALLED:
            await self._schedules.release(claimed.lease)
        return 0


def due_ticks(schedule: Document, cron: Cron, now: datetime) -> list[datetime]:
    """The instants to start runs for, the oldest first, by the schedule's catch-up policy."""
    first: datetime = schedule["tick_at"]
    if first > now:
        return []
    match CatchUp(schedule["catch_up"]):
        case CatchUp.ALL:
            return cron.latest(first, now, count=schedule["catch_up_limit"])
        case CatchUp.LAST:
            return cron.latest(first, now, count=1)
        case CatchUp.NONE:
            last = cron.latest(first, now, count=1)
            return [tick_at for tick_at in last if now - tick_at <= ON_TIME]
        case _ as never:
            assert_never(never)

"""Every state change of a schedule: each one compare-and-set.

active ↔ paused. Each change counts `signals` up, and the settle of a tick is guarded by that
count: so a tick that was being worked on cannot undo a pause or a new expression.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from lambent.clock import FAR_FUTURE
from lambent.due import DueDocuments, DueKind, Lease, Settled
from lambent.mongo import guarded

SCHEDULES: Final = DueKind("schedules")


class ScheduleStatus(StrEnum):
    ACTIVE = "active"
    PAUSED = "paused"


async def change(
    schedules: DueDocuments,
    schedule_id: str,
    *,
    seen_signals: int,
    changes: Mapping[str, Any],
    tick_at: datetime | None,
) -> bool:
    """active | paused → the status in `changes`; due at `tick_at`, or never where it is None."""
    answer = await guarded(
        schedules.collection.update_one(
            {"_id": schedule_id, "signals": seen_signals},
            {
                "$set": {**changes, "tick_at": tick_at, "due_at": tick_at or FAR_FUTURE},
                "$inc": {"signals": 1},
            },
        )
    )
    return answer.matched_count == 1


async def ticked(
    schedules: DueDocuments,
    lease: Lease,
    *,
    seen_signals: int,
    tick_at: datetime,
    last: Mapping[str, Any],
) -> Settled:
    """active → active, on to the next tick; the runs of the ticks before it exist by now."""
    changes = {**last, "tick_at": tick_at, "problem": None}
    return await schedules.settle(
        lease, due_at=tick_at, seen_signals=seen_signals, set=changes, where=_same(seen_signals)
    )


async def put_off(
    schedules: DueDocuments, lease: Lease, *, seen_signals: int, problem: str, due_at: datetime
) -> Settled:
    """active → active, the same tick again later: its run could not be started."""
    return await schedules.settle(
        lease,
        due_at=due_at,
        seen_signals=seen_signals,
        set={"problem": problem},
        where=_same(seen_signals),
    )


def _same(seen_signals: int) -> dict[str, int]:
    # `settle` leaves this guard out where the document stays due; here it must hold always.
    return {"signals": seen_signals}

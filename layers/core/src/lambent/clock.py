"""The only part that knows what time it is; tests replace it with a virtual one."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Final, Protocol

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# "Not due": far enough for every sort and range, and within what BSON and every driver can hold.
FAR_FUTURE: Final = datetime(9999, 1, 1, tzinfo=UTC)


def whole_milliseconds(at: datetime) -> datetime:
    """The instant as BSON keeps it."""
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


class Clock(Protocol):
    """Wall time, monotonic time and sleeping, from one source."""

    def now(self) -> datetime:
        """The present instant: aware, UTC, whole milliseconds (what BSON keeps)."""
        ...

    def monotonic_s(self) -> float:
        """Seconds on a clock that never goes back; only differences mean anything."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait so long without blocking the event loop."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return whole_milliseconds(datetime.now(UTC))

    def monotonic_s(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

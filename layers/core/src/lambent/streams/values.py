"""What is known about a stream beside its events."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from lambent.clock import FAR_FUTURE

# How long a stream can be read after its end.
KEPT_AFTER: Final = timedelta(minutes=10)
# The lease of a stream that a run makes: whoever has the run holds it.
RUN_LEASE: Final = "run:"
LEASE_LAPSED: Final = "The lease of the stream's readers lapsed."
_BLANK: Final = b"\n\n"


class StreamStatus(StrEnum):
    """`stopped`: somebody asked for its end, or let its readers' lease lapse."""

    LIVE = "live"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


class Dialect(StrEnum):
    """Whose rules a stream's events follow: an error after the fact is written accordingly."""

    LAMBENT = "lambent"
    COMPLETIONS = "completions"
    RESPONSES = "responses"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One stream as its document tells.

    `lease`: the owner's token, good until `lease_until` (FAR_FUTURE where something else
    guarantees the end, such as a run). `readers_until`: None, or when the readers' lease lapses,
    which they renew by `readers_lease_s` at a time. `attached`: somebody else than the first
    caller has read it. `kept_after`: how long it is kept after its end.
    """

    id: str
    client: str
    dialect: Dialect
    lease: str
    lease_until: datetime
    status: StreamStatus = StreamStatus.LIVE
    stop: bool = False
    attached: bool = False
    readers_lease_s: float | None = None
    readers_until: datetime | None = None
    kept_after: timedelta = KEPT_AFTER

    @property
    def run(self) -> str | None:
        """The run that guarantees its end, where one does."""
        return self.lease.removeprefix(RUN_LEASE) if self.lease.startswith(RUN_LEASE) else None

    @property
    def made_by_run(self) -> bool:
        return self.run is not None

    @property
    def orphaned(self) -> bool:
        """Whether it ended because its owner died: nobody wrote an end."""
        return self.status is StreamStatus.FAILED and self.lease_until != FAR_FUTURE


@dataclass(frozen=True, slots=True)
class Batch:
    """Events `first` to `last` of a stream, as written by one insert."""

    first: int
    last: int
    data: bytes

    def after(self, event: int) -> list[bytes]:
        """The events with a number above `event`."""
        pieces = [piece + _BLANK for piece in self.data.split(_BLANK)[:-1]]
        return pieces[max(0, event + 1 - self.first) :]

"""`HostBoard`: how the model hosts do, what their breakers went through, and both by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from lambent.admission.decisions import BreakerState, GateState, SlotUse, Waiter
from lambent.admission.gate import Gate
from lambent.admission.statements import statement
from lambent.errors import NotFound
from lambent.postgres import Postgres


@dataclass(frozen=True, slots=True, kw_only=True)
class HostState:
    """One model host. `breaker` is None as long as nothing ever failed there.

    `configured`: the settings name it; another one was only seen before.
    `generation_s` is how long generations held a slot lately (moving average), None before the
    first: the basis of estimated waits.
    """

    host: str
    configured: bool
    breaker: BreakerState | None
    slots: tuple[SlotUse, ...]
    waiting: tuple[Waiter, ...]
    generation_s: float | None


@dataclass(frozen=True, slots=True)
class BreakerChange:
    """A breaker's change of state; `by_hand` where a person asked for it."""

    id: int
    host: str
    at: datetime
    was: str
    state: str
    generation: int
    failures: int
    by_hand: bool


@dataclass(frozen=True, slots=True)
class ChangePage:
    """Newest first; `cursor` asks for the next page, None on the last."""

    changes: tuple[BreakerChange, ...]
    cursor: int | None


class HostBoard:
    """For admins; every call raises `StoreUnavailable`. `hosts` are those of the settings."""

    def __init__(self, postgres: Postgres, gate: Gate, *, hosts: Sequence[str]) -> None:
        self._postgres = postgres
        self._gate = gate
        self.hosts = tuple(hosts)

    async def states(self) -> tuple[HostState, ...]:
        """The hosts of the settings, then those that only Postgres still remembers."""
        state = await self._gate.state()
        rows = await self._postgres.fetch(statement("state_hosts"))
        took_s = {row.host: row.generation_s for row in rows}
        seen = [one.host for one in state.breakers] + list(took_s)
        return tuple(
            _state(host, state, took_s.get(host), configured=host in self.hosts)
            for host in dict.fromkeys((*self.hosts, *seen))
        )

    async def history(
        self, *, host: str | None = None, before: int | None = None, limit: int = 50
    ) -> ChangePage:
        """Changes of one host's breaker, or of all; kept for 90 days."""
        values = {"host": host, "before": before, "limit": limit + 1}
        rows = await self._postgres.fetch(statement("breaker_history"), values)
        changes = tuple(_change(row) for row in rows[:limit])
        return ChangePage(changes, changes[-1].id if len(rows) > limit else None)

    async def trip(self, host: str, *, open_s: float | None = None) -> None:
        """Open the breaker, for `open_s` or as long as failures would. Raises `NotFound`."""
        await self._known(host)
        await self._gate.trip(host, open_s=open_s)

    async def reset(self, host: str) -> None:
        """Close the breaker. Raises `NotFound`."""
        await self._known(host)
        await self._gate.reset(host)

    async def _known(self, host: str) -> None:
        if host not in self.hosts and all(one.host != host for one in await self.states()):
            raise NotFound(f"There is no model host {host[:200]!r}.")


def _state(
    host: str, state: GateState, generation_s: float | None, *, configured: bool
) -> HostState:
    return HostState(
        host=host,
        configured=configured,
        breaker=next((one for one in state.breakers if one.host == host), None),
        slots=tuple(one for one in state.slots if one.host == host),
        waiting=tuple(one for one in state.waiting if one.host == host),
        generation_s=generation_s,
    )


def _change(row: BreakerChange) -> BreakerChange:
    return BreakerChange(
        row.id, row.host, row.at.astimezone(UTC), row.was, row.state, row.generation,
        row.failures, row.by_hand,
    )  # fmt: skip

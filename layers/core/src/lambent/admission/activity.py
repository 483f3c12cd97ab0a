"""Counts what happens at the gate for the operators' charts, and reads it back by the hour.

To count costs a dictionary's entry. What an environment has counted goes along with the next
statement that gives something back; where none comes (everybody is refused), it is sent after an
answer, at most once in five seconds. So a refusal costs no round trip of its own, and what a killed
environment forgets is seconds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from lambent.admission.statements import statement
from lambent.clock import Clock
from lambent.errors import BreakerOpen, BudgetExceeded, LambentError, NoSlot, RateLimited
from lambent.postgres import Postgres

TALLY: Final = "lambent.tally(%s)"
# Seconds; above the last there is one more place.
FIRST_EDGES_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)
_EVERY_S: Final = 5.0
_MOST_CLIENTS: Final = 500
_OTHERS: Final = "(others)"
_NUMBERS: Final = ("chats", "tokens", "first_tokens", "first_s", "slowest_s")
_REFUSALS: Final[Sequence[tuple[type[LambentError], str]]] = (
    (BudgetExceeded, "over_budget"),
    (RateLimited, "over_limit"),
    (NoSlot, "no_slot"),
    (BreakerOpen, "breaker_open"),
)

Counts = dict[str, dict[str, Any]]


class Tally:
    """What one environment has counted and not told yet."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counts: Counts = {}
        self._told_s = clock.monotonic_s() - _EVERY_S

    def chat(self, client: str, *, first_s: float | None, tokens: int) -> None:
        """A turn that was answered, as far as it came; `first_s`: until its first token."""
        counts = self._of(client)
        counts["chats"] += 1
        counts["tokens"] += tokens
        if first_s is not None:
            counts["first_tokens"] += 1
            counts["first_s"] += first_s
            counts["slowest_s"] = max(counts["slowest_s"], first_s)
            counts["first_within"][_place_of(first_s)] += 1

    def refused(self, client: str, error: LambentError) -> None:
        """A refusal; only those that are limits of ours are counted."""
        for kind, name in _REFUSALS:
            if isinstance(error, kind):
                self._of(client)[name] += 1
                return

    @property
    def due(self) -> bool:
        """Whether there is something that should not wait for company."""
        waited_s = self._clock.monotonic_s() - self._told_s
        return bool(self._counts) and waited_s >= _EVERY_S

    def take(self) -> Counts:
        """All that is untold; whoever cannot tell it gives it back."""
        taken, self._counts = self._counts, {}
        if taken:
            self._told_s = self._clock.monotonic_s()
        return taken

    def give_back(self, counts: Counts) -> None:
        """It was not told, or nobody knows: then it may count twice."""
        for client, more in counts.items():
            there = self._of(client)
            for name, value in more.items():
                match name:
                    case "first_within":
                        pairs = zip(there[name], value, strict=True)
                        there[name] = [one + other for one, other in pairs]
                    case "slowest_s":
                        there[name] = max(there[name], value)
                    case _:
                        there[name] += value

    def _of(self, client: str) -> dict[str, Any]:
        if client not in self._counts and len(self._counts) >= _MOST_CLIENTS:
            client = _OTHERS
        if client not in self._counts:
            numbers = dict.fromkeys((*_NUMBERS, *(name for _, name in _REFUSALS)), 0)
            places = [0] * (len(FIRST_EDGES_S) + 1)
            self._counts[client] = {**numbers, "first_within": places}
        return self._counts[client]


def parameter(counts: Counts) -> str:
    """The parameter of `TALLY`."""
    return json.dumps([{"client": client, **one} for client, one in counts.items()])


def _place_of(first_s: float) -> int:
    return sum(1 for edge_s in FIRST_EDGES_S if first_s > edge_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """One hour of all clients, or all hours, where `at` is the first; the shares of first tokens
    are in seconds, None without any."""

    at: datetime
    chats: int
    tokens: int
    first_tokens: int
    first_mean_s: float | None
    first_half_s: float | None
    first_most_s: float | None
    slowest_s: float | None
    over_limit: int
    over_budget: int
    no_slot: int
    breaker_open: int


@dataclass(frozen=True, slots=True)
class RefusedClient:
    """A client, and how often it met each limit."""

    client: str
    over_limit: int
    over_budget: int
    no_slot: int
    breaker_open: int


class ActivityReports:
    """Reads what `Tally` told; raises `StoreUnavailable`."""

    def __init__(self, postgres: Postgres, *, clock: Clock) -> None:
        self._postgres = postgres
        self._clock = clock

    async def hours(self, count: int) -> tuple[tuple[Hour, ...], Hour]:
        """The last so many hours, the present one last, those without anything too; and all of
        them together."""
        since, last = self._span(count)
        rows = await self._postgres.fetch(
            statement("activity_hours"), {"since": since, "last": last}
        )
        found = {row.hour: row for row in rows}
        instants = (since + timedelta(hours=n) for n in range(count))
        return tuple(_hour(at, found.get(at)) for at in instants), _hour(since, found.get(None))

    async def refused(self, count: int, *, limit: int = 5) -> tuple[RefusedClient, ...]:
        """The clients that met limits most often in that time."""
        since, last = self._span(count)
        params = {"since": since, "last": last, "limit": limit}
        rows = await self._postgres.fetch(statement("activity_refused"), params)
        return tuple(RefusedClient(*row) for row in rows)

    def _span(self, count: int) -> tuple[datetime, datetime]:
        last = self._clock.now().replace(minute=0, second=0, microsecond=0)
        return last - timedelta(hours=count - 1), last


def _hour(at: datetime, row: Any) -> Hour:
    """Of a row; None, or sums of no rows, where there was nothing."""

    def of(name: str) -> int:
        return int(getattr(row, name, None) or 0)

    firsts = of("first_tokens")
    within = [one or 0 for one in row.first_within] if firsts else []
    return Hour(
        at=at,
        chats=of("chats"),
        tokens=of("tokens"),
        first_tokens=firsts,
        first_mean_s=row.first_s / firsts if firsts else None,
        first_half_s=_share(within, 0.5, row.slowest_s) if firsts else None,
        first_most_s=_share(within, 0.95, row.slowest_s) if firsts else None,
        slowest_s=row.slowest_s if firsts else None,
        over_limit=of("over_limit"),
        over_budget=of("over_budget"),
        no_slot=of("no_slot"),
        breaker_open=of("breaker_open"),
    )


def _share(within: Sequence[int], share: float, slowest_s: float) -> float:
    """Within how many seconds this share of the first tokens came, between two edges by line."""
    wanted, passed = share * sum(within), 0
    edges = (0.0, *FIRST_EDGES_S, max(slowest_s, FIRST_EDGES_S[-1]))
    for place, count in enumerate(within):
        if count and passed + count >= wanted:
            low, high = edges[place], edges[place + 1]
            return min(slowest_s, low + (high - low) * (wanted - passed) / count)
        passed += count
    return slowest_s

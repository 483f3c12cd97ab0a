"""What an author may say about retries and about how many runs go on at once."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lambent.errors import ConfigError

# Says which group a run belongs to, from its input; None: all runs of the workflow are one group.
KeyOf = Callable[[Any], str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often a step is tried, and how long it rests between: exponential, with full jitter."""

    attempts: int = 5
    first_s: float = 1.0
    factor: float = 2.0
    cap_s: float = 60.0
    jitter: bool = True

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.first_s < 0 or self.factor < 1 or self.cap_s < 0:
            raise ConfigError("A retry needs attempts >= 1, first_s >= 0, factor >= 1, cap_s >= 0.")

    def delay_s(self, attempt: int) -> float:
        """The rest after the failed attempt of this number (from 1)."""
        longest_s = min(self.cap_s, self.first_s * self.factor ** min(attempt - 1, 64))
        # Jitter spreads a herd of runs that failed together; no secret hangs on it.
        return random.uniform(0, longest_s) if self.jitter else longest_s


NO_RETRY = Retry(attempts=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Concurrency:
    """At most `limit` runs of a group between their start and their end.

    Runs that wait hear of a raised limit with the first slice of any run after its deploy. Under a
    lowered one none begins until enough have ended.
    """

    limit: int
    key: KeyOf = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """At most `limit` runs of a group start in each window of `period_s`; others wait.

    A changed limit or period counts anew. Runs that wait by then keep the window they were to
    start in, unless they find it full at the new limit.
    """

    limit: int
    period_s: float
    key: KeyOf = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Debounce:
    """A start waits `period_s`; another of its group meanwhile takes its place and waits anew,
    but never past `longest_s` after the first."""

    period_s: float
    key: KeyOf = None
    longest_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Starts of a group are gathered into one run, whose input is the list of their inputs: at
    `size` of them, or `timeout_s` after the first."""

    size: int
    timeout_s: float
    key: KeyOf = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Singleton:
    """One run of a group at a time: another start is skipped (it answers the run that is there),
    or with `replace` cancels that one and takes its place. A run that is retried or restarted after
    its end takes the place again; it is refused while another run has it."""

    key: KeyOf = None
    replace: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """The flow control of one workflow. Debounce, batch and singleton exclude each other."""

    concurrency: Concurrency | None = None
    rate_limit: RateLimit | None = None
    debounce: Debounce | None = None
    batch: Batch | None = None
    singleton: Singleton | None = None

    def problems(self) -> list[str]:
        found = []
        if sum(part is not None for part in (self.debounce, self.batch, self.singleton)) > 1:
            found.append("only one of debounce, batch and singleton may be set")
        if self.concurrency and self.concurrency.limit < 1:
            found.append("concurrency needs a limit of at least 1")
        if self.rate_limit and (self.rate_limit.limit < 1 or self.rate_limit.period_s <= 0):
            found.append("rate_limit needs a limit of at least 1 and a period above 0")
        if self.batch and (self.batch.size < 1 or self.batch.timeout_s < 0):
            found.append("batch needs a size of at least 1 and a timeout of at least 0")
        return found


def group_of(key: KeyOf, value: Any) -> str:
    """The group's name; the empty text is the group of all."""
    return "" if key is None else str(key(value))


def event_input(event: Mapping[str, Any]) -> dict[str, Any]:
    """What a run that an event started gets as its input: the event's own attributes."""
    names = ("id", "source", "type", "subject", "time", "data")
    return {name: event.get(name) for name in names}

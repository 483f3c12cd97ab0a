"""The values that go into and come out of the gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from lambent.errors import LambentError
from lambent.model_names import canonical
from lambent.setting_values import ModelPrice
from lambent.settings import Settings


class Scope(StrEnum):
    """What a key may reach. `admin` includes `admin:read`, and nothing else."""

    CHAT = "chat"
    RUNS = "runs"
    EVENTS = "events"
    ADMIN = "admin"
    ADMIN_READ = "admin:read"


class Outcome(StrEnum):
    """How a model call ended, as far as the breaker is concerned."""

    SUCCESS = "success"
    FAILURE = "failure"  # connect error, timeout, 5xx, broken stream
    REFUSED = "refused"  # 4xx: the host answered, and is well
    BUSY = "busy"  # Ollama's own queue is full
    ABANDONED = "abandoned"  # the client left


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionConfig:
    """The numbers of the gate. Times in seconds."""

    auth_enabled: bool = True
    limit: int = 100
    window_s: float = 60.0
    breaker_failures: int = 5
    breaker_open_s: float = 30.0
    breaker_successes: int = 3
    max_inflight: int = 4
    lease_s: float = 30.0  # of a slot and of the probe; renew every third of it
    ticket_lease_s: float = 3.0
    poll_s: float = 0.2
    slot_wait_s: float = 10.0
    prices: Mapping[str, ModelPrice] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings) -> AdmissionConfig:
        """The numbers that the deployment's settings name."""
        return cls(
            auth_enabled=settings.auth_enabled,
            limit=settings.rate_limit_max_requests,
            breaker_failures=settings.breaker_failures,
            breaker_open_s=settings.breaker_open_s,
            breaker_successes=settings.breaker_successes,
            max_inflight=settings.ollama_max_inflight,
            slot_wait_s=settings.slot_wait_s,
            prices={canonical(price.model): price for price in settings.model_prices},
        )


@dataclass(frozen=True, slots=True)
class Candidates:
    """Hosts that may be asked, the preferred one first; `loaded` have the model ready."""

    hosts: tuple[str, ...]
    loaded: tuple[str, ...] = ()

    def without(self, host: str | None) -> Candidates:
        """The others."""
        return Candidates(
            tuple(one for one in self.hosts if one != host),
            tuple(one for one in self.loaded if one != host),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionRequest:
    """One question to the gate.

    `scope` None: any good key may; the caller looks at the principal's scopes itself.
    `host` is set where a model is going to be called: then the breaker is asked, and with `slot`
    a model slot is taken. Of several hosts in `among`, in its place, the best is chosen.
    `limited=False` leaves the client's limit alone (pages, polling); `counted` is the limit where
    the same request has taken from it before. `leaving`: a reader only says that it goes away,
    which a page may that has just signed out. `on_behalf_of` names a client whom trusted code has
    already established (a step of its run): neither key nor limit is looked at, nor, where it is
    for a turn that has `begun`, its budget.
    """

    credential: str | None
    scope: Scope | None
    agent_exists: bool = True
    host: str | None = None
    among: Candidates | None = None
    slot: bool = False
    limited: bool = True
    counted: LimitState | None = None
    leaving: bool = False
    on_behalf_of: str | None = None
    begun: bool = False

    @classmethod
    def for_client(cls, client: str, among: Candidates, *, begun: bool = False) -> AdmissionRequest:
        """A slot at one of these hosts, for a client whom trusted code has established."""
        return cls(
            credential=None, scope=None, among=among, slot=True, on_behalf_of=client, begun=begun
        )

    @property
    def hosts(self) -> tuple[str, ...]:
        """The host, or those to choose from; none where no model is called."""
        if self.among is not None:
            return self.among.hosts
        return () if self.host is None else (self.host,)

    def __repr__(self) -> str:
        # Requests end up in tracebacks; credentials must not.
        return f"AdmissionRequest(scope={self.scope!s}, hosts={self.hosts!r})"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. `key_id` is None for an anonymous caller and for trusted code."""

    key_id: str | None
    key_name: str | None
    client: str
    scopes: frozenset[str]

    def may(self, scope: Scope) -> bool:
        """Whether the scope is held."""
        return scope in self.scopes or (
            scope is Scope.ADMIN_READ and Scope.ADMIN.value in self.scopes
        )


@dataclass(frozen=True, slots=True)
class BudgetState:
    """A budget at its edge. `limit` and `used` are tokens, or money as `unit` says.

    `level` is soft or hard, `kind` client or key, `period` day or month (UTC's).
    """

    level: str
    kind: str
    owner: str
    period: str
    unit: str
    limit: float
    used: float
    resets_in_s: float


@dataclass(frozen=True, slots=True)
class LimitState:
    """A client's limit after this request: `reset_s` until it is whole again.

    `budget` is a soft one that the client, or its key, has passed.
    """

    quota: int
    window_s: float
    remaining: int
    reset_s: float
    budget: BudgetState | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """What must be given back with `Gate.finish`: a slot or the probe, and the right to judge.

    `host` is None where no model is called: then there is nothing to give back. `judged` is the
    verdict that `Gate.verdict` booked.
    """

    host: str | None
    token: str
    generation: int = 0
    slot: int | None = None
    probe: bool = False
    judged: Outcome | None = None


@dataclass(frozen=True, slots=True)
class Admitted:
    """Go on, then `Gate.finish(grant, outcome)`."""

    principal: Principal
    limit: LimitState | None
    grant: Grant


@dataclass(frozen=True, slots=True)
class Queued:
    """All slots are taken; `position` counts from 1. Go on with `Gate.wait`, or `Gate.leave`.

    With several hosts in `among` any may serve it; `host` is where its place is the nearest.
    """

    principal: Principal
    limit: LimitState | None
    ticket: str
    host: str
    position: int
    estimated_wait_s: float
    among: Candidates | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """Answer with the error; `limit` is set where the limit had been looked at.

    `principal` is None where the key was not good.
    """

    error: LambentError
    limit: LimitState | None
    principal: Principal | None = None


Decision = Admitted | Queued | Refused


@dataclass(frozen=True, slots=True)
class BreakerState:
    """One host's breaker. `state` is closed, open or half_open."""

    host: str
    state: str
    generation: int
    failures: int
    successes: int
    opens_in_s: float | None  # until a probe may be taken, while open
    probing: bool
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class SlotUse:
    """A model slot in use."""

    host: str
    number: int
    client: str
    held_s: float
    lease_left_s: float


@dataclass(frozen=True, slots=True)
class Waiter:
    """A live ticket, in the order of service."""

    host: str
    client: str
    position: int


@dataclass(frozen=True, slots=True)
class GateState:
    """What a dashboard shows of the gate."""

    breakers: tuple[BreakerState, ...]
    slots: tuple[SlotUse, ...]
    waiting: tuple[Waiter, ...]

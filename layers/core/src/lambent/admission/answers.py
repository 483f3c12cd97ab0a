"""Turns what the database functions answer into decisions and errors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, assert_never

from lambent.admission.decisions import (
    AdmissionRequest,
    Admitted,
    BudgetState,
    Decision,
    Grant,
    LimitState,
    Outcome,
    Principal,
    Queued,
    Refused,
    Scope,
)
from lambent.errors import (
    BreakerOpen,
    BudgetExceeded,
    Forbidden,
    LambentError,
    NoSlot,
    RateLimited,
    Unauthenticated,
    UnknownAgent,
)

ALL_SCOPES: Final = frozenset(scope.value for scope in Scope)


def read_decision(
    row: Sequence[str | None],
    *,
    request: AdmissionRequest,
    key_id: str | None,
    token: str,
    window_s: float,
) -> Decision:
    """What `lambent.decide` answered: twelve texts, in the order of its last statement.

    A thirteenth is the host that `lambent.decide_among` chose.
    """
    host = row[12] if len(row) > 12 else next(iter(request.hosts), None)
    verdict, client, name, scopes, quota, tat_s, retry_s, generation, slot, place, wait_s = row[:11]
    if verdict == "unauthenticated":
        return Refused(Unauthenticated(), None)
    held = ALL_SCOPES if key_id is None else frozenset((scopes or "").split())
    principal = Principal(key_id, name, client or "", held)
    limit = request.counted
    if tat_s is not None and quota is not None:
        limit = _limit(int(quota), float(tat_s), window_s=window_s)
    budget = None if row[11] is None else read_budget(row[11])
    if verdict == "over_budget" and budget is not None:
        return Refused(over_budget(budget), limit, principal)
    if limit is not None and budget is not None:
        limit = replace(limit, budget=budget)
    if verdict in {"admitted", "probe"}:
        grant = Grant(
            host=host,
            token=token,
            generation=int(generation or 0),
            slot=None if slot is None else int(slot),
            probe=verdict == "probe",
        )
        return Admitted(principal, limit, grant)
    if verdict == "queued" and host is not None:
        among = request.among if len(row) > 12 else None
        return Queued(principal, limit, token, host, int(place or 1), float(wait_s or 0), among)
    return Refused(_error(verdict, float(retry_s or 0), scope=request.scope), limit, principal)


def read_look(row: Any, *, queued: Queued) -> Decision:
    """What `lambent.await_slot`, or `await_among`, answered to one who waits."""
    host = queued.host if queued.among is None else row.r_host
    match row.r_verdict:
        case "queued":
            return replace(
                queued, host=host, position=row.r_place, estimated_wait_s=row.r_estimated_s
            )
        case "admitted" | "probe":
            grant = Grant(
                host=host,
                token=queued.ticket,
                generation=row.r_generation or 0,
                slot=row.r_slot,
                probe=row.r_verdict == "probe",
            )
            return Admitted(queued.principal, queued.limit, grant)
        case _:
            return Refused(
                _breaker_open(row.r_retry_after_s or 0.0), queued.limit, queued.principal
            )


def read_budget(text: str) -> BudgetState:
    """What `lambent.budget_text` wrote."""
    return BudgetState(**json.loads(text))


def over_budget(budget: BudgetState) -> BudgetExceeded:
    """The error of a hard budget that is used up."""
    shown = {
        "kind": budget.kind,
        "period": budget.period,
        "unit": budget.unit,
        "limit": budget.limit,
        "used": budget.used,
    }
    return BudgetExceeded(
        f"The {budget.kind}'s {budget.unit} for this {budget.period} are used up: "
        f"{budget.used:g} of {budget.limit:g}.",
        retry_after_s=max(1.0, budget.resets_in_s),
        fields={"budget": shown},
    )


def waited_too_long(queued: Queued) -> Refused:
    """No slot in time: when to come back, and how far it had come."""
    error = NoSlot(
        f"All model slots are taken; the place in the queue was {queued.position}.",
        retry_after_s=max(1.0, queued.estimated_wait_s),
        fields={
            "position": queued.position,
            "estimated_wait_s": round(queued.estimated_wait_s, 1),
        },
    )
    return Refused(error, queued.limit, queued.principal)


def result_of(outcome: Outcome) -> str:
    """What the outcome says about the host: success, failure, or none."""
    match outcome:
        case Outcome.SUCCESS | Outcome.REFUSED:
            return "success"
        case Outcome.FAILURE:
            return "failure"
        case Outcome.BUSY | Outcome.ABANDONED:
            return "none"
        case _:
            assert_never(outcome)


def _limit(quota: int, tat_s: float, *, window_s: float) -> LimitState:
    # What fits between the theoretical arrival time and the window's end; after a refusal that is
    # less than one.
    left = int((window_s - max(tat_s, 0.0)) / window_s * quota + 1e-6)
    return LimitState(quota, window_s, max(0, left), max(0.0, tat_s))


def _error(verdict: str | None, retry_s: float, *, scope: Scope | None) -> LambentError:
    match verdict:
        case "forbidden":
            return Forbidden(f"This key does not have the scope {scope}.")
        case "rate_limited":
            return RateLimited(retry_after_s=max(1.0, retry_s))
        case "unknown_agent":
            return UnknownAgent()
        case "breaker_open":
            return _breaker_open(retry_s)
        case _:
            raise AssertionError(f"lambent.decide answered {verdict!r}")


def _breaker_open(retry_s: float) -> BreakerOpen:
    return BreakerOpen(retry_after_s=max(1.0, retry_s))

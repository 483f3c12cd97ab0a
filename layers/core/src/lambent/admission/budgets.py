"""`BudgetStore`: what a client or a key may use in a day or a month."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

from lambent.admission.statements import statement
from lambent.errors import NotFound, Unprocessable
from lambent.postgres import Postgres

_MOST: Final = 1e15
_LONGEST_OWNER: Final = 100
_MOST_LISTED: Final = 1000


class Kind(StrEnum):
    """Whose budget it is."""

    CLIENT = "client"
    KEY = "key"


class Period(StrEnum):
    """How long it lasts, in UTC."""

    DAY = "day"
    MONTH = "month"


class Unit(StrEnum):
    """What is counted; money is that of the deployment's prices."""

    TOKENS = "tokens"
    MONEY = "money"


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetEdges:
    """One budget: past `soft` callers are warned, at `hard` they are refused."""

    period: Period
    unit: Unit
    soft: float | None = None
    hard: float | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """A budget as it stands in its present period."""

    kind: Kind
    owner: str
    client: str
    period: Period
    unit: Unit
    soft: float | None
    hard: float | None
    used: float
    resets_in_s: float


class BudgetStore:
    """Budgets in Postgres; every call raises `StoreUnavailable`.

    They count what `lambent.book_usage` has booked, also from before the budget was set. Admission
    looks at them; a turn that has begun is let finish.
    """

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def put(self, kind: Kind, owner: str, budgets: Collection[BudgetEdges]) -> str:
        """Make these the owner's only budgets; none takes all away. Returns their client.

        Raises `NotFound` for a key that there is not, `Unprocessable` for senseless edges.
        """
        check_budgets(owner, budgets)
        values = {
            "kind": kind.value,
            "owner": owner,
            "budgets": json.dumps([asdict(one) for one in budgets]),
        }
        row = await self._postgres.fetch_one(statement("budget_put"), values)
        if row.client is None:
            raise NotFound("No such key.")
        return str(row.client)

    async def list(
        self, *, client: str | None = None, key: str | None = None
    ) -> tuple[Budget, ...]:
        """Of all clients or of one, and then of its keys or of one of them ("": of none)."""
        values: Mapping[str, Any] = {"client": client, "key": key, "limit": _MOST_LISTED}
        rows = await self._postgres.fetch(statement("budget_list"), values)
        return tuple(
            Budget(
                Kind(row.kind), row.owner, row.client, Period(row.period), Unit(row.unit),
                row.soft, row.hard, row.used, row.resets_in_s,
            )
            for row in rows
        )  # fmt: skip


def check_budgets(owner: str, budgets: Collection[BudgetEdges]) -> None:
    """Raises `Unprocessable` that names each senseless field."""
    problems: dict[str, str] = {}
    if not 1 <= len(owner) <= _LONGEST_OWNER or not owner.isprintable():
        problems["owner"] = f"must be 1 to {_LONGEST_OWNER} printable characters"
    if len({(one.period, one.unit) for one in budgets}) < len(budgets):
        problems["budgets"] = "must hold one budget at most for each period and unit"
    for index, one in enumerate(budgets):
        edges = [edge for edge in (one.soft, one.hard) if edge is not None]
        if not edges or not all(0 <= edge <= _MOST for edge in edges) or edges != sorted(edges):
            problems[f"budgets.{index}"] = "must have soft, hard or both, from 0 on, soft the less"
    if problems:
        errors = [{"field": field, "message": said} for field, said in problems.items()]
        raise Unprocessable(f"Not valid: {', '.join(problems)}.", fields={"errors": errors})

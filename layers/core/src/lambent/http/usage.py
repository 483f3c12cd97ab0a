"""Usage and budgets over HTTP: admins see and set all, everyone else sees their own."""

# No postponed annotations here: FastAPI has to see the dependencies made inside the function.

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import date, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from lambent.admission.budgets import Budget, BudgetEdges, BudgetStore, Kind, Period, Unit
from lambent.admission.decisions import Principal, Scope
from lambent.admission.reports import MOST_ROWS, GroupBy, UsageFilter, UsageReports, UsageRow
from lambent.clock import Clock
from lambent.errors import Forbidden, RequestError, Unprocessable

_JSON_ROWS = 1000
# An answer of a buffered function holds six megabytes; a file that is cut would look whole.
_CSV_ROWS = 60_000
_CSV_CHARS = 4_000_000
# How far back a report goes that says no first day: it reads every day that it sums.
_DAYS = 30
# Spreadsheets run what begins like this.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class UsageView(BaseModel):
    """One group of use; what it is not grouped by is null."""

    day: date | None
    month: str | None = Field(examples=["2026-11"])
    client: str | None
    key: str | None = Field(description="The key's id; empty for runs and anonymous callers.")
    agent: str | None = Field(description="Empty where the model itself was asked.")
    model: str | None
    requests: int = Field(description="Calls that the model answered.")
    broken: int = Field(
        description="Those of them that ended before the model server told their tokens."
    )
    prompt_tokens: int
    completion_tokens: int = Field(description="As told by the server; of broken ones, pieces.")
    estimated_tokens: int = Field(description="Stands for the prompts of broken ones.")
    total_tokens: int = Field(description="The sum of the three, which budgets count.")
    model_s: float
    cost: float = Field(description="By `MODEL_PRICES` as they were when it was used.")


class UsageList(BaseModel):
    """A report."""

    from_day: date = Field(
        serialization_alias="from", description="Its first day: as asked, or 30 days with its last."
    )
    to_day: date | None = Field(
        serialization_alias="to", description="Its last day: as asked; null for the present one."
    )
    rows: list[UsageView]
    total: UsageView
    truncated: bool = Field(description="Whether there are more groups than are shown.")


class EdgesBody(BaseModel):
    """One budget to set."""

    model_config = ConfigDict(extra="forbid")

    period: Period
    unit: Unit
    soft: float | None = Field(default=None, ge=0, description="Past it, answers warn.")
    hard: float | None = Field(default=None, ge=0, description="At it, calls are refused.")


class BudgetsBody(BaseModel):
    """All budgets of one owner; an empty list takes them away."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"budgets": [{"period": "month", "unit": "money", "soft": 40, "hard": 50}]}
            ]
        },
    )

    budgets: list[EdgesBody] = Field(max_length=4)


class BudgetView(BaseModel):
    """A budget and what is used of it in its present period (UTC)."""

    kind: Kind
    owner: str = Field(description="The client's name, or the key's id.")
    client: str
    period: Period
    unit: Unit
    soft: float | None
    hard: float | None
    used: float
    resets_in_s: float


class BudgetList(BaseModel):
    """Budgets, by client."""

    budgets: list[BudgetView]


def edges_of(bodies: Sequence[EdgesBody]) -> list[BudgetEdges]:
    """What the store takes."""
    return [
        BudgetEdges(period=one.period, unit=one.unit, soft=one.soft, hard=one.hard)
        for one in bodies
    ]


def usage_router(
    reports: UsageReports,
    budgets: BudgetStore,
    authorize: Callable[[Scope], Callable[..., Any]],
    *,
    clock: Clock,
) -> APIRouter:
    """`/usage` and `/budgets`; any good key reads its client's, `admin:read` all, `admin` sets."""
    router = APIRouter(tags=["usage"])
    anyone = Annotated[Principal, Depends(_caller)]
    admin = Annotated[Principal, Depends(authorize(Scope.ADMIN))]

    @router.get("/usage", responses={200: {"content": {"text/csv": {}}}})
    async def get_usage(
        request: Request,
        caller: anyone,
        from_day: Annotated[date | None, Query(alias="from", description=_FIRST)] = None,
        to_day: Annotated[date | None, Query(alias="to", description=_LAST)] = None,
        client: Annotated[str | None, Query(max_length=100)] = None,
        key: Annotated[str | None, Query(max_length=64)] = None,
        agent: Annotated[str | None, Query(max_length=200)] = None,
        model: Annotated[str | None, Query(max_length=200)] = None,
        group_by: Annotated[str, Query(description=_GROUPS, examples=["day,model"])] = "day",
        format: Annotated[str | None, Query(pattern="^(json|csv)$")] = None,
        limit: Annotated[int | None, Query(ge=1, le=MOST_ROWS, description=_LIMIT)] = None,
    ) -> UsageList:
        """What was used, in days of UTC; as CSV with `Accept: text/csv` or `format=csv`."""
        groups = _groups(group_by)
        first = from_day or _days_before(to_day or clock.now().date())
        wanted = UsageFilter(
            from_day=first, to_day=to_day, client=_whose(caller, client), key=key,
            agent=agent, model=model,
        )  # fmt: skip
        accepted = request.headers.get("accept", "")
        if format == "csv" or (format is None and "text/csv" in accepted):
            rows = await reports.rows(wanted, by=groups, limit=limit or _CSV_ROWS + 1)
            return _csv(rows, groups)  # type: ignore[return-value]  # FastAPI passes it through
        most = limit or _JSON_ROWS
        rows = await reports.rows(wanted, by=groups, limit=most + 1)
        total = await reports.rows(wanted, by=())
        return UsageList(
            from_day=first,
            to_day=to_day,
            rows=[_view(one) for one in rows[:most]],
            total=_view(total[0]) if total else _view(_NOTHING),
            truncated=len(rows) > most,
        )

    @router.get("/budgets")
    async def list_budgets(
        caller: anyone, client: Annotated[str | None, Query(max_length=100)] = None
    ) -> BudgetList:
        """Budgets with what is used of them."""
        own = None if caller.may(Scope.ADMIN_READ) else caller.key_id or ""
        found = await budgets.list(client=_whose(caller, client), key=own)
        return BudgetList(budgets=[budget_view(one) for one in found])

    @router.put("/budgets/{kind}/{owner:path}")
    async def set_budgets(kind: Kind, owner: str, body: BudgetsBody, _: admin) -> BudgetList:
        """Make these the only budgets of a client or a key."""
        client = await budgets.put(kind, owner, edges_of(body.budgets))
        # Its client's alone: a listing of all ends somewhere.
        found = await budgets.list(client=client, key=owner if kind is Kind.KEY else "")
        mine = [one for one in found if (one.kind, one.owner) == (kind, owner)]
        return BudgetList(budgets=[budget_view(one) for one in mine])

    @router.delete("/budgets/{kind}/{owner:path}", status_code=204)
    async def delete_budgets(kind: Kind, owner: str, _: admin) -> None:
        """Take all budgets of a client or a key away."""
        await budgets.put(kind, owner, [])

    return router


_LIMIT = f"Left out: {_JSON_ROWS:,} groups in JSON, all of them as CSV."
_FIRST = f"The first day. Left out: so that it is {_DAYS} days with the last."
_LAST = "The last day. Left out: the present one."
_GROUPS = f"One or more of {', '.join(GroupBy)}, with commas between them; empty for one sum."
_NOTHING = UsageRow(None, None, None, None, None, None, 0, 0, 0, 0, 0, 0.0, 0.0)


def _days_before(last: date) -> date:
    # The calendar begins with the year 1.
    return last - min(timedelta(days=_DAYS - 1), last - date.min)


async def _caller(request: Request) -> Principal:
    principal: Principal = request.state.principal
    return principal


def _whose(caller: Principal, client: str | None) -> str | None:
    """The client whose figures are shown; None for all."""
    if caller.may(Scope.ADMIN_READ):
        return client
    if client not in {None, caller.client}:
        raise Forbidden("Only a key with the scope 'admin:read' sees other clients.")
    return caller.client


def _groups(text: str) -> list[GroupBy]:
    names = [part.strip() for part in text.split(",") if part.strip()]
    try:
        return [GroupBy(name) for name in dict.fromkeys(names)]
    except ValueError:
        raise RequestError(f"group_by must be {_GROUPS[0].lower()}{_GROUPS[1:]}") from None


def _view(row: UsageRow) -> UsageView:
    return UsageView(**asdict(row), total_tokens=row.total_tokens)


def budget_view(budget: Budget) -> BudgetView:
    """As it is shown."""
    return BudgetView(**asdict(budget))


def _csv(rows: Sequence[UsageRow], groups: Sequence[GroupBy]) -> Response:
    hidden = {one.value for one in GroupBy} - {one.value for one in groups}
    names = [name for name in UsageView.model_fields if name not in hidden]
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(names)
    for row in rows:
        writer.writerow([_cell(getattr(row, name)) for name in names])
    text = out.getvalue()
    if len(rows) > _CSV_ROWS or len(text) > _CSV_CHARS:
        raise Unprocessable("That is more than one file can hold: ask for fewer days at once.")
    headers = {"content-disposition": 'attachment; filename="usage.csv"'}
    return Response(text, media_type="text/csv", headers=headers)


def _cell(value: object) -> object:
    text = isinstance(value, str) and value.startswith(_FORMULA)
    return f"'{value}" if text else value

"""`UsageReports`: what was used, summed by day, client, key, agent and model."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Final

from lambent.admission.statements import statement
from lambent.model_names import canonical
from lambent.postgres import Postgres

MOST_ROWS: Final = 10_000


class GroupBy(StrEnum):
    """What a report may be broken down by."""

    DAY = "day"
    MONTH = "month"
    CLIENT = "client"
    KEY = "key"
    AGENT = "agent"
    MODEL = "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageFilter:
    """Both days are included; None lets everything through."""

    from_day: date | None = None
    to_day: date | None = None
    client: str | None = None
    key: str | None = None
    agent: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One group; what it is not grouped by is None.

    `key` "" are runs and anonymous callers, `agent` "" those who asked the model itself. `broken`
    of the `requests` ended before the server told their tokens; `estimated_tokens` stand for the
    prompts of those. `cost` is in the money of the deployment's prices, as they were then.
    """

    day: date | None
    month: str | None
    client: str | None
    key: str | None
    agent: str | None
    model: str | None
    requests: int
    broken: int
    prompt_tokens: int
    completion_tokens: int
    estimated_tokens: int
    model_s: float
    cost: float

    @property
    def total_tokens(self) -> int:
        """What budgets count."""
        return self.prompt_tokens + self.completion_tokens + self.estimated_tokens


class UsageReports:
    """Reads what `lambent.book_usage` wrote; raises `StoreUnavailable`."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def rows(
        self, wanted: UsageFilter, *, by: Collection[GroupBy], limit: int = MOST_ROWS
    ) -> tuple[UsageRow, ...]:
        """At most `limit` groups, sorted by what they are grouped by."""
        params = {
            **{f"by_{one.value}": one in by for one in GroupBy},
            "from_day": wanted.from_day,
            "to_day": wanted.to_day,
            "client": wanted.client,
            "key": wanted.key,
            "agent": wanted.agent,
            "model": None if wanted.model is None else canonical(wanted.model),
            "limit": limit,
        }
        rows = await self._postgres.fetch(statement("usage_report"), params)
        # Without groups there is always one row, of nulls where nothing was used.
        return tuple(UsageRow(*row) for row in rows if row.requests is not None)

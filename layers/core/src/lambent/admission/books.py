"""The bookings of one environment: each told once, and those kept that Postgres did not take."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from lambent.admission.answers import read_budget
from lambent.admission.usage import ModelUse, TurnUse, cost_of
from lambent.metrics import Metric, note
from lambent.setting_values import ModelPrice
from lambent.telemetry import log_fields, logger

CALL: Final = "lambent.book_usage(%s, %s, %s, %s, %s, %s)"
_MOST_UNBOOKED: Final = 1000
_LONGEST_MODEL: Final = 200


class Books:
    """Writes bookings as parameters; `oldest_unbooked` is one to be tried again."""

    def __init__(self, prices: Mapping[str, ModelPrice]) -> None:
        self._prices = prices
        # By turn: its newest booking holds all earlier ones.
        self._unbooked: dict[str, TurnUse] = {}

    def params(self, used: TurnUse) -> tuple[Any, ...]:
        """The parameters of `CALL`."""
        payer = used.payer
        entries = json.dumps([self._entry(one) for one in used.models])
        return (used.turn, used.seq, payer.client, payer.key_id or "", payer.agent, entries)

    def took(self, used: TurnUse, passed: Iterable[str]) -> None:
        """It is booked; `passed` are budgets that it went over, for the operators' log."""
        kept = self._unbooked.get(used.turn)
        if kept is not None and kept.seq <= used.seq:
            del self._unbooked[used.turn]
        for text in passed:
            budget = read_budget(text)
            note(Metric.BUDGETS_PASSED)
            logger().warning(
                f"A {budget.level} budget was passed",
                **log_fields(
                    client=used.payer.client,
                    kind=budget.kind,
                    owner=budget.owner,
                    period=budget.period,
                    unit=budget.unit,
                    limit=budget.limit,
                    used=budget.used,
                ),
            )

    def missed(self, used: TurnUse) -> None:
        """Postgres did not say that it is booked: keep it, unless there are far too many."""
        kept = self._unbooked.get(used.turn)
        if kept is None or kept.seq < used.seq:
            self._unbooked[used.turn] = used
        if len(self._unbooked) > _MOST_UNBOOKED:
            lost = self._unbooked.pop(next(iter(self._unbooked)))
            logger().error("The use of a turn is lost", **log_fields(turn=lost.turn))

    def oldest_unbooked(self) -> TurnUse | None:
        """What is to be booked next, if anything is."""
        return next(iter(self._unbooked.values()), None)

    def _entry(self, use: ModelUse) -> dict[str, Any]:
        # A name with a null character or half a surrogate pair is no text to Postgres.
        name = use.model.replace("\0", "?").encode(errors="replace").decode()
        return {
            "model": name[:_LONGEST_MODEL],
            "requests": use.requests,
            "broken": use.broken,
            "prompt_tokens": use.prompt_tokens,
            "completion_tokens": use.completion_tokens,
            "estimated_tokens": use.estimated_tokens,
            "model_s": round(use.model_s, 6),
            "cost": cost_of(use, self._prices),
        }

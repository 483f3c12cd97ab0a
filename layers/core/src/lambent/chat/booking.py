"""Holds what admission granted: tells its verdict at the first token, gives it back once."""

from __future__ import annotations

import asyncio

from lambent.admission.decisions import Grant, Outcome
from lambent.admission.gate import Gate
from lambent.agents.model_access import Answered


class Booking:
    """One grant of one turn."""

    def __init__(self, gate: Gate, grant: Grant) -> None:
        self._gate = gate
        self._verdict: asyncio.Task[Grant] | None = None
        self.grant = grant

    def first_token(self) -> None:
        """The model host is well: tell the breaker now, off the token path, not at the end."""
        self._verdict = asyncio.create_task(self._gate.verdict(self.grant, Outcome.SUCCESS))

    async def finish(self, answered: Answered) -> None:
        """Give the grant back with how the model did."""
        grant = await self._verdict if self._verdict is not None else self.grant
        await self._gate.finish(grant, outcome_of(answered))


def outcome_of(answered: Answered) -> Outcome:
    """What the breaker is told."""
    match answered:
        case Answered.nothing:
            return Outcome.ABANDONED
        case Answered.success:
            return Outcome.SUCCESS
        case Answered.refused:
            return Outcome.REFUSED
        case Answered.busy:
            return Outcome.BUSY
        case Answered.failure:
            return Outcome.FAILURE

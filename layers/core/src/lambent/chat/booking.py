"""Holds what admission granted: tells its verdict at the first token, gives it back once."""

from __future__ import annotations

import asyncio
from typing import Final

from lambent.admission.decisions import Grant, Outcome
from lambent.admission.gate import Gate
from lambent.agents.model_access import Answered

# The first frame goes out before the verdict is told; a turn that ends sooner tells both at once.
_VERDICT_AFTER_S: Final = 0.02


class Booking:
    """One grant of one turn."""

    def __init__(self, gate: Gate, grant: Grant) -> None:
        self._gate = gate
        self._due: asyncio.TimerHandle | None = None
        self._verdict: asyncio.Task[Grant] | None = None
        self.grant = grant

    def first_token(self) -> None:
        """The model host is well: tell the breaker soon, off the token path, not at the end."""
        loop = asyncio.get_running_loop()
        self._due = loop.call_later(_VERDICT_AFTER_S, self._judge)

    async def finish(self, answered: Answered) -> None:
        """Give the grant back with how the model did."""
        if self._due is not None:
            self._due.cancel()
        grant = await self._verdict if self._verdict is not None else self.grant
        await self._gate.finish(grant, outcome_of(answered))

    def _judge(self) -> None:
        self._verdict = asyncio.create_task(self._gate.verdict(self.grant, Outcome.SUCCESS))


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

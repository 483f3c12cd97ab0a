"""Holds what admission granted: tells verdict and use in time, and gives it back once."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import AbstractAsyncContextManager
from typing import Final, assert_never

from lambent.admission.decisions import AdmissionRequest, Candidates, Grant, Outcome
from lambent.admission.gate import Gate
from lambent.admission.usage import Payer, TurnUse
from lambent.agents.model_access import Answered, ModelAccess
from lambent.errors import LambentError

# The first frame goes out before the verdict is told; a turn that ends sooner tells both at once.
_VERDICT_AFTER_S: Final = 0.02
# What a process that dies has not booked is at most what came within this time.
METER_S: Final = 1.0


NOWHERE_ELSE: Final = Candidates(())


class Booking:
    """One grant of one turn, and what `access` uses under it; `payer` is who pays.

    Every booking is cumulative and numbered, so that losing or repeating one does no harm. Where
    the granted host fails before its first token, the turn moves on to another of `among`.
    """

    def __init__(
        self,
        gate: Gate,
        grant: Grant,
        *,
        payer: Payer,
        access: ModelAccess,
        among: Candidates = NOWHERE_ELSE,
    ) -> None:
        self._gate = gate
        self._others = among.without(grant.host)
        self._payer = payer
        self._access = access
        # Where admission could not be asked there is no token; the use is booked all the same.
        self._turn = grant.token or secrets.token_hex(16)
        self._seq = 0
        self._told: TurnUse | None = None
        self._due: asyncio.TimerHandle | None = None
        self._verdict: asyncio.Task[Grant] | None = None
        self._meter: asyncio.TimerHandle | None = None
        self._metering: asyncio.Task[bool] | None = None
        self.grant = grant
        access.on_first_token = self.first_token
        if grant.host is not None:
            access.host = grant.host
        if self._others.hosts:
            access.move = self._move

    def keeping(self) -> AbstractAsyncContextManager[None]:
        """Renews the lease of whatever is granted while the block runs."""
        return self._gate.keeping(lambda: self.grant)

    def first_token(self) -> None:
        """The model host is well: tell the breaker soon, off the token path, not at the end."""
        loop = asyncio.get_running_loop()
        if self._meter is not None:
            self._meter.cancel()
        self._due = loop.call_later(_VERDICT_AFTER_S, self._judge)
        self._meter = loop.call_later(METER_S, self._book_so_far)

    async def finish(self) -> None:
        """Give the grant back with how the model did, and book what it cost."""
        if self._meter is not None:
            self._meter.cancel()
        if self._metering is not None:
            await asyncio.wait({self._metering})
        grant = await self._judged()
        await self._gate.finish(grant, outcome_of(self._access.answered), used=self._news())

    async def _move(self) -> str | None:
        """Give the failed host's grant back, and take one of another host, queueing if need be."""
        grant = await self._judged()
        self._due = self._verdict = None
        self.grant = Grant(host=None, token=self._turn)
        await self._gate.finish(grant, outcome_of(self._access.answered))
        others = self._others
        if not others.hosts:
            return None
        asked = AdmissionRequest.for_client(self._payer.client, others, begun=True)
        try:
            granted = await self._gate.granted(asked)
        except LambentError:  # the caller is told what the failed host said
            return None
        self.grant, self._others = granted, others.without(granted.host)
        return granted.host

    async def _judged(self) -> Grant:
        if self._due is not None:
            self._due.cancel()
        return await self._verdict if self._verdict is not None else self.grant

    def _judge(self) -> None:
        self._verdict = asyncio.create_task(self._gate.verdict(self.grant, Outcome.SUCCESS))

    def _book_so_far(self) -> None:
        self._meter = asyncio.get_running_loop().call_later(METER_S, self._book_so_far)
        if self._metering is not None and not self._metering.done():
            return
        if (used := self._news()) is not None:
            self._metering = asyncio.create_task(self._gate.book(used))

    def _news(self) -> TurnUse | None:
        models = self._access.used()
        if not models or (self._told is not None and self._told.models == models):
            return None
        self._seq += 1
        self._told = TurnUse(turn=self._turn, seq=self._seq, payer=self._payer, models=models)
        return self._told


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
        case _:
            assert_never(answered)

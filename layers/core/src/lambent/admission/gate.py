"""Asks Postgres whether a request may go on, and gives back what it was granted."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final, assert_never

from lambent.admission.activity import TALLY, Tally, parameter
from lambent.admission.answers import (
    ALL_SCOPES,
    read_decision,
    read_look,
    result_of,
    waited_too_long,
)
from lambent.admission.books import CALL, Books
from lambent.admission.decisions import (
    AdmissionConfig,
    AdmissionRequest,
    Admitted,
    BreakerState,
    Decision,
    GateState,
    Grant,
    Outcome,
    Principal,
    Queued,
    Refused,
    SlotUse,
    Waiter,
)
from lambent.admission.keys import Credential, parse_credential
from lambent.admission.statements import statement
from lambent.admission.usage import TurnUse
from lambent.clock import Clock
from lambent.errors import StoreUnavailable, Unauthenticated, UnknownAgent
from lambent.metrics import Metric, note
from lambent.postgres import Postgres
from lambent.telemetry import log_fields, logger

ANONYMOUS: Final = "anonymous"
_BEGUN: Final = "begun"  # in the place of a scope, which only a key has
_NO_GRANT: Final = Grant(host=None, token="")


class Gate:
    """The seed's decision tree. See the package's text for what is counted, and when."""

    def __init__(self, postgres: Postgres, *, clock: Clock, config: AdmissionConfig) -> None:
        self._postgres = postgres
        self._clock = clock
        self._config = config
        self._queries: dict[tuple[bool, bool, bool, bool], bytes] = {}
        self._books = Books(config.prices)
        self.tally = Tally(clock)

    async def admit(self, request: AdmissionRequest) -> Decision:
        """Decide, in at most one round trip; never raises for a refusal."""
        return self._tallied(await self._decide(request))

    def _tallied(self, decision: Decision) -> Decision:
        # A run's steps come again by themselves: only callers count as refused.
        match decision:
            case Refused(error=error, principal=Principal(client=client, key_id=key_id)):
                if key_id is not None or client == ANONYMOUS:
                    self.tally.refused(client, error)
        return decision

    async def _decide(self, request: AdmissionRequest) -> Decision:
        credential: Credential | None = None
        client = request.on_behalf_of
        if client is None and not self._config.auth_enabled:
            client = ANONYMOUS
        if client is None:
            try:
                credential = parse_credential(request.credential)
            except Unauthenticated as error:
                return Refused(error, None)
        elif not request.hosts:
            return self._without_asking(request, client)
        token = secrets.token_hex(16)
        limited = request.limited and credential is not None
        began_s = self._clock.monotonic_s()
        try:
            row = await self._postgres.fetch_one(
                self._query(request, limited=limited),
                (
                    credential and credential.key_id,
                    credential and credential.secret_hash,
                    _BEGUN if request.begun else request.scope and request.scope.value,
                    client,
                    *_hosts(request),
                    token,
                ),
            )
        except StoreUnavailable as error:
            return Refused(error, None)
        note(Metric.ADMISSION_TIME, (self._clock.monotonic_s() - began_s) * 1000)
        return _counted(
            read_decision(
                row[0],
                request=request,
                key_id=credential.key_id if credential else None,
                token=token,
                window_s=self._config.window_s,
            )
        )

    async def wait(self, queued: Queued) -> AsyncGenerator[Decision, None]:
        """Wait for a slot: yields `Queued` whenever the position changes, then how it ended.

        The last value is `Admitted`, or `Refused` with `NoSlot` (its `fields["position"]`),
        `BreakerOpen` or `StoreUnavailable`. Closing the generator early gives the ticket up; a
        waiter that dies loses it within `ticket_lease_s`.
        """
        deadline_s = self._clock.monotonic_s() + self._config.slot_wait_s
        ended = False
        try:
            while (left_s := deadline_s - self._clock.monotonic_s()) > 0:
                await self._clock.sleep(min(left_s, self._pause_s(queued.position)))
                decision = await self.look(queued)
                if not isinstance(decision, Queued):
                    ended = True
                    yield self._tallied(decision)
                    return
                if decision.position != queued.position:
                    yield decision
                queued = decision
            await self.leave(queued)
            ended = True
            yield self._tallied(waited_too_long(queued))
        finally:
            if not ended:
                await self.leave(queued)

    async def look(self, queued: Queued) -> Decision:
        """Renew the ticket and take a slot if it is its turn: one step of `wait`."""
        config, among = self._config, queued.among
        try:
            row = await self._postgres.fetch_one(
                b"SELECT * FROM lambent.await_slot(%s, %s, %s, %s, %s, %s)"
                if among is None
                else b"SELECT * FROM lambent.await_among(%s, %s, %s, %s, %s, %s, %s)",
                (
                    *((queued.host,) if among is None else (list(among.hosts), list(among.loaded))),
                    queued.principal.client,
                    config.max_inflight,
                    queued.ticket,
                    config.lease_s,
                    config.ticket_lease_s,
                ),
            )
        except StoreUnavailable as error:
            return Refused(error, queued.limit, queued.principal)
        return _counted(read_look(row, queued=queued))

    async def granted(self, request: AdmissionRequest) -> Grant:
        """Decide, and wait where there is a queue. Raises whatever refuses."""
        decision = await self.admit(request)
        if isinstance(decision, Queued):
            async with contextlib.aclosing(self.wait(decision)) as places:
                async for place in places:
                    decision = place
        match decision:
            case Admitted():
                return decision.grant
            case Refused():
                raise decision.error
            case Queued():
                raise AssertionError("the queue ends with an admission or a refusal")
            case never:
                assert_never(never)

    async def leave(self, queued: Queued) -> None:
        """Give the ticket up, and what it may have turned into unnoticed."""
        query, among = b"SELECT lambent.leave(%s, %s)", queued.among
        if among is not None:
            query = b"SELECT lambent.leave_among(%s, %s)"
        hosts = queued.host if among is None else list(among.hosts)
        await self._quietly(query, (hosts, queued.ticket), doing="leave the queue")

    async def verdict(self, grant: Grant, outcome: Outcome) -> Grant:
        """Book the result now, before the slot is released; go on with the grant returned.

        Meant for the first token (`success`): what is left to `finish` then is the slot, and a
        `failure` if the stream breaks later.
        """
        if grant.host is None or grant.judged is not None:
            return grant
        booked = await self._give_back(replace(grant, slot=None), result_of(outcome))
        return replace(grant, judged=outcome) if booked else grant

    async def finish(self, grant: Grant, outcome: Outcome, *, used: TurnUse | None = None) -> bool:
        """Release the slot or the probe, book the result and what was used.

        One statement, off the token path. False if Postgres did not answer: then the leases end
        by themselves, and the use is booked with the next one of this environment. Calling it
        twice releases once and books once.
        """
        result = result_of(outcome)
        if grant.judged is not None:
            later = result_of(grant.judged) == "success" and result == "failure"
            result = "failure" if later else "none"
        return await self._give_back(grant, result, used=used)

    async def book(self, used: TurnUse) -> bool:
        """Book what a turn that goes on has used so far; False if Postgres did not answer."""
        return await self._give_back(_NO_GRANT, "none", used=used)

    async def renew(self, grant: Grant) -> bool:
        """Extend the lease of slot or probe; False if it is no longer this grant's."""
        if grant.host is None or not (grant.probe or grant.slot is not None):
            return True
        row = await self._postgres.fetch_one(
            b"SELECT lambent.renew(%s, %s, %s, %s, %s)",
            (grant.host, grant.token, grant.slot, grant.probe, self._config.lease_s),
        )
        return bool(row[0])

    @asynccontextmanager
    async def keeping(self, grant: Grant | Callable[[], Grant]) -> AsyncIterator[None]:
        """Renews the lease of the grant, or of what it is then, while the block runs."""
        task = asyncio.create_task(self._keep(grant if callable(grant) else lambda: grant))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})  # not `await task`: that would swallow our own cancellation

    async def state(self) -> GateState:
        """Breakers, slots in use and live tickets of every host; raises `StoreUnavailable`."""
        breakers = await self._postgres.fetch(statement("state_breakers"))
        slots = await self._postgres.fetch(statement("state_slots"))
        waiting = await self._postgres.fetch(statement("state_waiting"))
        return GateState(
            breakers=tuple(BreakerState(*row) for row in breakers),
            slots=tuple(SlotUse(*row) for row in slots),
            waiting=tuple(Waiter(*row) for row in waiting),
        )

    async def trip(self, host: str, *, open_s: float | None = None) -> None:
        """Open the host's breaker by hand, for `open_s` or as long as failures would."""
        await self._set_breaker(
            host, "open", self._config.breaker_open_s if open_s is None else open_s
        )

    async def reset(self, host: str) -> None:
        """Close the host's breaker by hand; results still under way no longer count."""
        await self._set_breaker(host, "closed", 0.0)

    async def _set_breaker(self, host: str, state: str, open_s: float) -> None:
        await self._postgres.fetch(b"SELECT lambent.set_breaker(%s, %s, %s)", (host, state, open_s))
        note(Metric.BREAKER_OPENED if state == "open" else Metric.BREAKER_CLOSED)

    async def _keep(self, grant: Callable[[], Grant]) -> None:
        held = True
        while held:
            await self._clock.sleep(self._config.lease_s / 3)
            with contextlib.suppress(StoreUnavailable):
                one = grant()
                # A turn that moves to another host meanwhile gives its old grant up.
                held = await self.renew(one) or one is not grant()

    async def _give_back(self, grant: Grant, result: str, *, used: TurnUse | None = None) -> bool:
        """One statement for both halves, or for the one that there is to do."""
        calls, params = [], []
        if grant.host is not None and (result != "none" or grant.slot is not None or grant.probe):
            calls.append("lambent.judge(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)")
            params += [
                grant.host,
                grant.token,
                grant.slot,
                grant.probe,
                grant.generation,
                result,
                grant.judged is not None,
                self._config.breaker_failures,
                self._config.breaker_open_s,
                self._config.breaker_successes,
            ]
        if used is not None:
            calls.append(CALL)
            params += self._books.params(used)
        if not calls:
            return True
        counts = self.tally.take()
        if counts:
            calls.append(TALLY)
            params.append(parameter(counts))
        query = f"SELECT {', '.join(calls)}".encode()
        rows = await self._quietly(query, tuple(params), doing="book a result")
        if rows is None:
            self.tally.give_back(counts)
            if used is not None:
                self._books.missed(used)
            return False
        if calls[0] is not CALL:
            _count_change(rows[0][0])
        if used is not None:
            self._books.took(used, rows[0][calls.index(CALL)])
        await self._book_the_unbooked()
        return True

    async def tell_tally(self) -> None:
        """After an answer: send what was counted and found no company for a while."""
        if self.tally.due:
            counts = self.tally.take()
            query = f"SELECT {TALLY}".encode()
            if await self._quietly(query, (parameter(counts),), doing="tell the tally") is None:
                self.tally.give_back(counts)

    async def _book_the_unbooked(self) -> None:
        while (used := self._books.oldest_unbooked()) is not None:
            query = f"SELECT {CALL}".encode()
            rows = await self._quietly(query, self._books.params(used), doing="book a turn")
            if rows is None:
                return
            self._books.took(used, rows[0][0])

    async def _quietly(
        self, query: bytes, params: tuple[Any, ...], *, doing: str
    ) -> list[Any] | None:
        # The caller's answer is over by now: it must not fail because this did.
        try:
            return await self._postgres.fetch(query, params)
        except StoreUnavailable:
            logger().warning(
                f"could not {doing}; its lease will end", **log_fields(store="postgres")
            )
            return None

    def _query(self, request: AdmissionRequest, *, limited: bool) -> bytes:
        # What the configuration fixes stands in the text: each parameter costs more than a number,
        # and a number in quotes is read as what it shall be, without a detour over numeric.
        several = len(request.hosts) > 1
        kind = (limited, request.agent_exists, request.slot, several)
        if kind not in self._queries:
            config = self._config
            self._queries[kind] = (
                f"SELECT lambent.{'decide_among' if several else 'decide'}(%s, %s, %s, %s"
                f", {config.limit if limited else 'NULL'}, '{config.window_s!r}'"
                f", {str(request.agent_exists).lower()}, {'%s, %s' if several else '%s'}"
                f", {config.max_inflight if request.slot else 'NULL'}, %s"
                f", '{config.lease_s!r}', '{config.ticket_lease_s!r}')"
            ).encode()
        return self._queries[kind]

    def _without_asking(self, request: AdmissionRequest, client: str) -> Decision:
        principal = Principal(None, None, client, ALL_SCOPES)
        if not request.agent_exists:
            return Refused(UnknownAgent(), None, principal)
        return Admitted(principal, None, Grant(host=None, token=""))

    def _pause_s(self, position: int) -> float:
        # Who stands far behind looks less often, yet well within the ticket's lease.
        turns = 1 + (position - 1) // self._config.max_inflight
        longest_s = self._config.ticket_lease_s / 3
        return min(longest_s, self._config.poll_s * min(turns, 5)) * random.uniform(0.75, 1.25)


def _counted(decision: Decision) -> Decision:
    if isinstance(decision, Admitted) and decision.grant.probe:
        note(Metric.BREAKER_PROBES)
    return decision


def _count_change(change: str | None) -> None:
    """Told to the one call that made it, so counted once in the fleet."""
    match change:
        case "opened":
            note(Metric.BREAKER_OPENED)
        case "closed":
            note(Metric.BREAKER_CLOSED)


def _hosts(request: AdmissionRequest) -> tuple[Any, ...]:
    """The parameters that name one host, or several to choose from."""
    among = request.among
    if among is None or len(among.hosts) == 1:
        return (next(iter(request.hosts), None),)
    return (list(among.hosts), list(among.loaded))

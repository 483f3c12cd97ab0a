"""The seed's decision tree: each branch, in its order, for the price of one statement."""

import asyncio
from typing import Any

import pytest

from lambent.admission.decisions import (
    AdmissionConfig,
    AdmissionRequest,
    Admitted,
    Outcome,
    Refused,
    Scope,
)
from lambent.admission.gate import Gate
from lambent.admission.limits import headers
from lambent.clock import SystemClock
from lambent.errors import (
    BreakerOpen,
    Forbidden,
    RateLimited,
    Unauthenticated,
    UnknownAgent,
)
from lambent.postgres import Postgres
from tests.store.admission_kit import HOST, stand

UNKNOWN = f"lam_nobody_{'x' * 43}"


async def test_a_good_request_is_admitted_with_slot_and_limit(postgres_dsn: str) -> None:
    async with stand(postgres_dsn) as place:
        decision = await place.ask(host=HOST, slot=True)
        assert isinstance(decision, Admitted)
        assert decision.principal.client == "acme"
        assert decision.principal.scopes == {"chat"}
        assert decision.principal.key_name == "the test's"
        assert decision.grant.slot in range(4)
        assert decision.limit is not None
        assert decision.limit.remaining == 99
        assert headers(decision.limit)["RateLimit"] == '"default";r=99;t=1'


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        ({"key", "scope", "limit", "agent", "breaker"}, Unauthenticated),
        ({"scope", "limit", "agent", "breaker"}, Forbidden),
        ({"limit", "agent", "breaker"}, RateLimited),
        ({"agent", "breaker"}, UnknownAgent),
        ({"breaker"}, BreakerOpen),
        (set[str](), None),
    ],
    ids=lambda value: "-".join(sorted(value)) if isinstance(value, set) else None,
)
async def test_the_first_branch_that_refuses_decides(
    postgres_dsn: str, broken: set[str], error: type[Exception] | None
) -> None:
    async with stand(postgres_dsn, limit=1) as place:
        if "limit" in broken:
            await place.ask()
        if "breaker" in broken:
            await place.gate.trip(HOST)
        decision = await place.ask(
            UNKNOWN if "key" in broken else None,
            scope=Scope.ADMIN if "scope" in broken else Scope.CHAT,
            agent_exists="agent" not in broken,
            host=HOST,
            slot=True,
        )
        if error is None:
            assert isinstance(decision, Admitted)
        else:
            assert isinstance(decision, Refused)
            assert type(decision.error) is error


async def test_who_is_refused_for_key_or_scope_pays_nothing(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, limit=1) as place:
        await place.ask(UNKNOWN)
        await place.ask(scope=Scope.ADMIN)
        assert isinstance(await place.ask(), Admitted)


async def test_an_unknown_agent_and_an_open_breaker_count_against_the_limit(
    postgres_dsn: str,
) -> None:
    async with stand(postgres_dsn, limit=3) as place:
        await place.gate.trip(HOST)
        unknown = await place.ask(agent_exists=False, host=HOST, slot=True)
        paused = await place.ask(host=HOST, slot=True)
        assert unknown.limit.remaining == 2
        assert paused.limit.remaining == 1
        assert 29 < paused.error.retry_after_s <= 30


async def test_a_first_request_that_meets_another_one_is_not_refused(postgres_dsn: str) -> None:
    async with stand(postgres_dsn) as place:
        query = b"SELECT r_verdict FROM lambent.first_request('acme', 2, 60.0)"
        verdicts = [(await place.postgres.fetch_one(query, ()))[0] for _ in range(3)]
    assert verdicts == [None, None, "rate_limited"]


async def test_a_refused_client_learns_when_to_come_back(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, limit=4, window_s=60.0) as place:
        for _ in range(4):
            assert isinstance(await place.ask(), Admitted)
        refused = await place.ask()
        assert isinstance(refused.error, RateLimited)
        assert 14 < refused.error.retry_after_s <= 15
        assert refused.limit.remaining == 0
        assert 59 < refused.limit.reset_s <= 60


async def test_a_refusal_costs_the_client_nothing_and_the_limit_comes_back_evenly(
    postgres_dsn: str,
) -> None:
    async with stand(postgres_dsn, limit=4, window_s=2.0) as place:
        for _ in range(4):
            await place.ask()
        for _ in range(20):
            assert isinstance(await place.ask(), Refused)
        await asyncio.sleep(0.55)
        assert isinstance(await place.ask(), Admitted)
        assert isinstance(await place.ask(), Refused)


async def test_pages_and_polls_can_leave_the_limit_alone(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, limit=1) as place:
        for _ in range(3):
            decision = await place.ask(limited=False)
            assert isinstance(decision, Admitted)
            assert decision.limit is None


async def test_without_authentication_key_and_limit_are_skipped_but_not_the_breaker(
    postgres_dsn: str,
) -> None:
    async with stand(postgres_dsn, auth_enabled=False, limit=1, max_inflight=1) as place:
        for _ in range(3):
            decision = await place.ask(UNKNOWN, scope=Scope.ADMIN, host=HOST)
            assert isinstance(decision, Admitted)
            assert decision.principal.client == "anonymous"
            assert decision.limit is None
        assert isinstance((await place.ask(agent_exists=False)).error, UnknownAgent)
        await place.gate.trip(HOST)
        assert isinstance((await place.ask(host=HOST)).error, BreakerOpen)


async def test_the_clients_of_one_key_share_its_clients_limit(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, limit=2) as place:
        second = await place.keys.create("acme", "another", scopes=[Scope.CHAT])
        stranger = await place.keys.create("other", "theirs", scopes=[Scope.CHAT])
        assert isinstance(await place.ask(), Admitted)
        assert isinstance(await place.ask(second.text), Admitted)
        assert isinstance(await place.ask(), Refused)
        assert isinstance(await place.ask(stranger.text), Admitted)


async def test_nothing_is_left_on_the_connection_that_a_pooler_would_mix_up(
    postgres_dsn: str,
) -> None:
    async with stand(postgres_dsn) as place:
        for _ in range(10):
            admitted = await place.ask(host=HOST, slot=True)
            await place.gate.finish(admitted.grant, Outcome.SUCCESS)
        row = await place.postgres.fetch_one(
            "SELECT (SELECT count(*) FROM pg_prepared_statements) AS prepared,"
            " current_setting('synchronous_commit') AS commits,"
            " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
            "  AND pid = pg_backend_pid()) AS locks"
        )
        assert tuple(row) == (0, "on", 0)


class CountingPostgres(Postgres):
    """Counts what is asked of the server."""

    statements = 0

    async def fetch(self, query: Any, params: Any = None) -> list[Any]:
        self.statements += 1
        return await super().fetch(query, params)


async def test_one_statement_decides_and_one_gives_back(postgres_dsn: str) -> None:
    async with stand(postgres_dsn) as place:
        clock = SystemClock()
        counting = CountingPostgres(postgres_dsn, clock=clock)
        gate = Gate(counting, clock=clock, config=AdmissionConfig())
        admitted = await gate.admit(
            AdmissionRequest(credential=place.key, scope=Scope.CHAT, host=HOST, slot=True)
        )
        assert isinstance(admitted, Admitted)
        assert counting.statements == 1
        await gate.finish(admitted.grant, Outcome.SUCCESS)
        assert counting.statements == 2
        await counting.close()

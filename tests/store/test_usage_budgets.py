"""Budgets: seen in the one decision, soft ones told, hard ones kept, for client and key alike."""

import logging
from typing import Any

import pytest

from lambent.admission.budgets import BudgetEdges, BudgetStore, Kind, Period, Unit
from lambent.admission.decisions import Admitted, Outcome, Queued, Refused, Scope
from lambent.admission.limits import headers
from lambent.admission.usage import ModelUse, Payer, TurnUse
from lambent.errors import BudgetExceeded, NotFound, RateLimited, Unauthenticated, Unprocessable
from lambent.setting_values import ModelPrice
from tests.store.admission_kit import HOST, Stand, stand

A_DAY = {"period": Period.DAY, "unit": Unit.TOKENS}


async def spend(place: Stand, tokens: int, *, client: str = "acme", key: str | None = None) -> None:
    use = ModelUse(
        model="m", requests=1, broken=0, prompt_tokens=tokens, completion_tokens=0,
        estimated_tokens=0, model_s=0.1,
    )  # fmt: skip
    payer = Payer(client=client, key_id=key, agent="")
    name = f"{client}-{key}-{spend.count}"  # type: ignore[attr-defined]
    spend.count += 1  # type: ignore[attr-defined]
    assert await place.gate.book(TurnUse(turn=name, seq=1, payer=payer, models=(use,)))


spend.count = 0  # type: ignore[attr-defined]


async def budget(place: Stand, kind: Kind, owner: str, **edges: Any) -> BudgetStore:
    store = BudgetStore(place.postgres)
    await store.put(kind, owner, [BudgetEdges(**{**A_DAY, **edges})])
    return store


async def test_a_hard_budget_refuses_until_its_period_ends(postgres_dsn: str) -> None:
    async with stand(postgres_dsn) as place:
        await budget(place, Kind.CLIENT, "acme", hard=100)
        await spend(place, 99)
        assert isinstance(await place.ask(host=HOST, slot=True), Admitted)
        await spend(place, 1)
        refused = await place.ask(host=HOST, slot=True)
        assert isinstance(refused.error, BudgetExceeded)
        assert refused.error.fields["budget"]["used"] == 100
        left_s = await place.postgres.fetch_one(
            "SELECT extract(epoch FROM date_trunc('day', clock_timestamp(), 'UTC')"
            " + interval '1 day' - clock_timestamp())::float8 AS s"
        )
        assert abs(refused.error.retry_after_s - left_s.s) < 10
        assert isinstance(await place.ask(), Admitted)  # looking on goes on


async def test_raising_the_budget_lets_the_next_call_through(postgres_dsn: str) -> None:
    async with stand(postgres_dsn) as place:
        await budget(place, Kind.CLIENT, "acme", hard=10)
        await spend(place, 10)
        assert isinstance(await place.ask(host=HOST), Refused)
        await budget(place, Kind.CLIENT, "acme", hard=11)
        assert isinstance(await place.ask(host=HOST), Admitted)


async def test_what_was_used_before_the_budget_was_set_counts(postgres_dsn: str) -> None:
    async with stand(postgres_dsn) as place:
        await spend(place, 50)
        await budget(place, Kind.CLIENT, "acme", period=Period.MONTH, hard=50)
        assert isinstance(await place.ask(host=HOST), Refused)


async def test_a_soft_budget_warns_in_a_header_and_once_in_the_log(
    postgres_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with stand(postgres_dsn) as place:
        await budget(place, Kind.CLIENT, "acme", soft=10, hard=100)
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                await spend(place, 8)
        assert [one.getMessage() for one in caplog.records] == ["A soft budget was passed"]
        admitted = await place.ask(host=HOST, slot=True)
        assert isinstance(admitted, Admitted)
        told = headers(admitted.limit)["X-Budget-Warning"]
        assert told.startswith("client-day-tokens;used=24;soft=10;t=")


async def test_a_soft_warning_travels_with_a_place_in_the_queue(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, max_inflight=1) as place:
        await budget(place, Kind.CLIENT, "acme", soft=0)
        holder = await place.ask(host=HOST, slot=True)
        queued = await place.ask(host=HOST, slot=True)
        assert isinstance(queued, Queued)
        await place.gate.finish(holder.grant, Outcome.SUCCESS)
        served = await place.gate.look(queued)
        assert isinstance(served, Admitted)
        assert served.limit is not None
        assert served.limit.budget is not None


async def test_a_keys_budget_binds_that_key_and_not_its_clients_others(postgres_dsn: str) -> None:
    async with stand(postgres_dsn) as place:
        one = await place.keys.create("acme", "one", scopes=[Scope.CHAT])
        await budget(place, Kind.KEY, one.key.id, hard=10)
        await spend(place, 10, key=one.key.id)
        assert isinstance((await place.ask(one.text, host=HOST)).error, BudgetExceeded)
        assert isinstance(await place.ask(host=HOST), Admitted)


async def test_another_client_and_runs_of_the_same_one(postgres_dsn: str) -> None:
    async with stand(postgres_dsn) as place:
        await budget(place, Kind.CLIENT, "acme", hard=10)
        await spend(place, 10)
        assert isinstance((await place.ask_as("acme", slot=True)).error, BudgetExceeded)
        assert isinstance(await place.ask_as("other", slot=True), Admitted)


async def test_money_is_counted_by_the_prices(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, prices={"m": ModelPrice("m", 2.0, 0.0)}) as place:
        await budget(place, Kind.CLIENT, "acme", unit=Unit.MONEY, hard=1.0)
        await spend(place, 499_999)
        assert isinstance(await place.ask(host=HOST), Admitted)
        await spend(place, 1)
        assert isinstance(await place.ask(host=HOST), Refused)


async def test_the_limit_is_looked_at_before_the_budget_and_the_key_before_both(
    postgres_dsn: str,
) -> None:
    async with stand(postgres_dsn, limit=1) as place:
        await budget(place, Kind.CLIENT, "acme", hard=0)
        first, second = await place.ask(host=HOST), await place.ask(host=HOST)
        assert isinstance(first.error, BudgetExceeded)
        assert isinstance(second.error, RateLimited)
        stranger = await place.ask(f"lam_nobody_{'x' * 43}", host=HOST)
        assert isinstance(stranger.error, Unauthenticated)


async def test_a_new_day_and_a_new_month_begin_at_nothing(postgres_dsn: str) -> None:
    async with stand(postgres_dsn) as place:

        async def add(day: str, tokens: int) -> tuple[int, int]:
            await place.postgres.fetch(
                "SELECT lambent.add_to_total('client', 'acme', %s, %s, 0)", (day, tokens)
            )
            row = await place.postgres.fetch_one("SELECT * FROM lambent.usage_total")
            return row.day_tokens, row.month_tokens

        assert await add("2026-01-30", 5) == (5, 5)
        assert await add("2026-01-31", 7) == (7, 12)
        assert await add("2026-01-30", 1) == (7, 13)  # of a turn that began before midnight
        assert await add("2026-02-01", 2) == (2, 2)
        assert await add("2026-01-31", 9) == (2, 2)


async def test_budgets_are_listed_changed_and_taken_away(postgres_dsn: str) -> None:
    async with stand(postgres_dsn) as place:
        key = await place.keys.create("acme", "one", scopes=[Scope.CHAT])
        await budget(place, Kind.KEY, key.key.id, soft=5)
        store = await budget(place, Kind.CLIENT, "acme", hard=10)
        await budget(place, Kind.CLIENT, "other", hard=1)
        await spend(place, 4, key=key.key.id)
        found = await store.list(client="acme")
        assert [(one.kind, one.soft, one.hard, one.used) for one in found] == [
            (Kind.CLIENT, None, 10.0, 4.0),
            (Kind.KEY, 5.0, None, 4.0),
        ]
        assert len(await store.list(client="acme", key="")) == 1
        await store.put(Kind.CLIENT, "acme", [])
        assert len(await store.list()) == 2


@pytest.mark.parametrize("edges", [{}, {"hard": -1}, {"soft": 5, "hard": 4}, {"hard": 1e99}])
async def test_senseless_edges_are_refused(postgres_dsn: str, edges: dict[str, float]) -> None:
    async with stand(postgres_dsn) as place:
        with pytest.raises(Unprocessable):
            await budget(place, Kind.CLIENT, "acme", **edges)
        with pytest.raises(NotFound):
            await budget(place, Kind.KEY, "nobody", hard=1)

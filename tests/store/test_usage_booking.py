"""Usage: booked once however often it is told, summed exactly, and kept while Postgres is away."""

import asyncio
from pathlib import Path
from typing import Any

from lambent.admission.decisions import Outcome
from lambent.admission.reports import GroupBy, UsageFilter, UsageReports, UsageRow
from lambent.admission.usage import ModelUse, Payer, TurnUse
from lambent.clock import SystemClock
from lambent.postgres import Postgres
from lambent.setting_values import ModelPrice
from local.services import Postgres as PostgresService
from tests.conftest import started
from tests.store.admission_kit import Stand, kill, stand

PAYER = Payer(client="acme", key_id="k1", agent="chat")


def use(completion: int = 10, *, model: str = "m", **more: Any) -> ModelUse:
    known = {"requests": 1, "broken": 0, "prompt_tokens": 5, "estimated_tokens": 0, "model_s": 0.5}
    return ModelUse(model=model, completion_tokens=completion, **{**known, **more})


def turn(name: str, seq: int, *models: ModelUse, payer: Payer = PAYER) -> TurnUse:
    return TurnUse(turn=name, seq=seq, payer=payer, models=models or (use(),))


async def report(
    place: Stand, *by: GroupBy, wanted: UsageFilter | None = None
) -> tuple[UsageRow, ...]:
    return await UsageReports(place.postgres).rows(wanted or UsageFilter(), by=by)


async def test_a_turn_that_reports_each_second_is_counted_once(postgres_dsn: str) -> None:
    async with stand(postgres_dsn) as place:
        early = use(3, prompt_tokens=0, estimated_tokens=6, broken=1)
        assert await place.gate.book(turn("t", 1, early))
        (row,) = await report(place)
        assert (row.total_tokens, row.broken) == (9, 1)
        assert await place.gate.book(turn("t", 2, use(10)))
        (row,) = await report(place)
        assert (row.requests, row.prompt_tokens, row.completion_tokens) == (1, 5, 10)
        assert (row.broken, row.estimated_tokens, row.model_s) == (0, 0, 0.5)


async def test_a_booking_that_comes_twice_or_too_late_changes_nothing(postgres_dsn: str) -> None:
    async with stand(postgres_dsn) as place:
        for seq, tokens in ((2, 10), (2, 10), (1, 3), (2, 99)):
            await place.gate.book(turn("t", seq, use(tokens)))
        (row,) = await report(place)
        assert row.completion_tokens == 10


async def test_releasing_the_slot_and_booking_are_one_statement(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, max_inflight=1) as place:
        admitted = await place.admitted(slot=True)
        asked = 0
        fetch = place.postgres.fetch

        async def counting(*args: Any) -> list[Any]:
            nonlocal asked
            asked += 1
            return await fetch(*args)

        place.postgres.fetch = counting  # type: ignore[method-assign]
        used = turn(admitted.grant.token, 1)
        assert await place.gate.finish(admitted.grant, Outcome.SUCCESS, used=used)
        assert asked == 1
        place.postgres.fetch = fetch  # type: ignore[method-assign]
        await place.admitted(slot=True)
        assert (await report(place))[0].total_tokens == 15


async def test_four_hundred_bookings_over_eight_connections_add_up(postgres_dsn: str) -> None:
    async with stand(postgres_dsn) as place:
        others = [Postgres(postgres_dsn, clock=SystemClock()) for _ in range(8)]
        gates = [type(place.gate)(one, clock=SystemClock(), config=place.config) for one in others]

        async def book(number: int) -> None:
            gate = gates[number % 8]
            models = (use(1, model="b"), use(2, model="a")) if number % 2 else (use(4, model="b"),)
            await gate.book(turn(f"t{number}", 1, *models))
            await gate.book(turn(f"t{number}", 1, *models))

        await asyncio.gather(*(book(number) for number in range(400)))
        rows = await report(place, GroupBy.MODEL)
        assert [(row.model, row.requests, row.completion_tokens) for row in rows] == [
            ("a", 200, 400),
            ("b", 400, 1000),
        ]
        total = await place.postgres.fetch("SELECT kind, day_tokens FROM lambent.usage_total")
        assert {row.kind: row.day_tokens for row in total} == {"client": 4400, "key": 4400}
        await asyncio.gather(*(one.close() for one in others))


async def test_a_model_with_a_price_costs_what_it_says(postgres_dsn: str) -> None:
    prices = {"m": ModelPrice("m", 2.0, 8.0), "*": ModelPrice("*", 1.0, 1.0)}
    async with stand(postgres_dsn, prices=prices) as place:
        await place.gate.book(turn("t", 1, use(1_000_000, prompt_tokens=500_000)))
        await place.gate.book(turn("u", 1, use(0, model="other", prompt_tokens=250_000)))
        rows = await report(place, GroupBy.MODEL)
        assert [(row.model, row.cost) for row in rows] == [("m", 9.0), ("other", 0.25)]


async def test_a_report_filters_and_groups(postgres_dsn: str) -> None:
    async with stand(postgres_dsn) as place:
        await place.gate.book(turn("t", 1))
        other = Payer(client="other", key_id=None, agent="")
        await place.gate.book(turn("u", 1, use(7, model="n"), payer=other))
        rows = await report(place, GroupBy.CLIENT, GroupBy.AGENT)
        assert [(row.client, row.agent, row.completion_tokens) for row in rows] == [
            ("acme", "chat", 10),
            ("other", "", 7),
        ]
        (row,) = await report(place, GroupBy.KEY, wanted=UsageFilter(model="n"))
        assert (row.key, row.completion_tokens) == ("", 7)
        assert await report(place, wanted=UsageFilter(client="nobody")) == ()


async def test_a_name_that_postgres_cannot_hold_is_booked_all_the_same(postgres_dsn: str) -> None:
    async with stand(postgres_dsn) as place:
        assert await place.gate.book(turn("t", 1, use(model="a\0\ud800" + "x" * 5000)))
        (row,) = await report(place, GroupBy.MODEL)
        assert row.model == "a??" + "x" * 197


async def test_what_postgres_did_not_take_is_booked_with_the_next_turn(tmp_path: Path) -> None:
    with started(lambda: PostgresService.start(tmp_path)) as server:
        async with stand(server.dsn) as place:
            lost = await place.admitted(slot=True)
            await kill(server, place)
            used = turn(lost.grant.token, 1)
            assert not await place.gate.finish(lost.grant, Outcome.SUCCESS, used=used)
            server.restart()
            next_one = await place.admitted(slot=True)
            assert await place.gate.finish(next_one.grant, Outcome.SUCCESS)
            assert (await report(place))[0].total_tokens == 15


async def test_the_code_of_the_version_before_is_still_answered(postgres_dsn: str) -> None:
    async with stand(postgres_dsn) as place:
        asked = "SELECT lambent.admit(NULL, NULL, NULL, 'acme', 9, 60, true, 'h', 1, %s, 30, 3) a"
        first = (await place.postgres.fetch_one(asked, ["t1"])).a
        assert (len(first), first[0], first[8]) == (11, "admitted", "0")
        assert (await place.postgres.fetch_one(asked, ["t2"])).a[0] == "queued"
        await place.postgres.fetch(
            "INSERT INTO lambent.budget VALUES ('client', 'acme', 'day', 'tokens', 'acme', 0, 0)"
        )
        refused = (await place.postgres.fetch_one(asked, ["t3"])).a
        assert (len(refused), refused[0]) == (11, "rate_limited")
        assert 0 < float(refused[6]) <= 86400


async def test_old_rows_of_the_ledger_go_with_time(postgres_dsn: str) -> None:
    async with stand(postgres_dsn) as place:
        await place.postgres.fetch(
            "INSERT INTO lambent.usage_turn (turn, model, day)"
            " SELECT 'old' || n, 'm', current_date - 5 FROM generate_series(1, 50) n"
        )
        await place.postgres.fetch(
            "SELECT lambent.book_usage('t' || n, 1, 'acme', '', '',"
            ' \'[{"model": "m", "requests": 1, "broken": 0, "prompt_tokens": 1,'
            ' "completion_tokens": 1, "estimated_tokens": 0, "model_s": 1, "cost": 0}]\')'
            " FROM setseed(0), generate_series(1, 1000) n"
        )
        left = await place.postgres.fetch("SELECT FROM lambent.usage_turn WHERE turn LIKE 'old%'")
        assert not left
        assert (await report(place))[0].requests == 1000

"""The numbers of the overview: as many chats, first tokens and refusals as there were."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from lambent.admission.activity import FIRST_EDGES_S, ActivityReports, Hour, Tally, _share
from lambent.admission.budgets import BudgetEdges, BudgetStore, Kind, Period, Unit
from lambent.clock import SystemClock
from lambent.errors import NoSlot, StoreUnavailable, UnknownAgent
from lambent.testing import VirtualClock
from local.services import Reply, ScriptedModel
from tests.unit.chat_site import CHAT, ChatSite, chat_site


@pytest.fixture
async def site(postgres_dsn: str, scripted_model: ScriptedModel) -> AsyncIterator[ChatSite]:
    scripted_model.default = Reply.many(5, prompt_tokens=7)
    changed = {"ollama_max_inflight": 2, "slot_wait_s": 0.3}
    async with chat_site(postgres_dsn, scripted_model.host, **changed) as site:
        yield site


async def now_hour(site: ChatSite) -> Hour:
    await site.until_no_slot_is_taken()
    site.gate.tally._told_s = -1e9
    await site.gate.tell_tally()
    return (await ActivityReports(site.postgres, clock=SystemClock()).hours(24))[0][-1]


async def test_chats_their_tokens_and_their_first_tokens_are_counted(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    delays = (0.0, 0.0, 0.3)
    scripted_model.script(*(Reply.many(5, prompt_tokens=7, first_delay_s=one) for one in delays))
    began_s = time.monotonic()
    async with site.client() as client:
        for path in ("/chat", "/chat/stream", "/chat"):
            assert (await client.post(path, json=CHAT)).status_code == 200
    took_s = time.monotonic() - began_s
    hour = await now_hour(site)
    assert (hour.chats, hour.tokens, hour.first_tokens) == (3, 36, 3)
    assert hour.first_mean_s is not None
    assert hour.slowest_s is not None
    assert 0.3 <= hour.slowest_s <= took_s
    assert hour.first_mean_s * 3 <= took_s
    assert hour.first_half_s is not None
    assert hour.first_half_s < 0.3 <= (hour.first_most_s or 0.0) <= hour.slowest_s


async def test_every_refusal_is_counted_by_what_refused_it_and_whom(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    limited = await site.new_key(limit=3)
    async with site.client(limited) as client:
        said = [(await client.post("/chat", json=CHAT)).status_code for _ in range(8)]
    assert said.count(429) == 5
    edges = BudgetEdges(period=Period.DAY, unit=Unit.TOKENS, hard=0)
    await BudgetStore(site.postgres).put(Kind.CLIENT, "tests", [edges])
    async with site.client() as client:
        for _ in range(4):
            assert (await client.post("/chat", json=CHAT)).status_code == 429
        assert (await client.post("/chat", json={**CHAT, "agent": "no"})).status_code == 429
    await site.gate.trip(scripted_model.host)
    other = await site.new_key()
    async with site.client(other) as client:
        for _ in range(3):
            assert (await client.post("/chat", json=CHAT)).status_code == 503
        assert (await client.post("/chat", json={**CHAT, "agent": "no"})).status_code == 501
    hour = await now_hour(site)
    assert (hour.chats, hour.over_limit, hour.over_budget, hour.breaker_open) == (3, 5, 5, 3)
    refused = await ActivityReports(site.postgres, clock=SystemClock()).refused(24)
    counts = [(one.over_limit, one.over_budget, one.breaker_open) for one in refused]
    assert sorted(counts) == [(0, 0, 3), (0, 5, 0), (5, 0, 0)]


async def test_who_gets_no_slot_in_time_is_counted(
    site: ChatSite, scripted_model: ScriptedModel
) -> None:
    scripted_model.default = Reply.many(40, delay_s=0.05)
    async with site.client() as client:
        answers = await asyncio.gather(*(client.post("/chat", json=CHAT) for _ in range(5)))
    said = [one.status_code for one in answers]
    assert said.count(503) == 3
    assert (await now_hour(site)).no_slot == 3


async def test_a_refusal_costs_no_round_trip_of_its_own(site: ChatSite) -> None:
    limited = await site.new_key(limit=1)
    async with site.client(limited) as client:
        await client.post("/chat", json=CHAT)
        await site.until_no_slot_is_taken()
        site.gate.tally = Tally(VirtualClock())  # no five seconds pass
        asked = 0
        fetch = site.postgres.fetch

        async def counting(query: Any, params: Any = None) -> list[Any]:
            nonlocal asked
            asked += 1
            return await fetch(query, params)

        site.postgres.fetch = counting  # type: ignore[method-assign]
        for _ in range(30):
            assert (await client.post("/chat", json=CHAT)).status_code == 429
        site.postgres.fetch = fetch  # type: ignore[method-assign]
    assert asked == 30 + 1  # the first one finds that nothing was told for long
    assert (await now_hour(site)).over_limit == 30


async def test_what_postgres_did_not_take_is_told_later(site: ChatSite) -> None:
    async def away(query: Any, params: Any = None) -> list[Any]:
        raise StoreUnavailable("away")

    fetch = site.postgres.fetch
    site.gate.tally.chat("acme", first_s=0.2, tokens=3)
    site.postgres.fetch = away  # type: ignore[method-assign]
    await site.gate.tell_tally()
    site.postgres.fetch = fetch  # type: ignore[method-assign]
    site.gate.tally.chat("acme", first_s=0.4, tokens=3)
    hour = await now_hour(site)
    assert (hour.chats, hour.tokens, hour.slowest_s) == (2, 6, 0.4)


async def test_two_environments_add_up(site: ChatSite) -> None:
    for _ in range(2):
        site.gate.tally.chat("acme", first_s=0.07, tokens=1)
        site.gate.tally.refused("zoe", NoSlot("full"))
        site.gate.tally.refused("zoe", UnknownAgent())  # no limit of ours
        hour = await now_hour(site)
    assert (hour.chats, hour.no_slot) == (2, 2)
    assert hour.first_half_s == pytest.approx(0.07)


def test_a_share_lies_within_its_bar_and_below_the_slowest() -> None:
    within = [0] * (len(FIRST_EDGES_S) + 1)
    within[3] = 10  # above 0.2 up to 0.5
    assert _share(within, 0.5, 0.5) == pytest.approx(0.35)
    assert _share(within, 0.95, 0.3) == 0.3
    within[10] = 10  # above the last edge
    assert _share(within, 0.95, 90.0) == pytest.approx(87.0)

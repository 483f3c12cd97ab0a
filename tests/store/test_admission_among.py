"""Who waits for one of several hosts is served by whichever is free first, before newcomers."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from lambent.admission.decisions import (
    AdmissionRequest,
    Admitted,
    Candidates,
    Decision,
    Grant,
    Outcome,
    Queued,
    Refused,
)
from lambent.admission.gate import Gate
from lambent.clock import SystemClock
from lambent.errors import BreakerOpen
from lambent.postgres import Postgres
from tests.store.admission_kit import Stand, stand

BOTH = ("http://one.test:11434", "http://two.test:11434")
CALM = {"max_inflight": 1, "ticket_lease_s": 60.0}


def request(client: str, hosts: tuple[str, ...] = BOTH) -> AdmissionRequest:
    return AdmissionRequest(
        credential=None, scope=None, among=Candidates(hosts), slot=True, on_behalf_of=client
    )


async def ask(place: Stand, client: str, hosts: tuple[str, ...] = BOTH) -> Decision:
    return await place.gate.admit(request(client, hosts))


async def queued(place: Stand, client: str, hosts: tuple[str, ...] = BOTH) -> Queued:
    decision = await ask(place, client, hosts)
    assert isinstance(decision, Queued), decision
    return decision


async def fill(place: Stand) -> dict[str, Admitted]:
    """Hold the only slot of each host."""
    held = [await ask(place, "holder") for _ in BOTH]
    assert all(isinstance(one, Admitted) for one in held)
    return {one.grant.host or "": one for one in held if isinstance(one, Admitted)}


@pytest.mark.parametrize("newcomer_knows", [BOTH, BOTH[:1], BOTH[1:]])
@pytest.mark.parametrize("frees", BOTH)
async def test_a_slot_that_frees_anywhere_is_the_waiters_before_a_newcomers(
    postgres_dsn: str, frees: str, newcomer_knows: tuple[str, ...]
) -> None:
    async with stand(postgres_dsn, **CALM) as place:
        held = await fill(place)
        waiter = await queued(place, "acme")
        await place.gate.finish(held[frees].grant, Outcome.SUCCESS)
        assert isinstance(await ask(place, "acme", newcomer_knows), Queued)
        served = await place.gate.look(waiter)
        assert isinstance(served, Admitted)
        assert served.grant.host == frees


async def test_a_breaker_that_opens_moves_the_waiter_with_its_age(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, **CALM) as place:
        held = await fill(place)
        first, second = await queued(place, "acme"), await queued(place, "acme")
        other = next(host for host in BOTH if host != first.host)
        await place.gate.trip(first.host)
        moved = await place.gate.look(first)
        assert isinstance(moved, Queued)
        assert (moved.host, moved.position) == (other, 1)
        await place.gate.finish(held[other].grant, Outcome.SUCCESS)
        assert isinstance(await place.gate.look(second), Queued)
        served = await place.gate.look(moved)
        assert isinstance(served, Admitted)
        assert served.grant.host == other


async def test_only_where_every_breaker_is_open_the_waiter_is_refused(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, **CALM) as place:
        await fill(place)
        waiter = await queued(place, "acme")
        await place.gate.trip(BOTH[0], open_s=50)
        await place.gate.trip(BOTH[1], open_s=20)
        decision = await place.gate.look(waiter)
        assert isinstance(decision, Refused)
        assert isinstance(decision.error, BreakerOpen)
        assert 0 < decision.error.retry_after_s <= 20
        assert not (await place.gate.state()).waiting


async def test_a_host_that_may_be_tried_again_is_tried_before_anyone_waits(
    postgres_dsn: str,
) -> None:
    async with stand(postgres_dsn, **CALM) as place:
        held = await fill(place)
        waiter = await queued(place, "acme")
        await place.gate.finish(held[BOTH[1]].grant, Outcome.FAILURE)
        await place.gate.trip(BOTH[1], open_s=0)
        prober = await ask(place, "other")
        assert isinstance(prober, Admitted)
        assert (prober.grant.host, prober.grant.probe) == (BOTH[1], True)
        # The probe is out: the one that may not have it waits for the healthy host.
        assert isinstance(await ask(place, "other"), Queued)
        assert isinstance(await place.gate.look(waiter), Queued)
        await place.gate.finish(prober.grant, Outcome.ABANDONED)
        probing = await place.gate.look(waiter)
        assert isinstance(probing, Admitted)
        assert probing.grant.probe
        assert [one.client for one in (await place.gate.state()).waiting] == ["other"]


async def served_next(place: Stand, waiting: list[Queued], grant: Grant) -> Admitted:
    """Whoever of these gets the slot that `grant` gives back; the last one to come looks first."""
    await place.gate.finish(grant, Outcome.SUCCESS)
    for one in reversed(waiting):
        if isinstance(decision := await place.gate.look(one), Admitted):
            waiting.remove(one)
            return decision
    raise AssertionError("nobody was served")


async def test_a_clients_many_tickets_do_not_starve_anothers_one(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, **CALM) as place:
        held = await fill(place)
        waiting = [await queued(place, "greedy") for _ in range(20)]
        waiting.append(await queued(place, "modest"))
        grants = [one.grant for one in held.values()]
        order: list[str] = []
        for _ in range(4):
            served = await served_next(place, waiting, grants.pop(0))
            grants.append(served.grant)
            order.append(served.principal.client)
        # It came later, so one of the others goes first: at one of the hosts, not at each.
        assert order == ["greedy", "modest", "greedy", "greedy"]


async def test_who_is_served_elsewhere_leaves_its_turn_to_who_has_one_host_only(
    postgres_dsn: str,
) -> None:
    async with stand(postgres_dsn, **CALM) as place:
        held = await fill(place)
        waiting = [await queued(place, "wide") for _ in range(10)]
        waiting += [await queued(place, "narrow", BOTH[:1]) for _ in range(10)]
        grants = {host: one.grant for host, one in held.items()}
        at_one = []
        for _ in range(4):
            for host in reversed(BOTH):
                served = await served_next(place, waiting, grants[host])
                grants[host] = served.grant
                if host == BOTH[0]:
                    at_one.append(served.principal.client)
        assert at_one == ["narrow"] * 4


async def test_what_a_client_got_elsewhere_is_not_held_against_it_for_long(
    postgres_dsn: str,
) -> None:
    async with stand(postgres_dsn, **CALM) as place:
        held = await fill(place)
        waiting = [await queued(place, "narrow", BOTH[:1]) for _ in range(30)]
        one, other = (held[host].grant for host in BOTH)
        for _ in range(60):
            mine = await queued(place, "wide")
            other = (await served_next(place, [mine], other)).grant
        waiting.append(await queued(place, "wide"))
        order = []
        while waiting[-1].principal.client == "wide":
            served = await served_next(place, waiting, one)
            one = served.grant
            order.append(served.principal.client)
        assert order == ["narrow"] * (len(order) - 1) + ["wide"]
        assert 20 <= len(order) <= 22


async def test_code_of_the_version_before_holds_its_ticket_at_its_one_host(
    postgres_dsn: str,
) -> None:
    async with stand(postgres_dsn, **CALM) as place:
        held = await fill(place)
        waiter = replace(await queued(place, "acme"), among=None)
        assert isinstance(await place.gate.look(waiter), Queued)
        other = next(host for host in BOTH if host != waiter.host)
        await place.gate.finish(held[other].grant, Outcome.SUCCESS)
        newcomer = await ask(place, "other")
        assert isinstance(newcomer, Admitted)
        await place.gate.finish(held[waiter.host].grant, Outcome.SUCCESS)
        assert isinstance(await place.gate.look(waiter), Admitted)


async def test_a_waiter_that_leaves_gives_up_what_it_was_served_unnoticed(
    postgres_dsn: str,
) -> None:
    async with stand(postgres_dsn, **CALM) as place:
        held = await fill(place)
        waiter = await queued(place, "acme")
        await place.gate.finish(held[BOTH[1]].grant, Outcome.SUCCESS)
        assert isinstance(await place.gate.look(waiter), Admitted)
        await place.gate.leave(waiter)
        state = await place.gate.state()
        assert [one.host for one in state.slots] == [BOTH[0]]
        assert not state.waiting


async def test_under_a_crowd_no_host_has_more_than_its_slots_and_everyone_is_served(
    postgres_dsn: str,
) -> None:
    numbers = {"max_inflight": 2, "poll_s": 0.01, "ticket_lease_s": 60.0, "slot_wait_s": 120.0}
    busy: Counter[str] = Counter()
    served: Counter[str] = Counter()
    async with stand(postgres_dsn, **numbers) as place, AsyncExitStack() as held:
        gates = []
        for _ in range(4):
            postgres = Postgres(postgres_dsn, clock=SystemClock())
            held.push_async_callback(postgres.close)
            gates.append(Gate(postgres, clock=SystemClock(), config=place.config))

        async def work(gate: Gate, client: str, hosts: tuple[str, ...]) -> None:
            for _ in range(5):
                grant = await gate.granted(request(client, hosts))
                host = grant.host or ""
                busy[host] += 1
                assert busy[host] <= 2
                await asyncio.sleep(0.002)
                busy[host] -= 1
                served[host] += 1
                await gate.finish(grant, Outcome.SUCCESS)

        crowd = [
            work(gates[nth % 4], f"client-{nth % 5}", (BOTH, BOTH[::-1], BOTH[:1])[nth % 3])
            for nth in range(24)
        ]
        await asyncio.gather(*crowd)
    assert served.total() == 24 * 5
    assert served[BOTH[1]]

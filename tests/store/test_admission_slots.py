"""Model slots: never more than there are, leased, handed on in a fair order."""

import asyncio
from contextlib import aclosing

from lambent.admission.decisions import Admitted, Outcome, Queued, Refused
from lambent.errors import BreakerOpen, NoSlot
from tests.store.admission_kit import HOST, Stand, stand

QUICK = {"poll_s": 0.02, "lease_s": 0.5, "ticket_lease_s": 0.4}


async def served_in_order(place: Stand, waiting: list[Queued]) -> list[str]:
    """Free one slot after another; who gets each, when all look in any order."""
    order = []
    while waiting:
        for queued in reversed(waiting):
            if isinstance(decision := await place.gate.look(queued), Admitted):
                order.append(queued.principal.client)
                waiting.remove(queued)
                await place.gate.finish(decision.grant, Outcome.SUCCESS)
                break
    return order


async def test_no_more_than_the_maximum_and_a_finished_call_makes_room(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, max_inflight=2) as place:
        first = await place.admitted(slot=True)
        second = await place.admitted(slot=True)
        assert {first.grant.slot, second.grant.slot} == {0, 1}
        queued = await place.queued()
        assert queued.position == 1
        await place.gate.finish(first.grant, Outcome.SUCCESS)
        third = await place.gate.look(queued)
        assert isinstance(third, Admitted)
        assert third.grant.slot == first.grant.slot


async def test_finishing_twice_does_not_free_someone_elses_slot(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, max_inflight=1) as place:
        first = await place.admitted(slot=True)
        await place.gate.finish(first.grant, Outcome.SUCCESS)
        await place.admitted(slot=True)
        await place.gate.finish(first.grant, Outcome.SUCCESS)
        await place.queued()


async def test_the_slot_of_a_dead_holder_comes_back_with_its_lease(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, max_inflight=1, **QUICK) as place:
        dead = await place.admitted(slot=True)
        await asyncio.sleep(0.55)
        heir = await place.admitted(slot=True)
        assert not await place.gate.renew(dead.grant)
        await place.gate.finish(dead.grant, Outcome.SUCCESS)
        assert await place.gate.renew(heir.grant)


async def test_a_long_generation_keeps_its_slot_by_renewing(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, max_inflight=1, **QUICK) as place:
        holder = await place.admitted(slot=True)
        async with place.gate.keeping(holder.grant):
            await asyncio.sleep(0.8)
            await place.queued()


async def test_nobody_passes_those_who_wait(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, max_inflight=1) as place:
        holder = await place.admitted(slot=True)
        queued = await place.queued("early")
        await place.gate.finish(holder.grant, Outcome.SUCCESS)
        late = await place.queued("late")
        assert late.position == 2
        assert isinstance(await place.gate.look(queued), Admitted)


async def test_a_clients_tickets_are_served_oldest_first(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, max_inflight=1) as place:
        holder = await place.admitted(slot=True)
        waiting = [await place.queued() for _ in range(4)]
        assert [one.position for one in waiting] == [1, 2, 3, 4]
        await place.gate.finish(holder.grant, Outcome.SUCCESS)
        for index in range(4):
            for later in waiting[index + 1 :]:
                assert isinstance(await place.gate.look(later), Queued)
            served = await place.gate.look(waiting[index])
            assert isinstance(served, Admitted)
            await place.gate.finish(served.grant, Outcome.SUCCESS)


async def test_a_hundred_tickets_do_not_starve_another_clients_one(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, max_inflight=1, ticket_lease_s=60.0) as place:
        holder = await place.admitted("greedy", slot=True)
        waiting = [await place.queued("greedy") for _ in range(100)]
        modest = await place.queued("modest")
        assert modest.position == 2
        await place.gate.finish(holder.grant, Outcome.SUCCESS)
        order = await served_in_order(place, [*waiting[:5], modest])
        assert order == ["greedy", "modest", "greedy", "greedy", "greedy", "greedy"]


async def test_clients_take_turns_even_if_some_come_back_at_once(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, max_inflight=1, ticket_lease_s=60.0) as place:
        holder = await place.admitted("many", slot=True)
        waiting = [await place.queued("many") for _ in range(4)]
        waiting += [await place.queued(client) for client in ("one", "two")]
        await place.gate.finish(holder.grant, Outcome.SUCCESS)
        order = []
        for _ in range(9):
            (client,) = await served_in_order_once(place, waiting)
            order.append(client)
            if client != "many":
                waiting.append(await place.queued(client))
        assert order == ["many", "one", "two"] * 3


async def served_in_order_once(place: Stand, waiting: list[Queued]) -> list[str]:
    for queued in list(waiting):
        if isinstance(decision := await place.gate.look(queued), Admitted):
            await place.gate.finish(decision.grant, Outcome.SUCCESS)
            waiting.remove(queued)
            return [queued.principal.client]
    return []


async def test_waiting_tells_each_new_position_and_ends_with_a_slot(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, max_inflight=1, poll_s=0.02) as place:
        holder = await place.admitted(slot=True)
        first, second = await place.queued(), await place.queued()
        seen: list[int | str] = []

        async def waiter() -> None:
            async for step in place.gate.wait(second):
                seen.append(step.position if isinstance(step, Queued) else type(step).__name__)

        task = asyncio.create_task(waiter())
        await asyncio.sleep(0.2)
        await place.gate.leave(first)
        await asyncio.sleep(0.2)
        await place.gate.finish(holder.grant, Outcome.SUCCESS)
        await asyncio.wait_for(task, 5)
        assert seen == [1, "Admitted"]


async def test_who_waited_long_enough_is_told_the_place_and_when_to_come_back(
    postgres_dsn: str,
) -> None:
    async with stand(postgres_dsn, max_inflight=1, slot_wait_s=0.2, poll_s=0.02) as place:
        await place.admitted(slot=True)
        await place.queued()
        queued = await place.queued()
        (end,) = [step async for step in place.gate.wait(queued)]
        assert isinstance(end, Refused)
        assert isinstance(end.error, NoSlot)
        assert end.error.fields["position"] == 2
        assert end.error.retry_after_s >= 1
        assert len((await place.gate.state()).waiting) == 1


async def test_a_waiter_that_died_loses_its_ticket_and_the_next_one_goes(
    postgres_dsn: str,
) -> None:
    async with stand(postgres_dsn, max_inflight=1, poll_s=0.02, ticket_lease_s=0.4) as place:
        holder = await place.admitted(slot=True)
        await place.queued("dead")
        alive = await place.queued("alive")
        await place.gate.finish(holder.grant, Outcome.SUCCESS)
        steps = [step async for step in place.gate.wait(alive)]
        assert isinstance(steps[-1], Admitted)


async def test_a_caller_that_goes_away_gives_its_ticket_up(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, max_inflight=1, poll_s=0.02) as place:
        await place.admitted(slot=True)
        ahead, queued = await place.queued(), await place.queued()
        async with aclosing(place.gate.wait(queued)) as steps:
            await place.gate.leave(ahead)
            await anext(steps)
        assert (await place.gate.state()).waiting == ()


async def test_who_waits_when_the_breaker_opens_is_told_so(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, max_inflight=1, poll_s=0.02) as place:
        await place.admitted(slot=True)
        queued = await place.queued()
        await place.gate.trip(HOST)
        (end,) = [step async for step in place.gate.wait(queued)]
        assert isinstance(end, Refused)
        assert isinstance(end.error, BreakerOpen)
        assert (await place.gate.state()).waiting == ()


async def test_the_estimate_follows_how_long_slots_are_really_held(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, max_inflight=1) as place:
        for _ in range(2):
            holder = await place.admitted(slot=True)
            await asyncio.sleep(0.3)
            await place.gate.finish(holder.grant, Outcome.SUCCESS)
        await place.admitted(slot=True)
        queued = [await place.queued() for _ in range(2)]
        assert 0.25 < queued[0].estimated_wait_s < 0.6
        assert queued[1].estimated_wait_s > 1.9 * queued[0].estimated_wait_s


async def test_a_dashboard_sees_slots_and_the_queue(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, max_inflight=1) as place:
        await place.admitted("holder", slot=True)
        await place.queued("waiter")
        state = await place.gate.state()
        assert [(one.client, one.number) for one in state.slots] == [("holder", 0)]
        assert [(one.client, one.position) for one in state.waiting] == [("waiter", 1)]


async def test_more_or_fewer_slots_take_effect_with_the_next_request(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, max_inflight=1) as one:
        await one.admitted(slot=True)
        await one.gate.leave(await one.queued())
        async with stand(postgres_dsn, max_inflight=3) as three:
            assert {(await three.admitted(slot=True)).grant.slot for _ in range(2)} == {1, 2}
        await one.queued()

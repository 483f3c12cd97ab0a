"""The shared breaker: what opens it, who may probe, what closes it, and what no longer counts."""

import asyncio
import json
from dataclasses import replace

import pytest

from lambent.admission.decisions import Admitted, BreakerState, Grant, Outcome, Refused
from lambent.errors import BreakerOpen
from lambent.metrics import flush
from tests.store.admission_kit import HOST, Stand, stand

FAST = {"breaker_failures": 3, "breaker_open_s": 0.3, "breaker_successes": 2, "lease_s": 0.5}


async def breaker(place: Stand) -> BreakerState:
    (found,) = (await place.gate.state()).breakers
    return found


async def fail(place: Stand, times: int) -> None:
    for _ in range(times):
        await place.gate.finish((await place.admitted()).grant, Outcome.FAILURE)


async def half_open(place: Stand) -> Grant:
    """Open it, let its time pass, take the probe."""
    await fail(place, 3)
    await asyncio.sleep(0.35)
    grant = (await place.admitted()).grant
    assert grant.probe
    return grant


async def test_failures_in_a_row_open_it_and_it_says_how_long(postgres_dsn: str) -> None:
    async with stand(postgres_dsn) as place:
        await fail(place, 4)
        assert (await breaker(place)).state == "closed"
        await fail(place, 1)
        assert (await breaker(place)).state == "open"
        refused = await place.ask_as("acme", slot=True)
        assert isinstance(refused.error, BreakerOpen)
        assert 29 < refused.error.retry_after_s <= 30


@pytest.mark.parametrize("well", [Outcome.SUCCESS, Outcome.REFUSED])
async def test_an_answer_in_between_starts_the_count_again(
    postgres_dsn: str, well: Outcome
) -> None:
    async with stand(postgres_dsn, **FAST) as place:
        await fail(place, 2)
        await place.gate.finish((await place.admitted()).grant, well)
        await fail(place, 2)
        assert (await breaker(place)).state == "closed"


@pytest.mark.parametrize("nothing", [Outcome.BUSY, Outcome.ABANDONED])
async def test_a_busy_host_and_a_client_that_left_say_nothing(
    postgres_dsn: str, nothing: Outcome
) -> None:
    async with stand(postgres_dsn, **FAST) as place:
        await fail(place, 2)
        await place.gate.finish((await place.admitted()).grant, nothing)
        assert (await breaker(place)).failures == 2


async def test_a_success_on_a_healthy_host_writes_nothing(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, **FAST) as place:
        await fail(place, 1)
        await place.gate.finish((await place.admitted()).grant, Outcome.SUCCESS)
        before = await place.postgres.fetch("SELECT xmin, ctid FROM lambent.breaker")
        await place.gate.finish((await place.admitted()).grant, Outcome.SUCCESS)
        assert await place.postgres.fetch("SELECT xmin, ctid FROM lambent.breaker") == before


async def test_successful_probes_close_it(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, **FAST) as place:
        probe = await half_open(place)
        await place.gate.finish(probe, Outcome.SUCCESS)
        assert (await breaker(place)).state == "half_open"
        second = (await place.admitted(slot=True)).grant
        assert second.probe
        assert second.slot is None
        await place.gate.finish(second, Outcome.REFUSED)
        assert (await breaker(place)).state == "closed"
        assert not (await place.admitted()).grant.probe


async def test_a_failed_probe_opens_it_again(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, **FAST) as place:
        await place.gate.finish(await half_open(place), Outcome.SUCCESS)
        await place.gate.finish((await place.admitted()).grant, Outcome.FAILURE)
        state = await breaker(place)
        assert (state.state, state.successes) == ("open", 0)
        assert isinstance(await place.ask_as("acme"), Refused)


async def test_there_is_one_probe_at_a_time(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, **FAST) as place:
        await half_open(place)
        refused = await place.ask_as("other")
        assert isinstance(refused.error, BreakerOpen)
        assert refused.error.retry_after_s == 1.0


@pytest.mark.parametrize("nothing", [Outcome.BUSY, Outcome.ABANDONED])
async def test_a_probe_without_a_verdict_is_free_for_the_next(
    postgres_dsn: str, nothing: Outcome
) -> None:
    async with stand(postgres_dsn, **FAST) as place:
        await place.gate.finish(await half_open(place), nothing)
        assert (await breaker(place)).successes == 0
        assert (await place.admitted()).grant.probe


async def test_a_probe_whose_owner_died_passes_on_and_its_late_word_counts_no_more(
    postgres_dsn: str,
) -> None:
    async with stand(postgres_dsn, **FAST) as place:
        dead = await half_open(place)
        await asyncio.sleep(0.55)
        heir = (await place.admitted()).grant
        assert heir.probe
        for late in (Outcome.FAILURE, Outcome.SUCCESS, Outcome.BUSY):
            await place.gate.finish(dead, late)
        state = await breaker(place)
        assert (state.state, state.successes, state.probing) == ("half_open", 0, True)
        assert not await place.gate.renew(dead)
        assert await place.gate.renew(heir)


async def test_a_renewed_probe_is_kept_beyond_its_lease(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, **FAST) as place:
        probe = await half_open(place)
        async with place.gate.keeping(probe):
            await asyncio.sleep(0.8)
            assert isinstance(await place.ask_as("other"), Refused)


async def test_results_of_an_earlier_generation_are_ignored(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, **FAST) as place:
        late = [(await place.admitted()).grant for _ in range(4)]
        await place.gate.finish(await half_open(place), Outcome.SUCCESS)
        for grant in late:
            await place.gate.finish(grant, Outcome.FAILURE)
        assert (await breaker(place)).state == "half_open"
        await place.gate.finish((await place.admitted()).grant, Outcome.SUCCESS)
        for grant in late:
            await place.gate.finish(grant, Outcome.FAILURE)
        state = await breaker(place)
        assert (state.state, state.failures) == ("closed", 0)


async def test_the_end_of_a_long_answer_does_not_wipe_out_newer_failures(
    postgres_dsn: str,
) -> None:
    async with stand(postgres_dsn, **FAST) as place:
        long = await place.gate.verdict((await place.admitted()).grant, Outcome.SUCCESS)
        await fail(place, 2)
        await place.gate.finish(long, Outcome.SUCCESS)
        assert (await breaker(place)).failures == 2


async def test_a_stream_that_breaks_after_its_first_token_is_one_failure(
    postgres_dsn: str,
) -> None:
    async with stand(postgres_dsn, **FAST) as place:
        grant = await place.gate.verdict((await place.admitted()).grant, Outcome.SUCCESS)
        await place.gate.finish(grant, Outcome.FAILURE)
        assert (await breaker(place)).failures == 1
        failed = await place.gate.verdict((await place.admitted()).grant, Outcome.FAILURE)
        await place.gate.finish(failed, Outcome.FAILURE)
        assert (await breaker(place)).failures == 2


async def test_a_probe_judged_at_its_first_token_lets_the_next_one_in_and_counts_once(
    postgres_dsn: str,
) -> None:
    async with stand(postgres_dsn, **FAST) as place:
        first = await place.gate.verdict(await half_open(place), Outcome.SUCCESS)
        second = (await place.admitted()).grant
        assert second.probe
        await place.gate.finish(first, Outcome.SUCCESS)
        state = await breaker(place)
        assert (state.successes, state.probing) == (1, True)


async def test_a_judged_probe_that_breaks_later_opens_it_again(postgres_dsn: str) -> None:
    async with stand(postgres_dsn, **FAST) as place:
        probe = await place.gate.verdict(await half_open(place), Outcome.SUCCESS)
        await place.gate.finish(probe, Outcome.FAILURE)
        assert (await breaker(place)).state == "open"


async def test_a_person_can_trip_and_reset_it(postgres_dsn: str) -> None:
    async with stand(postgres_dsn) as place:
        before = (await place.admitted()).grant
        await place.gate.trip(HOST, open_s=600)
        assert (await place.ask_as("acme")).error.retry_after_s > 599
        await place.gate.reset(HOST)
        assert isinstance(await place.ask_as("acme"), Admitted)
        await place.gate.finish(before, Outcome.FAILURE)
        assert (await breaker(place)).failures == 0


async def test_each_host_has_its_own(postgres_dsn: str) -> None:
    async with stand(postgres_dsn) as place:
        await place.gate.trip(HOST)
        elsewhere = await place.ask(host="http://another.test")
        assert isinstance(elsewhere, Admitted)
        other = replace(elsewhere.grant, host="http://another.test")
        assert await place.gate.finish(other, Outcome.SUCCESS)


async def test_functions_of_the_release_before_still_open_it_while_a_deploy_goes_on(
    postgres_dsn: str,
) -> None:
    async with stand(postgres_dsn, **FAST) as place:
        for _ in range(3):
            grant = (await place.admitted()).grant
            told = (HOST, grant.token, grant.slot, False, grant.generation, "failure", False)
            called = "SELECT lambent.finish(%s, %s, %s, %s, %s, %s, %s, 3, 30.0, 2)"
            await place.postgres.fetch(called, told)
        assert (await breaker(place)).state == "open"


async def test_of_many_failures_at_once_one_is_told_that_it_opened(
    postgres_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flush()
    capsys.readouterr()
    async with stand(postgres_dsn, **FAST, max_inflight=9) as place:
        grants = [(await place.admitted()).grant for _ in range(9)]
        await asyncio.gather(*(place.gate.finish(one, Outcome.FAILURE) for one in grants))
        assert (await breaker(place)).state == "open"
    flush()
    assert json.loads(capsys.readouterr().out)["BreakerOpened"] == [1]

"""Due documents: what is found, who may take it, and what a settle may overwrite."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from lambent.clock import EPOCH, FAR_FUTURE, SystemClock
from lambent.due import DueDocuments, DueKind, Settled, new_due_fields
from lambent.intercept import Intercepted, StoreCall
from lambent.mongo import Mongo

KIND = DueKind("things", levels=(0, 1, 2), wakeable={"status": "open"})


class SteppedClock(SystemClock):
    """The machine's clock, moved by hand."""

    ahead = timedelta()

    def now(self) -> datetime:
        return super().now() + self.ahead

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.ahead.total_seconds()

    def pass_s(self, seconds: float) -> None:
        self.ahead += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
async def due(
    mongo_uri: str, mongo_db_name: str, clock: SteppedClock
) -> AsyncIterator[DueDocuments]:
    mongo = Mongo(mongo_uri, mongo_db_name, clock=SystemClock())
    documents = DueDocuments(mongo, KIND, clock=clock)
    await documents.ensure_indexes()
    yield documents
    await mongo.close()


async def put(due: DueDocuments, name: str, **fields: Any) -> None:
    base = {"_id": name, "priority": 1, "status": "open", **new_due_fields(EPOCH)}
    await due.collection.insert_one({**base, **fields})


async def test_what_is_due_is_found_oldest_first_within_its_level(due: DueDocuments) -> None:
    now = SystemClock().now()
    for name, ago_s, level in [("new", 1, 1), ("old", 9, 1), ("urgent", 0, 0), ("later", -60, 0)]:
        await put(due, name, due_at=now - timedelta(seconds=ago_s), priority=level)
    assert [one.id for one in await due.find(10)] == ["urgent", "old", "new"]


async def test_an_eighth_of_a_batch_goes_to_lower_levels(due: DueDocuments) -> None:
    for number in range(20):
        await put(due, f"urgent-{number}", priority=0)
    await put(due, "humble-1", priority=1)
    await put(due, "humble-2", priority=2)
    found = [one.id for one in await due.find(8)]
    assert len(found) == 8
    assert found[-1] == "humble-1"


async def test_what_is_free_is_found_behind_however_much_is_worked_on(
    due: DueDocuments, clock: SteppedClock
) -> None:
    later = clock.now() + timedelta(seconds=20)
    for number in range(13):
        held = {"lease_until": later} if number < 10 else {}
        await put(due, f"{number:02}", due_at=clock.now() + timedelta(seconds=number - 60), **held)
    assert [one.id for one in await due.find(2)] == ["10", "11"]
    assert [one.id for one in await due.find(50)] == ["10", "11", "12"]


async def test_only_one_of_two_claims_gets_the_document(due: DueDocuments) -> None:
    await put(due, "one")
    first = await due.claim("one")
    assert first is not None
    assert first.document["claims"] == 1
    assert await due.claim("one") is None
    assert await due.find(10) == []


async def test_what_is_due_within_a_second_is_taken_early_and_waited_for(
    due: DueDocuments,
) -> None:
    await put(due, "soon", due_at=SystemClock().now() + timedelta(seconds=0.3))
    await put(due, "later", due_at=SystemClock().now() + timedelta(seconds=30))
    claimed = await due.claim("soon")
    assert claimed is not None
    assert SystemClock().now() >= claimed.document["due_at"]
    assert await due.claim("later") is None


async def test_a_lapsed_lease_lets_the_next_one_in_and_marks_the_document_dangerous(
    due: DueDocuments, clock: SteppedClock
) -> None:
    await put(due, "one")
    zombie = await due.claim("one")
    clock.pass_s(31)
    assert [one.alone for one in await due.find(10)] == [True]
    heir = await due.claim("one")
    assert zombie is not None
    assert heir is not None
    assert heir.document["claims"] == 2
    assert await due.settle(zombie.lease, due_at=FAR_FUTURE, seen_signals=0) is Settled.LOST
    assert await due.renew(zombie.lease) is None


async def test_a_renewed_lease_does_not_lapse(due: DueDocuments, clock: SteppedClock) -> None:
    await put(due, "one")
    claimed = await due.claim("one")
    assert claimed is not None
    clock.pass_s(20)
    assert await due.renew(claimed.lease, set={"cursor": 7}) is not None
    clock.pass_s(20)
    assert await due.claim("one") is None
    assert (await due.collection.find_one({"_id": "one"}) or {})["cursor"] == 7


async def test_a_signal_since_the_claim_stops_a_settle_that_would_sleep(
    due: DueDocuments,
) -> None:
    await put(due, "one")
    claimed = await due.claim("one")
    assert claimed is not None
    assert await due.wake("one")
    slept = await due.settle(claimed.lease, due_at=FAR_FUTURE, seen_signals=0)
    assert slept is Settled.SIGNALLED
    assert await due.settle(claimed.lease, due_at=EPOCH, seen_signals=0) is Settled.DONE
    assert [one.id for one in await due.find(10)] == ["one"]


async def test_a_settle_frees_the_document_and_forgets_the_claims(due: DueDocuments) -> None:
    await put(due, "one")
    claimed = await due.claim("one")
    assert claimed is not None
    done = await due.settle(
        claimed.lease, due_at=FAR_FUTURE, seen_signals=0, set={"x": 1}, unset=["status"]
    )
    document = await due.collection.find_one({"_id": "one"}) or {}
    assert done is Settled.DONE
    assert (document["lease"], document["lease_until"], document["claims"]) == (None, EPOCH, 0)
    assert (document["x"], "status" in document) == (1, False)


async def test_a_release_counts_no_claim(due: DueDocuments) -> None:
    await put(due, "one")
    claimed = await due.claim("one")
    assert claimed is not None
    await due.release(claimed.lease)
    assert [(one.id, one.alone) for one in await due.find(10)] == [("one", False)]


async def test_a_wake_reaches_only_what_is_wakeable(due: DueDocuments) -> None:
    await put(due, "asleep", due_at=FAR_FUTURE)
    await put(due, "ended", due_at=FAR_FUTURE, status="closed")
    assert await due.wake("asleep", set={"control": "cancel"})
    assert not await due.wake("ended")
    assert [one.id for one in await due.find(10)] == ["asleep"]


async def test_the_next_due_time_is_the_earlier_of_a_timer_and_a_lapsing_lease(
    due: DueDocuments,
) -> None:
    now = SystemClock().now()
    await put(due, "timer", due_at=now + timedelta(seconds=40))
    minute = now + timedelta(seconds=60)
    assert await due.next_due_at(minute) == now + timedelta(seconds=40)
    await put(due, "leased")
    claimed = await due.claim("leased")
    assert claimed is not None
    lapse = await due.next_due_at(minute)
    assert lapse is not None
    assert lapse < now + timedelta(seconds=40)
    assert await due.next_due_at(now + timedelta(seconds=5)) is None


async def test_what_is_put_off_while_it_is_claimed_is_given_back(due: DueDocuments) -> None:
    await put(due, "tick", due_at=SystemClock().now())
    later = SystemClock().now() + timedelta(days=1)

    async def put_off(call: StoreCall, make: Callable[[], Awaitable[Any]]) -> Any:
        if call.name == "find_one":  # the claim is written, and about to be read back
            await due.collection.update_one({"_id": "tick"}, {"$set": {"due_at": later}})
        return await make()

    mongo = SimpleNamespace(db={KIND.collection: due.collection})
    claimer = DueDocuments(Intercepted(mongo, put_off), KIND, clock=SystemClock())
    async with asyncio.timeout(30):
        assert await claimer.claim("tick") is None
    document = await due.collection.find_one({"_id": "tick"})
    assert document is not None
    assert (document["lease"], document["claims"]) == (None, 0)

"""The poller against a real store and a turned clock."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Coroutine, Iterable
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from lambent.clock import FAR_FUTURE
from lambent.dispatch import QUIET_S, Work
from lambent.due import DueDocuments, DueKind, new_due_fields
from lambent.errors import StoreUnavailable
from lambent.metrics import flush
from lambent.mongo import Mongo
from lambent.poller.generation import PollerBell
from lambent.poller.poller import Left, Poller
from lambent.poller.source import LEAD_S, LOOK_LIMIT, Fleet, Source
from tests.store.bus_world import MortalMongo, TurnedClock

RUNS = DueKind("runs", levels=(0, 1, 2))
EVENTS = DueKind("events")


class Functions:
    """Takes nudges as the fleet would: notes when each came, and does the work if told to."""

    def __init__(self, world: "PollerWorld") -> None:
        self._world = world
        self.calls: list[tuple[float, Work, list[str]]] = []
        self.works = True
        self.again_s: float | None = None  # due once more so long after its work
        self.in_work = self.most_in_work = 0

    def nudge(
        self, work: Work, ids: Iterable[str], *, news: bool = False
    ) -> Coroutine[Any, Any, int]:
        async def send() -> int:
            batch = list(ids)
            if batch:
                self.calls.append((self._world.clock.passed_s, work, batch))
            if self.works and work is not Work.POLL:
                await self._work(work, batch)
            return len(batch)

        return send()

    async def _work(self, work: Work, batch: list[str]) -> None:
        documents = self._world.documents(work)
        leases = [c.lease for one in batch if (c := await documents.claim(one)) is not None]
        self.in_work += len(leases)
        self.most_in_work = max(self.most_in_work, self.in_work)
        due_at = FAR_FUTURE
        if self.again_s is not None:
            due_at = self._world.clock.now() + timedelta(seconds=self.again_s)
        for lease in leases:
            await documents.settle(lease, due_at=due_at, seen_signals=None)
        self.in_work -= len(leases)

    def times_of(self, document_id: str) -> list[float]:
        return [at_s for at_s, _, ids in self.calls if document_id in ids]


class PollerWorld:
    def __init__(self, uri: str, db_name: str) -> None:
        self.clock = TurnedClock()
        self.mongo = Mongo(uri, db_name, clock=TurnedClock())
        self.functions = Functions(self)

    def documents(self, work: Work, mongo: Any = None) -> DueDocuments:
        kind = RUNS if work is Work.RUNS else EVENTS
        return DueDocuments(mongo or self.mongo, kind, clock=self.clock)

    def poller(self, mongo: Any = None, fleet: Fleet | None = None) -> Poller:
        sources = [
            Source(
                work,
                self.documents(work, mongo),
                fleet=fleet or Fleet(4, 5),
                nudges=self.functions,
                clock=self.clock,
            )
            for work in (Work.RUNS, Work.EVENTS)
        ]
        return Poller(mongo or self.mongo, sources, clock=self.clock)

    async def add(self, *ids: str, in_s: float = 0.0, **changes: Any) -> None:
        due_at = self.clock.now() + timedelta(seconds=in_s)
        new = [{"_id": one, "priority": 1, **new_due_fields(due_at), **changes} for one in ids]
        for start in range(0, len(new), 500):
            await self.mongo.db["runs"].insert_many(new[start : start + 500])

    async def until(self, passed_s: float) -> None:
        while self.clock.passed_s < passed_s:  # noqa: ASYNC110 (only the clock tells)
            await asyncio.sleep(0)

    async def watch(self, poller: Poller | None = None, *, for_s: float = 75) -> Left:
        poller = poller or self.poller()
        return await poller.watch(deadline_s=self.clock.passed_s + for_s)


@pytest_asyncio.fixture
async def world(mongo_uri: str, mongo_db_name: str) -> AsyncIterator[PollerWorld]:
    made = PollerWorld(mongo_uri, mongo_db_name)
    for work in (Work.RUNS, Work.EVENTS):
        await made.documents(work).ensure_indexes()
    yield made
    await made.mongo.close()


async def test_an_idle_platform_is_asked_once(world: PollerWorld) -> None:
    await world.add("later", in_s=61)
    counted = MortalMongo(world.mongo)
    assert await world.watch(world.poller(counted)) is Left.IDLE
    assert counted.operations == 1
    assert world.functions.calls == []


async def test_it_wakes_just_ahead_of_the_next_due_time_and_then_ends(world: PollerWorld) -> None:
    await world.add("a", in_s=20.25)
    await world.add("b", in_s=20.75)
    assert await world.watch() is Left.IDLE
    for one, due_s in (("a", 20.25), ("b", 20.75)):
        [sent_s] = world.functions.times_of(one)
        assert due_s - LEAD_S - 0.02 <= sent_s <= due_s
    assert world.clock.passed_s < 27, "it stays only until the last nudge cannot be lost"


async def test_a_lease_that_lapses_is_found_at_its_lapse(world: PollerWorld) -> None:
    await world.add("a")
    assert await world.documents(Work.RUNS).claim("a") is not None
    assert await world.watch() is Left.IDLE
    assert all(30 <= at_s <= 31.1 for at_s in world.functions.times_of("a"))


async def test_a_dropped_nudge_is_sent_again_after_the_quiet_time(world: PollerWorld) -> None:
    await world.add("a")
    world.functions.works = False
    assert await world.watch(for_s=8) is Left.DEADLINE
    first_s, second_s = world.functions.times_of("a")
    assert QUIET_S <= second_s - first_s <= QUIET_S + 1.1


@pytest.mark.parametrize("again_s", [1.2, 2.5, 4.0])
async def test_what_is_due_again_within_the_quiet_time_is_sent_again_in_time(
    world: PollerWorld, again_s: float
) -> None:
    # As many as the fleet takes at once: none of them may count as sent and not yet begun.
    ids = [f"r{number:02}" for number in range(Fleet(4, 5).ids)]
    await world.add(*ids)
    world.functions.again_s = again_s
    assert await world.watch(for_s=20) is Left.DEADLINE
    for one in ids:
        times_s = world.functions.times_of(one)
        rests_s = [later - sooner for sooner, later in itertools.pairwise(times_s)]
        assert len(rests_s) >= 4
        # A look each second finds it, ahead of its time.
        assert max(rests_s) <= again_s + 0.2, rests_s


async def test_the_newest_poller_takes_over_without_a_gap(world: PollerWorld) -> None:
    for number in range(40):
        await world.add(f"r{number:02}", in_s=number)
    old = asyncio.create_task(world.watch())
    await world.until(15)
    new = asyncio.create_task(world.watch())
    assert await old is Left.REPLACED
    assert await new is Left.IDLE
    for number in range(40):
        at_s, *_ = world.functions.times_of(f"r{number:02}")
        assert at_s <= number + 1.1


async def test_a_killed_poller_costs_one_tick(world: PollerWorld) -> None:
    await world.add("a", in_s=30)
    old = asyncio.create_task(world.watch())
    await asyncio.sleep(0)
    old.cancel()
    await asyncio.gather(old, return_exceptions=True)
    assert await world.watch() is Left.IDLE
    assert len(world.functions.times_of("a")) == 1


async def test_ten_thousand_due_documents_are_held_a_thousand_at_a_time(
    world: PollerWorld,
) -> None:
    await world.add(*(f"r{number:05}" for number in range(10_000)))
    world.functions.works = False
    poller = world.poller(fleet=Fleet(10, 10))
    await world.watch(poller, for_s=2)
    assert all(source.most_held <= LOOK_LIMIT for source in poller._sources)
    sent = [one for _, _, ids in world.functions.calls for one in ids]
    assert len(sent) == 100, "no more than the fleet takes"


async def test_a_backlog_is_drained_completely_within_the_fleet(world: PollerWorld) -> None:
    await world.add(*(f"r{number:05}" for number in range(150)))
    assert await world.watch(world.poller(fleet=Fleet(4, 5))) is Left.IDLE
    left = await world.mongo.db["runs"].count_documents({"due_at": {"$ne": FAR_FUTURE}})
    assert left == 0
    assert world.functions.most_in_work <= 20


async def test_a_run_whose_owner_died_is_sent_alone(world: PollerWorld) -> None:
    await world.add("a", "b", "c", "d")
    await world.mongo.db["runs"].update_one({"_id": "b"}, {"$set": {"claims": 1}})
    await world.watch()
    assert sorted(map(len, (ids for _, _, ids in world.functions.calls))) == [1, 3]
    assert ["b"] in [ids for _, _, ids in world.functions.calls]


async def test_higher_levels_go_first_but_lower_ones_are_not_starved(world: PollerWorld) -> None:
    await world.add(*(f"low{number:03}" for number in range(10)), priority=2)
    await world.add(*(f"high{number:04}" for number in range(1200)), priority=0)
    world.functions.works = False
    await world.watch(world.poller(fleet=Fleet(1, 950)), for_s=0.5)
    first = world.functions.calls[0][2]
    assert first[0].startswith("high")
    assert not any(one.startswith("low") for one in first[:900])
    found = await world.documents(Work.RUNS).find(100)
    assert sum(one.id.startswith("low") for one in found) == 10


async def test_the_bell_wakes_a_poller_only_where_none_is_awake(world: PollerWorld) -> None:
    bell = PollerBell(world.mongo, clock=world.clock, nudges=world.functions)
    soon = world.clock.now() + timedelta(seconds=30)
    assert await bell.ring(soon)
    assert not await bell.ring(world.clock.now() + timedelta(seconds=61))
    await world.add("a", in_s=10)
    watching = asyncio.create_task(world.watch())
    await world.until(5)
    assert not await bell.ring(soon)
    assert await watching is Left.IDLE
    assert await bell.ring(soon)


async def test_a_bell_is_rung_anew_once_a_poller_has_come_and_gone(world: PollerWorld) -> None:
    """Dispatch is quiet for 5 s about what it has just said; a poller may be gone by then."""
    bell = PollerBell(world.mongo, clock=world.clock, nudges=world.functions)

    async def rung() -> str:
        assert await bell.ring(world.clock.now() + timedelta(seconds=30))
        _, work, names = world.functions.calls[-1]
        assert work is Work.POLL
        return names[0]

    first = await rung()
    assert await rung() == first
    await world.add("a")
    assert await world.watch() is Left.IDLE
    assert await rung() != first


async def test_what_becomes_due_while_the_poller_falls_asleep_is_not_missed(
    world: PollerWorld,
) -> None:
    """The settle lands between the poller's last look and its note that it sleeps."""
    await world.add("a")
    poller = world.poller()
    bell = PollerBell(world.mongo, clock=world.clock, nudges=world.functions)
    fall_asleep = poller._generation.fall_asleep
    rang: list[bool] = []

    async def settle_first() -> bool:
        if not rang:
            await world.add("b", in_s=10)
            rang.append(await bell.ring(world.clock.now() + timedelta(seconds=10)))
        return await fall_asleep()

    poller._generation.fall_asleep = settle_first  # type: ignore[method-assign]
    assert await world.watch(poller) is Left.IDLE
    assert rang == [False], "it was still awake"
    assert len(world.functions.times_of("b")) == 1


async def test_a_stopped_poller_says_so_and_leaves(world: PollerWorld) -> None:
    await world.add("a", in_s=50)
    poller = world.poller()
    watching = asyncio.create_task(world.watch(poller))
    await world.until(3)
    poller.stop()
    assert await watching is Left.STOPPED
    bell = PollerBell(world.mongo, clock=world.clock, nudges=world.functions)
    assert await bell.ring(world.clock.now() + timedelta(seconds=5))


async def test_slow_looks_do_not_make_timers_late(world: PollerWorld) -> None:
    """Each store call takes a while; what becomes due meanwhile is still sent in its second."""
    for number in range(30):
        await world.add(f"r{number:02}", in_s=3 + number * 0.7)
    poller = world.poller()
    for source in poller._sources:
        find = source.documents.find

        async def slow_find(limit: int, *, ahead_s: float = 0.0, find: Any = find) -> Any:
            world.clock.passed_s += 0.1
            return await find(limit, ahead_s=ahead_s)

        source.documents.find = slow_find  # type: ignore[method-assign]
    await world.watch(poller)
    late_s = [world.functions.times_of(f"r{n:02}")[0] - (3 + n * 0.7) for n in range(30)]
    assert max(late_s) < 0.5


async def test_a_store_that_is_away_for_a_while_is_waited_for(world: PollerWorld) -> None:
    class AwayMongo(MortalMongo):
        def begin(self) -> None:
            if 5 < world.clock.passed_s < 25:
                raise StoreUnavailable("MongoDB does not answer.")

    await world.add("a", in_s=15)
    assert await world.watch(world.poller(AwayMongo(world.mongo))) is Left.IDLE
    [at_s] = world.functions.times_of("a")
    assert 25 <= at_s < 30


def lags(capsys: pytest.CaptureFixture[str]) -> list[float]:
    flush()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [line["DueLagSeconds"][0] for line in lines if "DueLagSeconds" in line]


async def test_the_lag_of_the_oldest_rises_while_no_step_function_runs(
    world: PollerWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    lags(capsys)  # what other tests left
    world.functions.works = False
    await world.add("late")
    assert await world.watch(for_s=100) is Left.DEADLINE
    risen = lags(capsys)
    assert len(risen) == 4, "written each half minute, and at the end"
    assert risen == sorted(risen)
    assert risen[-1] >= 95
    world.functions.works = True
    assert await world.watch() is Left.IDLE
    lags(capsys)
    assert await world.watch() is Left.IDLE
    assert lags(capsys) == [0]


@pytest.mark.parametrize("due", [{}, {"in_s": 20.0}, {"in_s": -1.0}], ids=["idle", "soon", "late"])
async def test_every_tick_that_reaches_the_store_says_how_late_it_is(
    world: PollerWorld, capsys: pytest.CaptureFixture[str], due: dict[str, float]
) -> None:
    lags(capsys)
    if due:
        await world.add("due", **due)
    assert await world.watch() is Left.IDLE
    assert lags(capsys), "a tick without a value is taken for one that saw no store"


async def test_a_tick_that_reaches_no_store_says_nothing_so_that_the_alarm_rings(
    world: PollerWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    # Not a client of nowhere: pymongo leaves the socket open that it is closed in the middle of.
    class NoMongo(MortalMongo):
        def begin(self) -> None:
            raise StoreUnavailable("MongoDB does not answer.")

    lags(capsys)
    assert await world.watch(world.poller(NoMongo(world.mongo)), for_s=5) is Left.DEADLINE
    assert lags(capsys) == []

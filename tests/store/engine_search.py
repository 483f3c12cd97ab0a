"""Searches the schedules of the scenarios; `python -m tests.store.engine_search` searches deeper.

MONGO_URI=... python -m tests.store.engine_search cancel --schedules 50000
MONGO_URI=... python -m tests.store.engine_search cancel --replay 0,0,3,1
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import secrets
import time
import traceback
from collections import deque
from collections.abc import Sequence
from contextlib import closing, redirect_stdout
from dataclasses import dataclass

from lambent.clock import SystemClock
from lambent.engine.registry import Registry
from tests.store.engine_blocking import BlockingMongo
from tests.store.engine_explorer import (
    Branching,
    RandomWalk,
    Record,
    Scheduler,
    Walk,
    successors,
)
from tests.store.engine_scenario import CONFIG, Scenario
from tests.store.engine_scenarios import SCENARIOS
from tests.store.engine_world import LAPSE_S, World

PREEMPTIONS = 2
_WORLDS = 100  # in one database


@dataclass(frozen=True, slots=True)
class Failure:
    """How to play it again, and what went wrong."""

    scenario: str
    schedule: list[int]
    log: list[str]
    problem: str

    def __str__(self) -> str:
        steps = "\n".join(f"  {choice}  {label}" for choice, label in
                          zip(self.schedule, self.log, strict=False))  # fmt: skip
        played = ",".join(map(str, self.schedule))
        return f"{self.scenario} --replay {played}\n{steps}\n{self.problem}"


class Databases:
    """One prepared database after another on a server, so that none fills up: some of what the
    engine asks scans in small databases, and would scan all the worlds that were."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._mongo: BlockingMongo | None = None
        self._left = 0

    async def for_a_world(self) -> BlockingMongo:
        if self._mongo is None or not self._left:
            self.close()
            self._mongo = BlockingMongo(self._uri, f"explore_{secrets.token_hex(6)}")
            await _prepare(self._mongo)
            self._left = _WORLDS
        self._left -= 1
        return self._mongo

    def close(self) -> None:
        if self._mongo is not None:
            self._mongo.drop()
            self._mongo = None


class Search:
    """One worker: its own databases, its share of the schedules."""

    def __init__(self, databases: Databases, scenario: Scenario) -> None:
        self._databases = databases
        self._scenario = scenario
        self._registry = Registry()
        self._world: World
        scenario.register(self._registry, lambda: self._world)

    async def play(self, walk: Walk) -> Failure | None:
        """One schedule; None: everything held."""
        mongo = await self._databases.for_a_world()
        world = self._world = World(mongo, self._registry, config=self._scenario.config)
        scheduler = Scheduler(walk.choose, lambda: world.clock.move_s(LAPSE_S))
        try:
            actors = await self._scenario.setup(world)
            world.begin(scheduler)
            await scheduler.run(actors)
            world.stop(faulty=scheduler.faulty)
            if self._scenario.prompt is not None and not world.faulty:
                await self._scenario.prompt(world)
            await world.drain()
            await self._scenario.check(world)
            await world.check()
        except Exception:
            problem = traceback.format_exc()
            return Failure(self._scenario.name, walk.schedule, scheduler.log, problem)
        finally:
            await world.closing.aclose()
        return None

    async def first(self, share: int, shares: int, budget: int) -> tuple[int, list[Failure]]:
        """From the default schedule, those with one preemption or fault first, then those with
        two; this worker's share of the first branches."""
        root = Walk(())
        failures = [found] if (found := await self.play(root)) else []
        tried = 1
        first = self._next(root.records, 0)
        frontier: list[deque[Branching]] = [deque() for _ in range(PREEMPTIONS + 1)]
        for one in first[share::shares]:
            frontier[one.preemptions].append(one)
        while any(frontier) and tried < budget and not failures:
            queue = next(one for one in frontier if one)
            # From both ends in turn: what differs early, and what differs late.
            branching = queue.popleft() if tried % 2 else queue.pop()
            walk = Walk(branching.schedule)
            if (found := await self.play(walk)) is not None:
                failures.append(found)
            tried += 1
            for one in self._next(walk.records, len(branching.schedule)):
                frontier[one.preemptions].append(one)
        return tried, failures

    def _next(self, records: Sequence[Record], start: int) -> list[Branching]:
        return list(successors(records, start, preemptions=PREEMPTIONS))

    async def random(self, seed: int, budget: int) -> tuple[int, list[Failure]]:
        """Seeded random walks, about as long as the default schedule."""
        root = Walk(())
        await self.play(root)
        for number in range(budget):
            walk = RandomWalk(seed * 1_000_003 + number, len(root.records))
            if (found := await self.play(walk)) is not None:
                return number + 1, [found]
        return budget, []


async def search(
    databases: Databases, name: str, share: int, shares: int, budget: int, seed: int
) -> tuple[int, list[Failure]]:
    """This worker's schedules of one scenario: half by few preemptions, half by chance."""
    search = Search(databases, SCENARIOS[name])
    tried, failures = await search.first(share, shares, budget // 2)
    if not failures:
        more, failures = await search.random(seed * shares + share, budget - tried)
        tried += more
    return tried, failures


def replay(uri: str, name: str, schedule: list[int]) -> Failure | None:
    with closing(Databases(uri)) as databases:
        return asyncio.run(Search(databases, SCENARIOS[name]).play(Walk(schedule)))


# What a search of small worlds needs, beside the unique indexes, which are rules. The others find
# documents among millions; here they are only a cost at every write.
_NEEDED: dict[str, set[tuple[str, ...]]] = {
    "runs": {("client", "_id")},
    "steps": {("run", "epoch", "order")},
    "waits": {("client", "type", "status", "opened_at"), ("event",)},
    "events": set(),
    "chunks": {("set",), ("run",)},
    "schedules": set(),
    "webhooks": {("client", "status")},
    "webhook_deliveries": set(),
}


async def _prepare(mongo: BlockingMongo) -> None:
    from lambent.bus.events import ensure_event_indexes
    from lambent.bus.webhooks import ensure_webhook_indexes

    world = World(mongo, Registry(), config=CONFIG)
    await world.engine.ensure_indexes()
    await world.schedules.ensure_indexes()
    await ensure_event_indexes(mongo, clock=SystemClock())
    await ensure_webhook_indexes(mongo, clock=SystemClock())
    for collection, needed in _NEEDED.items():
        indexes = await mongo.db[collection].index_information()
        names = {name: tuple(key for key, _ in index["key"]) for name, index in indexes.items()}
        missing = needed - set(names.values())
        # Without its index a question scans, and a search takes three times as long.
        assert not missing, f"{collection} has no index {missing} any more"
        for name, index in indexes.items():
            if name != "_id_" and not index.get("unique") and names[name] not in needed:
                await mongo.db[collection].drop_index(name)


def work(
    uri: str, name: str, share: int, shares: int, budget: int, seed: int
) -> tuple[str, int, list[str]]:
    """For a process of its own."""
    # What functions tell of themselves is not printed.
    with closing(Databases(uri)) as databases, redirect_stdout(io.StringIO()):
        tried, failures = asyncio.run(search(databases, name, share, shares, budget, seed))
    return name, tried, [str(one) for one in failures]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", choices=[*SCENARIOS, "all"])
    parser.add_argument("--schedules", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replay", default="")
    given = parser.parse_args()
    uri = os.environ["MONGO_URI"]
    if given.replay:
        schedule = [int(part) for part in given.replay.split(",")]
        print(replay(uri, given.scenario, schedule) or "everything held")
        return
    for name in SCENARIOS if given.scenario == "all" else [given.scenario]:
        began = time.perf_counter()
        _, tried, failures = work(uri, name, 0, 1, given.schedules, given.seed)
        took_s = time.perf_counter() - began
        print(f"{name}: {tried} schedules, {took_s:.1f} s, {len(failures)} failures")
        for failure in failures:
            print(failure)


if __name__ == "__main__":
    main()

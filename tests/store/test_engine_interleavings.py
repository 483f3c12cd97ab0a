"""Every interleaving: slices, publishers, commands, crashes and zombies in every order.

At least 10,000 schedules with CI=true, a tenth of that on a laptop, or LAMBENT_SCHEDULES of them.
A failing one is printed as a line for `python -m tests.store.engine_search`, which plays it again.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from math import ceil
from pathlib import Path

import pytest

from local.services import Mongo
from tests.conftest import started
from tests.store.engine_scenarios import SCENARIOS
from tests.store.engine_search import replay, work

# Schedules that broke a promise once, each the only way in thousands.
_FOUND = {
    "a late owner's chunks after the payer has set their expiry": (
        "big",
        "0,0,0,0,0,0,9,2,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1,0,0,0,0,0",
    ),
}

_WORKERS = max(2, min(8, os.cpu_count() or 2))


def wanted() -> int:
    usual = 10_000 if os.environ.get("CI") == "true" else 1_000
    return int(os.environ.get("LAMBENT_SCHEDULES", usual))


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[str]]:
    """A store for each worker: one server would be what they all wait for."""
    if uri := os.environ.get("MONGO_URI"):
        yield [uri] * _WORKERS
        return
    running: list[Mongo] = []
    try:
        for number in range(_WORKERS):
            folder = tmp_path / f"store-{number}"
            folder.mkdir()
            running.append(started(partial(Mongo.start, folder)))
        yield [server.uri for server in running]
    finally:
        for server in running:
            server.stop()


def test_every_order_of_store_calls_keeps_the_promises(servers: list[str]) -> None:
    weights = sum(scenario.weight for scenario in SCENARIOS.values())
    share = wanted() / weights / _WORKERS
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(_WORKERS, mp_context=context) as pool:
        jobs = [
            pool.submit(work, uri, name, place, _WORKERS, ceil(share * scenario.weight), 7)
            for name, scenario in SCENARIOS.items()
            for place, uri in enumerate(servers)
        ]
        results = [job.result() for job in jobs]
    failures = [failure for _, _, found in results for failure in found]
    tried = sum(count for _, count, _ in results)
    print(f"{tried} schedules")
    assert not failures, "\n\n".join(failures[:3])
    assert tried >= wanted()


@pytest.mark.parametrize("name", _FOUND)
def test_what_was_found_once_stays_mended(mongo_uri: str, name: str) -> None:
    scenario, schedule = _FOUND[name]
    found = replay(mongo_uri, scenario, [int(part) for part in schedule.split(",")])
    assert found is None, found

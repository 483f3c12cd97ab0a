"""Runs are found and counted by an index, and few of them are looked at, however many there are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lambent.clock import EPOCH, FAR_FUTURE
from lambent.engine.census import Census, Counted
from lambent.engine.config import EngineConfig
from lambent.engine.control import RunControl
from lambent.engine.documents import new_run
from lambent.engine.engine import MongoStore, WorkflowEngine
from lambent.engine.listing import RunFilter, lanes
from lambent.engine.model import Status
from lambent.errors import Unprocessable
from lambent.ids import ulid_floor
from lambent.mongo import Mongo
from lambent.newest import Spans

NOW = datetime(2026, 3, 1, tzinfo=UTC)


class At:
    """A clock that stands still."""

    def now(self) -> datetime:
        return NOW

    def monotonic_s(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError


@pytest.fixture
async def control(mongo_uri: str, mongo_db_name: str) -> AsyncIterator[RunControl]:
    clock: Any = At()
    mongo = Mongo(mongo_uri, mongo_db_name, clock=clock)
    engine = WorkflowEngine(MongoStore(mongo, clock=clock, config=EngineConfig()))
    await engine.ensure_indexes()
    yield engine.control
    await mongo.close()


def run(number: int, *, parent: Any = None, **fields: Any) -> dict[str, Any]:
    """One a minute, the newest at NOW; one in a hundred has failed."""
    at = NOW - timedelta(minutes=number)
    made = new_run(
        id=f"{ulid_floor(at)}{number:016d}",
        key=str(number),
        workflow=f"w{number % 10}",
        version=2 if number % 30 == 3 else 1,
        client=f"c{number % 5}",
        input=None,
        now=at,
        priority=1,
        due_at=FAR_FUTURE,
        parent=parent,
    )
    return {**made, "status": "failed" if number % 100 == 0 else "completed", **fields}


async def test_pages_hold_every_run_once_and_in_order(control: RunControl) -> None:
    numbers = [0, 1, 2, 50, 51, 5_000, 5_001, 400_000]
    await control._due.collection.insert_many([run(number) for number in numbers])
    found: list[str] = []
    cursor = None
    while True:
        page = await control.list_runs(RunFilter(client=None), limit=3, cursor=cursor)
        found += [one.key for one in page.runs]
        if (cursor := page.cursor) is None:
            break
    assert found == [str(number) for number in numbers]


async def test_counting_stops_where_it_is_told_to(control: RunControl) -> None:
    await control._due.collection.insert_many([run(number) for number in range(300)])
    completed = RunFilter(client=None, status=Status.COMPLETED)
    assert await control.count(completed) == 297
    assert await control.count(completed, most=100) == 100
    assert await control.count(RunFilter(client=None, status=Status.PAUSED)) == 0


async def test_a_parents_children_are_found_in_the_order_of_all_runs(control: RunControl) -> None:
    parent, other = run(100)["_id"], run(101)["_id"]
    place = {"run": parent, "epoch": 0, "key": "child"}
    children = [run(number, parent=place) for number in (0, 1, 50, 51, 400_000)]
    stranger = run(52, parent={**place, "run": other})
    await control._due.collection.insert_many([run(100), run(101), *children, stranger])
    wanted = RunFilter(client=None, parent=parent)
    first = await control.list_runs(wanted, limit=3)
    rest = await control.list_runs(wanted, limit=3, cursor=first.cursor)
    assert [one.key for one in first.runs + rest.runs] == ["0", "1", "50", "51", "400000"]
    assert rest.cursor is None
    assert await control.count(wanted) == 5
    assert await control.count(wanted, most=3) == 3
    failed = RunFilter(client=None, parent=parent, status=Status.FAILED)
    assert await control.count(failed) == 2


async def test_what_goes_on_and_what_is_of_one_version_is_asked_for(control: RunControl) -> None:
    states = [{"status": one.value} for one in Status]
    runs = [run(10 * number, **state) for number, state in enumerate(states)]
    runs += [run(10 * number + 500, version=2, **state) for number, state in enumerate(states)]
    await control._due.collection.insert_many(runs)
    going_on = RunFilter(client=None, status="going_on", workflow="w0")
    found = (await control.list_runs(going_on)).runs
    assert {one.status for one in found} == {"pending", "running", "waiting", "paused", "blocked"}
    assert len(found) == await control.count(going_on) == 10
    old = RunFilter(client=None, status="going_on", workflow="w0", version=1)
    assert {one.version for one in (await control.list_runs(old)).runs} == {1}
    assert await control.count(old) == 5
    mine = RunFilter(client="c0", status="going_on", workflow="w0", version=2)
    assert await control.count(mine) == 5
    with pytest.raises(Unprocessable, match="name the workflow"):
        await control.list_runs(RunFilter(client=None, version=1))


async def test_a_new_version_is_counted_behind_very_many_runs_of_an_old_one(
    control: RunControl,
) -> None:
    many = [
        run(number, workflow="w", version=1, status="completed") for number in range(100, 1_250)
    ]
    for first in range(0, len(many), 200):
        await control._due.collection.insert_many(many[first : first + 200])
    new = [run(number, workflow="w", version=2, status="completed") for number in range(3)]
    await control._due.collection.insert_many(new)
    found = await Census(control._due, clock=At()).by_version("w", {2, 3})
    assert found[1][Status.COMPLETED] == Counted(1_000, more=True)
    assert found[2][Status.COMPLETED] == Counted(3, more=False)


async def test_setup_drops_the_indexes_of_releases_before(control: RunControl) -> None:
    runs = control._due.collection
    await runs.create_index("created_at")
    await runs.create_index([("parent.run", 1), ("_id", 1)])
    await control.ensure_indexes()
    assert not {"created_at_1", "parent.run_1__id_1"} & set(await runs.index_information())


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"status": "failed"},
        {"status": "completed"},
        {"workflow": "w3"},
        {"client": "c2"},
        {"workflow": "w3", "status": "completed"},
        {"workflow": "w3", "version": 2},
        {"workflow": "w3", "version": 2, "status": "completed"},
        {"workflow": "w3", "status": {"$in": ["failed", "completed"]}},
    ],
    ids=str,
)
async def test_each_look_for_a_page_is_by_an_index_and_reads_few_runs(
    control: RunControl, filters: dict[str, Any]
) -> None:
    runs = control._due.collection
    for first in range(0, 1_000, 100):
        await runs.insert_many([run(number) for number in range(first, first + 100)])
    query = {**filters, "_id": {"$gte": ulid_floor(EPOCH), "$lt": ulid_floor(FAR_FUTURE)}}
    found = examined = 0
    spans = Spans(query, now=NOW)
    for span in spans:
        for lane in lanes(span):
            asked = {"find": runs.name, "filter": lane, "sort": {"_id": -1}, "limit": 10 - found}
            said = await runs.database.command(
                {"explain": asked, "verbosity": "executionStats"},
                read_preference=runs.read_preference,
            )
            assert "IXSCAN" in str(said["queryPlanner"]["winningPlan"])
            assert "COLLSCAN" not in str(said["queryPlanner"]["winningPlan"])
            examined += int(said["executionStats"]["totalDocsExamined"])
        found += len(await runs.find(span).limit(10 - found).to_list())
        if found >= 10:
            break
        spans.tell(found=found, left=10 - found)
    assert found == 10
    # What is read is in proportion to the page, not to the store.
    assert examined < 10 * 8 * 8

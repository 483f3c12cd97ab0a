"""Publishing and delivering events against a real store, with crashes at every operation."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from lambent.bus.cloudevents import CloudEvent
from lambent.bus.delivery import MAX_ATTEMPTS, Outcome
from lambent.bus.events import event_of
from lambent.bus.transitions import EVENTS
from lambent.dispatch import Work
from lambent.due import DueDocuments
from lambent.errors import Conflict, NotFound, RequestError
from tests.store.bus_world import BusWorld, Killed, MortalMongo, placed


@pytest_asyncio.fixture
async def world(mongo_uri: str, mongo_db_name: str) -> AsyncIterator[BusWorld]:
    made = await BusWorld.make(mongo_uri, mongo_db_name)
    yield made
    await made.mongo.close()


async def test_a_published_event_wakes_its_waiter_starts_its_workflow_and_is_marked(
    world: BusWorld,
) -> None:
    await world.sleeping_run("r1")
    [published] = await world.bus().publish("acme", [placed(data={"n": 1})])
    assert await world.wait_status("r1") == "satisfied"
    run = await world.run("r1")
    assert (run["signals"], run["due_at"]) == (1, world.clock.now())
    event = await world.bus().get(published.key, client="acme")
    assert (event["status"], event["lease"]) == ("delivered", None)
    assert event["expire_at"] > world.clock.now()
    await world.run(f"event:{published.key}:ship")
    assert world.nudges.sent == [(Work.RUNS, "r1")]


async def test_an_event_is_kept_exactly_as_it_was_given(world: BusWorld) -> None:
    event = CloudEvent(
        id="1",
        source="urn:a",
        type="t",
        subject="s",
        time="2026-01-01T00:00:00.123456789Z",
        datacontenttype="image/png",
        dataschema="https://example.com/s",
        data=b"\x00\xff",
        extensions={"traceparent": "00", "n": 3, "flag": True},
    )
    [published] = await world.bus().publish("acme", [event])
    assert event_of(await world.bus().get(published.key, client="acme")) == event


async def test_publishing_twice_keeps_and_delivers_one(world: BusWorld) -> None:
    await world.sleeping_run("r1")
    [first] = await world.bus().publish("acme", [placed(data=1)])
    [again] = await world.bus().publish("acme", [placed(data=2)])
    assert (again.key, again.duplicate, first.duplicate) == (first.key, True, False)
    assert (await world.bus().get(first.key, client="acme"))["data"] == 1
    assert (await world.run("r1"))["signals"] == 1
    [other] = await world.bus().publish("umbrella", [placed()])
    assert not other.duplicate, "another client's ids are its own"


async def test_duplicates_inside_one_batch_are_one_event(world: BusWorld) -> None:
    published = await world.bus().publish("acme", [placed("1"), placed("2"), placed("1")])
    assert [one.duplicate for one in published] == [False, False, True]
    assert published[2].key == published[0].key
    assert await world.count("events") == 2


async def test_an_event_that_came_before_the_wait_is_found_by_looking_back(
    world: BusWorld,
) -> None:
    await world.bus().publish("acme", [placed()])
    wait = await world.waits.open(world.wait_of("r1"))
    assert (await world.waits.look_back(wait))["status"] == "satisfied"


async def test_wherever_the_publisher_dies_the_waiter_wakes_once_the_lease_lapses(
    world: BusWorld,
) -> None:
    await world.webhooks.create("acme", url="http://127.0.0.1/", types=["order.*"])
    survived = False
    for dies_at in range(1, 40):
        run, key = f"r{dies_at}", f"e{dies_at}"
        await world.sleeping_run(run)
        mortal = MortalMongo(world.mongo, dies_at)
        try:
            await world.bus(mortal).publish("acme", [placed(key)])
            survived = True
        except Killed:
            assert await world.poll() == 0, "a live lease is nobody else's"
            world.clock.passed_s += 31
            assert await world.poll() <= 1
        assert (await world.run(run))["signals"] >= 1, f"lost when dying at {dies_at}"
        event = await world.mongo.db["events"].find_one({"id": key})
        assert event is not None
        assert event["status"] == "delivered"
        assert await world.count("webhook_deliveries") == dies_at
        await world.run(f"event:{event['_id']}:ship")
        if survived:
            break
    assert survived


async def test_a_publisher_that_dies_before_the_insert_has_published_nothing(
    world: BusWorld,
) -> None:
    with pytest.raises(Killed):
        await world.bus(MortalMongo(world.mongo, 0)).publish("acme", [placed()])
    assert await world.count("events") == 0


async def test_a_run_satisfied_by_someone_who_died_before_the_wake_is_woken(
    world: BusWorld,
) -> None:
    """The look-back of a late slice takes the event, and the slice never gets to wake."""
    await world.sleeping_run("r1")
    with pytest.raises(Killed):
        await world.bus(MortalMongo(world.mongo, 1)).publish("acme", [placed()])
    event = await world.mongo.db["events"].find_one({})
    assert event is not None
    await world.waits.take(world.wait_of("r1"), event)
    world.clock.passed_s += 31
    await world.poll()
    assert (await world.run("r1"))["signals"] == 1


async def test_two_deliverers_at_once_give_a_run_the_event_once(world: BusWorld) -> None:
    for number in range(10):
        await world.sleeping_run(f"r{number}")
    with pytest.raises(Killed):
        await world.bus(MortalMongo(world.mongo, 1)).publish("acme", [placed()])
    world.clock.passed_s += 31
    await asyncio.gather(world.poll(), world.poll())
    held = await world.mongo.db["waits"].count_documents({"status": "satisfied"})
    assert held == 10
    runs = await world.mongo.db["runs"].find({"status": "waiting"}).to_list()
    assert all(run["signals"] >= 1 for run in runs)
    assert await world.mongo.db["runs"].count_documents({"status": "pending"}) == 1


async def test_runs_that_someone_works_on_are_woken_but_not_nudged(world: BusWorld) -> None:
    names = {f"r{number}" for number in range(12)}
    for name in names:
        await world.sleeping_run(name)
    lapse = world.clock.now().replace(year=2027)
    await world.mongo.db["runs"].update_one(
        {"_id": "r1"}, {"$set": {"lease": "x", "lease_until": lapse}}
    )
    await world.bus().publish("acme", [placed()])
    assert (await world.run("r1"))["signals"] == 1
    assert {one for work, one in world.nudges.sent if work is Work.RUNS} == names - {"r1"}


async def test_a_nudge_leaves_beside_the_wake_and_says_so(world: BusWorld) -> None:
    await world.sleeping_run("r1")
    await world.bus().publish("acme", [placed()])
    assert world.nudges.early == ["r1"]


async def test_a_large_fan_out_goes_on_where_its_time_ran_out(world: BusWorld) -> None:
    for number in range(250):
        await world.sleeping_run(f"r{number}")
        world.clock.passed_s += 0.001
    with pytest.raises(Killed):
        await world.bus(MortalMongo(world.mongo, 1)).publish("acme", [placed()])
    world.clock.passed_s += 31
    events = DueDocuments(world.mongo, EVENTS, clock=world.clock)
    [due] = await events.find(10)
    now_s = world.clock.passed_s
    assert await world.deliverer().deliver_due([due.id], deadline_s=now_s) == [Outcome.UNFINISHED]
    assert (Work.EVENTS, due.id) in world.nudges.sent
    outcome = await world.deliverer().deliver_due([due.id], deadline_s=now_s + 60)
    assert outcome == [Outcome.DELIVERED]
    woken = await world.mongo.db["runs"].count_documents({"signals": {"$gte": 1, "$lte": 9}})
    assert woken == 250


async def test_a_part_that_raises_puts_the_event_off_and_at_last_aside(world: BusWorld) -> None:
    deliverer = world.deliverer()
    deliverer._starts.problem = ValueError("broken trigger")  # type: ignore[attr-defined]
    with pytest.raises(Killed):
        await world.bus(MortalMongo(world.mongo, 1)).publish("acme", [placed()])
    event = await world.mongo.db["events"].find_one({})
    assert event is not None
    seen = []
    for _ in range(MAX_ATTEMPTS):
        world.clock.passed_s += 60
        seen += await deliverer.deliver_due([event["_id"]], deadline_s=world.clock.passed_s + 9)
    assert seen == [Outcome.PUT_OFF] * (MAX_ATTEMPTS - 1) + [Outcome.FAILED]
    failed = await world.bus().get(event["_id"], client="acme")
    assert (failed["status"], failed["problem"]) == ("failed", "ValueError('broken trigger')")
    replayed = await world.bus().replay(event["_id"], client="acme")
    assert replayed["status"] == "delivered"


async def test_a_workflow_that_refuses_an_event_keeps_no_webhook_from_it(world: BusWorld) -> None:
    await world.webhooks.create("acme", url="https://example.com/", types=["*"])
    deliverer = world.deliverer()
    deliverer._starts.problem = RequestError("no shop")  # type: ignore[attr-defined]
    with pytest.raises(Killed):
        await world.bus(MortalMongo(world.mongo, 1)).publish("acme", [placed()])
    event = await world.mongo.db["events"].find_one({})
    assert event is not None
    world.clock.passed_s += 60
    seen = await deliverer.deliver_due([event["_id"]], deadline_s=world.clock.passed_s + 9)
    assert seen == [Outcome.PUT_OFF]
    assert await world.count("webhook_deliveries") == 1


async def test_an_event_that_kills_its_deliverers_is_set_aside(world: BusWorld) -> None:
    with pytest.raises(Killed):
        await world.bus(MortalMongo(world.mongo, 1)).publish("acme", [placed()])
    for _ in range(MAX_ATTEMPTS - 1):
        world.clock.passed_s += 31
        dying = world.deliverer(MortalMongo(world.mongo, 2))
        event = await world.mongo.db["events"].find_one({})
        assert event is not None
        with pytest.raises(Killed):
            await dying.deliver_due([event["_id"]], deadline_s=world.clock.passed_s + 60)
    world.clock.passed_s += 31
    await world.poll()
    event = await world.mongo.db["events"].find_one({})
    assert event is not None
    assert (event["status"], event["problem"]) == ("failed", "its deliverers died")


async def test_replay_reaches_new_waits_and_gives_nothing_twice(world: BusWorld) -> None:
    await world.sleeping_run("r1")
    [published] = await world.bus().publish("acme", [placed()])
    await world.sleeping_run("r2")
    await world.bus().replay(published.key, client="acme")
    assert await world.wait_status("r2") == "satisfied"
    assert await world.mongo.db["waits"].count_documents({"event": published.key}) == 2
    assert await world.mongo.db["runs"].count_documents({"status": "pending"}) == 1


async def test_events_are_listed_newest_first_and_only_to_their_client(world: BusWorld) -> None:
    bus = world.bus()
    for number in range(5):
        world.clock.passed_s += 1
        await bus.publish("acme", [placed(str(number), type="a" if number % 2 else "b")])
    await bus.publish("umbrella", [placed("x")])
    page = await bus.find(client="acme", limit=2)
    rest = await bus.find(client="acme", limit=9, before=page[-1]["_id"])
    assert [one["id"] for one in page + rest] == ["4", "3", "2", "1", "0"]
    assert [one["id"] for one in await bus.find(client="acme", type="a")] == ["3", "1"]
    assert len(await bus.find(client=None)) == 6
    with pytest.raises(NotFound):
        await bus.get(page[0]["_id"], client="umbrella")


async def test_an_event_being_delivered_cannot_be_replayed(world: BusWorld) -> None:
    with pytest.raises(Killed):
        await world.bus(MortalMongo(world.mongo, 1)).publish("acme", [placed()])
    event = await world.mongo.db["events"].find_one({})
    assert event is not None
    with pytest.raises(Conflict):
        await world.bus().replay(event["_id"], client="acme")


async def test_the_events_of_a_rare_type_are_found_among_all(world: BusWorld) -> None:
    events = world.mongo.db["events"]
    await world.bus().publish("acme", [placed()])
    [model] = await events.find({}).to_list()
    rare = {7, 320, 390}
    for first in range(0, 400, 100):
        await events.insert_many(
            {**model, "_id": f"{number:026d}", "id": str(number), "client": f"c{number % 5}"}
            | {"type": "rare" if number in rare else "common"}
            for number in range(first, first + 100)
        )
    found = await world.bus().find(client=None, type="rare", limit=50)
    assert [int(one["_id"]) for one in found] == [390, 320, 7]

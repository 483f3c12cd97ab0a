"""Webhook deliveries and ticks of schedules, too, belong to the request that asked for them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from lambent import tracing
from lambent.bus.sending import Sent, WebhookSender
from lambent.bus.transitions import DELIVERIES
from lambent.due import DueDocuments
from lambent.engine.registry import Registry
from lambent.invocation import reporting
from lambent.mongo import Document
from lambent.schedules.schedules import Plan, Schedules
from lambent.schedules.ticker import Ticker
from lambent.telemetry import correlated
from lambent.testing import WorkflowTest
from tests.collector import Collector
from tests.store.bus_world import BusWorld, placed


async def test_a_delivery_is_a_part_of_the_request_that_published_its_event(
    mongo_uri: str, mongo_db_name: str, collector: Collector
) -> None:
    world = await BusWorld.make(mongo_uri, mongo_db_name)
    # Nobody listens there: the first attempt fails, and another one comes.
    await world.webhooks.create("acme", url="http://127.0.0.1:9/hook", types=["order.*"])
    async with reporting():
        with correlated(request_id="r-1"), tracing.request_span("POST", "/events", {}):
            await world.bus().publish("acme", [placed()])
    sender = WebhookSender(world.mongo, clock=world.clock, allow_loopback=True)
    due = DueDocuments(world.mongo, DELIVERIES, clock=world.clock)
    for _ in range(2):
        async with reporting():
            (one,) = await due.find(50)
            sent = await sender.send_due([one.id], deadline_s=world.clock.passed_s + 60)
        assert sent == [Sent.RETRY]
        world.clock.passed_s += 3600
    kept = await world.mongo.db[DELIVERIES.collection].find_one({})
    await world.mongo.close()
    assert kept is not None
    assert kept["trace"]["request_id"] == "r-1"
    (request,) = collector.named("POST /events")
    (delivered,) = collector.named("deliver order.placed")
    calls = collector.named("webhook order.placed")
    assert collector.under([delivered]) == calls
    assert [attributes(call)["attempt"] for call in calls] == ["1", "2"]
    assert {call.trace_id for call in calls} == {request.trace_id}


async def test_a_tick_is_a_trace_of_its_own_with_a_link_to_who_asked_for_it(
    mongo_uri: str, collector: Collector
) -> None:
    flows = Registry()

    @flows.workflow("report")
    async def report(step: Any, input: Any) -> Any:
        return input

    async with WorkflowTest(mongo_uri, workflows=flows) as test:
        schedules = Schedules(test.store.mongo, clock=test.clock)
        ticker = Ticker(test.store.mongo, clock=test.clock, starts=test.engine)
        async with reporting():
            with correlated(request_id="r-1"), tracing.request_span("POST", "/schedules", {}):
                plan = Plan(name="report", cron="0 * * * *", workflow="report")
                schedule = await schedules.create("test", plan)
        runs: list[Document] = []
        for _ in range(2):
            await test.pass_time(timedelta(hours=1))
            async with reporting():
                assert await ticker.tick_due([schedule["_id"]]) == 1
            seen = await schedules.get(schedule["_id"], client=None)
            runs.append(await test.document(seen["last_run"]))
            await test.finish(seen["last_run"])
    (request,) = collector.named("POST /schedules")
    ticks = collector.named("tick report")
    assert len({request.trace_id, *(tick.trace_id for tick in ticks)}) == 3
    assert [[link.span_id for link in tick.links] for tick in ticks] == [[request.span_id]] * 2
    assert [one["trace"]["request_id"] for one in runs] == ["r-1", "r-1"]
    assert [one["trace"]["traceparent"].split("-")[2] for one in runs] == [
        tick.span_id.hex() for tick in ticks
    ]


def attributes(span: Any) -> dict[str, str]:
    """What was told of a span, as words."""
    return {
        one.key: str(getattr(one.value, one.value.WhichOneof("value"))) for one in span.attributes
    }

"""Schedules of the emulator: when they fire, and with what."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from local.emulator.intrinsics import TemplateError
from local.emulator.schedule import Ticks, run_schedule, scheduled_event
from local.emulator.template import Schedule
from tests.unit.emulator_toys import Toys, eventually

DEPLOYED_AT = datetime(2026, 3, 2, 10, 0, 30, tzinfo=UTC)  # a Monday


def first_ticks(expression: str, count: int, **more: Any) -> list[str]:
    ticks = Ticks(Schedule("s", expression, **more), deployed_at=DEPLOYED_AT)
    instants, now = [], DEPLOYED_AT
    for _ in range(count):
        now = ticks.after(now)
        instants.append(now.strftime("%m-%d %H:%M:%S"))
    return instants


def test_a_rate_counts_from_its_deployment() -> None:
    assert first_ticks("rate(1 minute)", 2) == ["03-02 10:01:30", "03-02 10:02:30"]
    assert first_ticks("rate(2 hours)", 2) == ["03-02 12:00:30", "03-02 14:00:30"]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("cron(15 10 * * ? *)", ["03-02 10:15:00", "03-03 10:15:00"]),
        ("cron(0/30 * * * ? *)", ["03-02 10:30:00", "03-02 11:00:00"]),
        ("cron(0 18 ? * MON-FRI *)", ["03-02 18:00:00", "03-03 18:00:00"]),
        ("cron(0 0 ? * 1 *)", ["03-08 00:00:00", "03-15 00:00:00"]),  # 1 is Sunday
        ("cron(0 0 ? * 7 *)", ["03-07 00:00:00", "03-14 00:00:00"]),
        ("cron(0 0 ? * 2#1 *)", ["04-06 00:00:00", "05-04 00:00:00"]),  # the first Monday
        ("cron(0 0 ? * 6L *)", ["03-27 00:00:00", "04-24 00:00:00"]),  # the last Friday
        ("cron(0 0 L * ? *)", ["03-31 00:00:00", "04-30 00:00:00"]),
        ("cron(0 0 1 1 ? 2028)", ["01-01 00:00:00"]),
    ],
)
def test_cron_is_awss_cron(expression: str, expected: list[str]) -> None:
    assert first_ticks(expression, len(expected)) == expected


def test_a_scheduler_schedule_keeps_to_its_time_zone() -> None:
    ticks = first_ticks("cron(0 3 * * ? *)", 1, scheduler=True, timezone="Europe/Vienna")
    assert ticks == ["03-03 02:00:00"]


@pytest.mark.parametrize(
    "expression",
    ["every minute", "rate(0 minutes)", "rate(1 week)", "cron(* * * * *)", "cron(0 0 * * * *)"],
)
def test_a_wrong_expression_is_an_error_at_start(expression: str) -> None:
    with pytest.raises(TemplateError, match="schedule s"):
        Ticks(Schedule("s", expression), deployed_at=DEPLOYED_AT)


def test_the_event_is_eventbridges() -> None:
    event = json.loads(scheduled_event(Schedule("Rule", "rate(1 minute)"), DEPLOYED_AT))
    assert event["source"] == "aws.events"
    assert event["detail-type"] == "Scheduled Event"
    assert event["time"] == "2026-03-02T10:00:30Z"
    assert event["resources"] == ["arn:aws:events:us-east-1:123456789012:rule/Rule"]
    own = Schedule("Rule", "rate(1 minute)", input='{"own": 1}')
    assert scheduled_event(own, DEPLOYED_AT) == b'{"own": 1}'


async def test_ticks_missed_in_sleep_are_not_made_up_for() -> None:
    now = DEPLOYED_AT
    fired: list[datetime] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        late = timedelta(minutes=10) if len(fired) == 1 else timedelta()
        now += timedelta(seconds=seconds) + late
        if len(fired) == 3:
            raise asyncio.CancelledError

    schedule = Schedule("s", "rate(1 minute)")
    with pytest.raises(asyncio.CancelledError):
        await run_schedule(schedule, lambda _: fired.append(now), clock=lambda: now, sleep=sleep)
    minutes = [(at - DEPLOYED_AT) / timedelta(minutes=1) for at in fired]
    assert minutes == [1, 12, 13]


async def test_a_schedule_invokes_its_function(tmp_path: Path) -> None:
    toys = Toys(tmp_path)
    source = "def handler(event, context):\n    print('tick', event['source'])\n"
    events = {"Tick": {"Type": "Schedule", "Properties": {"Schedule": "rate(1 second)"}}}
    async with toys.add("clock", source, Events=events).run() as emulator:
        emulator.start_schedules()
        await eventually(lambda: toys.log("clock").count("tick aws.events") >= 2)

"""Ticks of EventBridge rules and Scheduler schedules: rate(...), cron(...) and at(...)."""

import asyncio
import json
import re
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from croniter import croniter

from local.emulator.intrinsics import TemplateError
from local.emulator.template import ACCOUNT, REGION, Schedule

_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
_NEVER_AT = datetime.max.replace(tzinfo=UTC)

Clock = Callable[[], datetime]
Sleep = Callable[[float], Awaitable[None]]


class Ticks:
    """When a schedule fires. A rate counts from the moment of deployment, as on AWS."""

    def __init__(self, schedule: Schedule, *, deployed_at: datetime) -> None:
        kind, _, body = schedule.expression.strip().partition("(")
        body = body.removesuffix(")").strip()
        self._deployed_at = deployed_at
        self._period: timedelta | None = None
        self._cron: str | None = None
        self._once_at: datetime | None = None
        try:
            self._zone = ZoneInfo(schedule.timezone)
            match kind:
                case "rate":
                    self._period = _period(body)
                case "cron":
                    self._cron = _standard_cron(body)
                    croniter(self._cron, deployed_at)
                case "at":
                    local = datetime.fromisoformat(body).replace(tzinfo=self._zone)
                    self._once_at = local.astimezone(UTC)
                case _:
                    raise ValueError("neither rate, cron nor at")
        except (ValueError, KeyError) as error:
            message = f"schedule {schedule.name}: {schedule.expression} is not valid: {error}"
            raise TemplateError(message) from error

    def after(self, instant: datetime) -> datetime:
        """The first tick later than `instant`; the end of time when there is none."""
        if self._period is not None:
            passed = (instant - self._deployed_at) // self._period
            return self._deployed_at + (max(passed, 0) + 1) * self._period
        if self._once_at is not None:
            return self._once_at if self._once_at > instant else _NEVER_AT
        assert self._cron is not None
        local: datetime = croniter(self._cron, instant.astimezone(self._zone)).get_next(datetime)
        return local.astimezone(UTC)


def scheduled_event(schedule: Schedule, tick_at: datetime) -> bytes:
    """What the function gets: the schedule's own input, or AWS's scheduled event."""
    if schedule.input is not None:
        return schedule.input.encode()
    service, kind = ("scheduler", "schedule/default") if schedule.scheduler else ("events", "rule")
    event = {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": "Scheduled Event",
        "source": f"aws.{service}",
        "account": ACCOUNT,
        "time": tick_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "region": REGION,
        "resources": [f"arn:aws:{service}:{REGION}:{ACCOUNT}:{kind}/{schedule.name}"],
        "detail": "{}" if schedule.scheduler else {},
    }
    return json.dumps(event).encode()


async def run_schedule(
    schedule: Schedule,
    fire: Callable[[bytes], object],
    *,
    clock: Clock = lambda: datetime.now(UTC),
    sleep: Sleep = asyncio.sleep,
) -> None:
    """Fire at each tick, for ever. A tick missed while the machine slept is not made up for."""
    now = clock()
    ticks = Ticks(schedule, deployed_at=now)
    while (tick_at := ticks.after(now)) != _NEVER_AT:
        while (left_s := (tick_at - clock()).total_seconds()) > 0:
            await sleep(min(left_s, 3600.0))
        fire(scheduled_event(schedule, tick_at))
        now = max(tick_at, clock())


def _period(body: str) -> timedelta:
    found = re.fullmatch(r"(\d+)\s+(second|minute|hour|day)s?", body)
    if found is None or int(found[1]) < 1:
        raise ValueError("a rate is a number and a unit, such as 5 minutes")
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])


def _standard_cron(body: str) -> str:
    """AWS's six fields in croniter's order: its weekdays count from 0, its year comes last."""
    fields = body.split()
    if len(fields) != 6:
        raise ValueError("a cron expression has six fields")
    minute, hour, day, month, weekday, year = fields
    if (day == "?") == (weekday == "?"):
        raise ValueError("exactly one of day-of-month and day-of-week must be ?")
    weekday = re.sub(r"(?<![#/\d])\d(?!\d)", lambda digit: str(int(digit[0]) - 1), weekday)
    weekday = re.sub(r"^(\w+)L$", r"L\1", weekday)
    parts = [minute, hour, day, month, weekday, "0", year]
    return " ".join("*" if part == "?" else part for part in parts)

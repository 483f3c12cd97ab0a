"""When a schedule ticks, over clock changes in both directions."""

from datetime import UTC, datetime, timedelta

import pytest

from lambent.errors import Unprocessable
from lambent.schedules.cron import Cron

# In Berlin the clocks went forward on 29 March 2026 at 01:00 UTC and back on 25 October 2026.
SPRING = datetime(2026, 3, 28, 12, tzinfo=UTC)
AUTUMN = datetime(2026, 10, 24, 12, tzinfo=UTC)


def ticks(cron: str, zone: str, after: datetime, count: int) -> list[str]:
    checked = Cron(cron, zone)

    found = []
    for _ in range(count):
        after = checked.next_after(after)
        found.append(f"{after:%d %H:%M}")
    return found


def test_five_fields_and_six_with_seconds_first() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert Cron("*/15 * * * *", "UTC").next_after(start) == start + timedelta(minutes=15)
    assert Cron("*/15 * * * * *", "UTC").next_after(start) == start + timedelta(seconds=15)
    assert Cron("@daily", "UTC").next_after(start) == start + timedelta(days=1)
    assert Cron("0 9 * * mon-fri", "UTC").next_after(start) == start + timedelta(hours=9)


def test_a_time_zone_moves_the_instant() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert ticks("0 9 * * *", "America/New_York", start, 1) == ["01 14:00"]
    assert ticks("30 5 * * *", "Asia/Kolkata", start, 1) == ["02 00:00"]


def test_a_fixed_time_left_out_in_spring_runs_once_just_after() -> None:
    expected = ["29 01:00", "30 00:30", "31 00:30"]
    assert ticks("30 2 * * *", "Europe/Berlin", SPRING, 3) == expected


def test_two_fixed_times_in_the_hour_left_out_are_one_tick() -> None:
    assert ticks("15,45 2 * * *", "Europe/Berlin", SPRING, 2) == ["29 01:00", "30 00:15"]


def test_a_fixed_time_that_comes_twice_in_autumn_runs_the_first_time_only() -> None:
    expected = ["25 00:30", "26 01:30", "27 01:30"]
    assert ticks("30 2 * * *", "Europe/Berlin", AUTUMN, 3) == expected


@pytest.mark.parametrize("day", [SPRING, AUTUMN])
@pytest.mark.parametrize(("cron", "minutes"), [("0 * * * *", 60), ("*/20 * * * *", 20)])
@pytest.mark.parametrize("zone", ["Europe/Berlin", "Australia/Lord_Howe", "America/New_York"])
def test_what_follows_real_time_never_stops_nor_doubles(
    day: datetime, cron: str, minutes: int, zone: str
) -> None:
    checked = Cron(cron, zone)
    instant = checked.next_after(day)
    for _ in range(60 * 48 // minutes):
        following = checked.next_after(instant)
        gap = following - instant
        # Lord Howe moves its clocks by half an hour, so a full hour there may be short or long.
        half = timedelta(minutes=30)
        allowed = {timedelta(minutes=minutes)}
        allowed |= {half, 3 * half, timedelta(minutes=10), timedelta(minutes=30)}
        assert gap in (allowed if "Lord" in zone else {timedelta(minutes=minutes)}), instant
        instant = following


def test_asked_from_within_the_hour_that_comes_twice() -> None:
    first_pass = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)  # 02:30 summer time
    assert ticks("0 * * * *", "Europe/Berlin", first_pass, 2) == ["25 01:00", "25 02:00"]
    assert ticks("45 2 * * *", "Europe/Berlin", first_pass, 2) == ["25 00:45", "26 01:45"]
    second_pass = datetime(2026, 10, 25, 1, 30, tzinfo=UTC)  # 02:30 winter time
    assert ticks("*/15 * * * *", "Europe/Berlin", second_pass, 2) == ["25 01:45", "25 02:00"]
    assert ticks("45 2 * * *", "Europe/Berlin", second_pass, 1) == ["26 01:45"]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/Santiago", "Asia/Tehran", "UTC"])
@pytest.mark.parametrize("cron", ["30 2 * * *", "*/7 * * * *", "0 0 1 */3 *", "15 1-4 * * 0"])
def test_ticks_only_ever_go_forward(cron: str, zone: str) -> None:
    checked = Cron(cron, zone)
    instant = datetime(2026, 3, 20, tzinfo=UTC)
    for _ in range(300):
        following = checked.next_after(instant)
        assert following > instant
        instant = following


def test_the_latest_ticks_are_those_of_walking_forward() -> None:
    checked = Cron("*/5 * * * *", "Europe/Berlin")
    first = checked.next_after(AUTUMN)
    until = AUTUMN + timedelta(days=1)
    walked = [first]
    while (following := checked.next_after(walked[-1])) <= until:
        walked.append(following)
    assert checked.latest(first, until, count=1000) == walked
    assert checked.latest(first, until, count=7) == walked[-7:]
    assert checked.latest(first, first, count=7) == [first]


def test_a_long_outage_of_a_quick_schedule_is_not_walked_through() -> None:
    checked = Cron("* * * * * *", "UTC")
    first = datetime(2020, 1, 1, tzinfo=UTC)
    assert checked.latest(first, SPRING, count=3)[-1] == SPRING


@pytest.mark.parametrize(
    "cron",
    [
        *("", "* * * *", "* * * * * * *", "61 * * * *", "0 0 30 2 *", "@reboot", "R * * * *"),
        *("H * * * *", "nonsense", "*/0 * * * *", "0 25 * * *"),
    ],
)
def test_an_expression_that_never_ticks_is_refused(cron: str) -> None:
    with pytest.raises(Unprocessable, match="cron"):
        Cron(cron, "UTC")


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "../etc/passwd", "Europe"])
def test_a_zone_that_is_none_is_refused(zone: str) -> None:
    with pytest.raises(Unprocessable, match="timezone"):
        Cron("* * * * *", zone)

"""Finds the instants of a cron expression in a time zone, over daylight-saving changes too.

As Vixie cron has it: an expression with a fixed hour runs once a day, whatever the clocks do (in
the hour that is left out, at the first instant after it; in the hour that comes twice, the first
time). One whose hour is `*` or `*/n` follows real time: nothing in the hour left out, both times
in the hour that comes twice.
"""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import CroniterBadDateError, CroniterError, croniter

from lambent.errors import Unprocessable

_SECOND: Final = timedelta(seconds=1)
# No clock change moves the wall clock by more than this (Samoa left out a day and is not met).
_LONGEST_FOLD: Final = timedelta(hours=3)
_FIRST_WINDOW: Final = timedelta(minutes=1)
_ANY_WALL: Final = datetime(2000, 1, 1)  # noqa: DTZ001 (a wall clock has no zone of its own)


class Cron:
    """A checked expression in its time zone. Raises `Unprocessable` for one that is none.

    Five fields, or six with seconds *first*; `@hourly` and its kin; names of months and days.
    """

    def __init__(self, expression: str, zone: str) -> None:
        try:
            self._zone = ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise _invalid("timezone", f"{zone!r} is not a time zone") from None
        self.expression = expression
        fields = expression.split()
        if not (len(fields) in (5, 6) or (len(fields) == 1 and expression.startswith("@"))):
            raise _invalid("cron", "has five fields, or six with seconds first")
        if any(one[0] in "rR" for one in fields):
            raise _invalid("cron", "must not leave a field to chance: its ticks would not be known")
        hour = fields[-4] if len(fields) > 1 else "*" if expression == "@hourly" else "0"
        self._follows_real_time = hour.startswith("*")
        # A date that never comes, such as 30 February, is refused here and not met later.
        self._next_wall(_ANY_WALL)

    def next_after(self, instant: datetime) -> datetime:
        """The first tick after `instant`; both aware, UTC."""
        local = instant.astimezone(self._zone)
        wall = local.replace(tzinfo=None, fold=0)
        while True:
            wall = self._next_wall(wall)
            tick = self._instant_of(wall, instant)
            if tick is not None:
                break
        if self._follows_real_time:
            return min(tick, self._in_second_hour(instant, tick) or tick)
        return tick

    def latest(self, first: datetime, until: datetime, *, count: int) -> list[datetime]:
        """Up to `count` ticks, the latest ones, from `first` (itself a tick) to `until`.

        Looks back from `until` through a growing window: an expression with seconds has more
        ticks in a week's outage than anyone wants to walk through.
        """
        window = _FIRST_WINDOW
        while True:
            begin = max(first, until - window)
            found = deque[datetime](maxlen=count)
            tick = first if begin == first else self.next_after(begin - _SECOND)
            while tick <= until:
                found.append(tick)
                tick = self.next_after(tick)
            if begin == first or len(found) == count:
                return list(found)
            window *= 4

    def _next_wall(self, wall: datetime) -> datetime:
        return _next_wall(self.expression, wall)

    def _instant_of(self, wall: datetime, after: datetime) -> datetime | None:
        """When this wall clock time is a tick; None if it is none after `after`."""
        early, late = (
            wall.replace(tzinfo=self._zone, fold=fold).astimezone(UTC) for fold in (0, 1)
        )
        if early > late:  # the clocks were put forward over it
            return None if self._follows_real_time else self._change_between(late, early, after)
        if early > after:
            return early
        return late if self._follows_real_time and late > after else None

    def _change_between(self, begin: datetime, end: datetime, after: datetime) -> datetime | None:
        change = self._change(begin, end)
        return change if change > after else None

    def _in_second_hour(self, instant: datetime, tick: datetime) -> datetime | None:
        """A tick between the two in the part that the wall clock shows for the second time."""
        horizon = min(tick, instant + _LONGEST_FOLD)
        if self._offset(horizon) >= self._offset(instant):
            return None
        change = self._change(instant, horizon)
        wall = change.astimezone(self._zone).replace(tzinfo=None, fold=0)
        repeated = self._next_wall(wall - _SECOND).replace(tzinfo=self._zone, fold=1)
        found = repeated.astimezone(UTC)
        return found if instant < found < tick else None

    def _offset(self, instant: datetime) -> timedelta:
        return instant.astimezone(self._zone).utcoffset() or timedelta()

    def _change(self, begin: datetime, end: datetime) -> datetime:
        """The first whole second after `begin` at which the offset is that of `end`."""
        target = self._offset(end)
        low, high = int(begin.timestamp()), int(end.timestamp())
        while high - low > 1:
            middle = (low + high) // 2
            if self._offset(datetime.fromtimestamp(middle, UTC)) == target:
                high = middle
            else:
                low = middle
        return datetime.fromtimestamp(high, UTC)


def _next_wall(expression: str, wall: datetime) -> datetime:
    try:
        found: datetime = _iterator(expression).get_next(datetime, start_time=wall)
    except CroniterBadDateError:
        raise _invalid("cron", "names a date that never comes") from None
    return found


@lru_cache(maxsize=256)
def _iterator(expression: str) -> croniter:
    try:
        return croniter(
            expression, _ANY_WALL, second_at_beginning=True, max_years_between_matches=9
        )
    except CroniterError as error:
        raise _invalid("cron", str(error)) from None


def _invalid(name: str, message: str) -> Unprocessable:
    problem = {"field": name, "message": message}
    return Unprocessable(f"The schedule's {name} {message}.", fields={"errors": [problem]})

"""Counts runs by what they are runs of, a workflow or a version of one, and by the hour."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from lambent.clock import Clock
from lambent.due import DueDocuments
from lambent.engine.listing import RunFilter, count_newest, newest, query_of
from lambent.engine.model import ENDED, Status
from lambent.ids import ulid_floor
from lambent.mongo import guarded
from lambent.newest import by_status

_MOST: Final = 1000
_MOST_AN_HOUR: Final = 2000
_SHOWN: Final = timedelta(days=1)  # of what has ended


@dataclass(frozen=True, slots=True)
class Counted:
    """How many; `more`: counting stopped there."""

    count: int
    more: bool


class Census:
    """Each count is by an index, up to 1,000; of a workflow's ended runs, the last day's."""

    def __init__(self, due: DueDocuments, *, clock: Clock) -> None:
        self._due = due
        self._clock = clock

    async def by_workflow(
        self, names: Iterable[str], statuses: Iterable[Status]
    ) -> dict[str, dict[Status, Counted]]:
        """For each of these workflows, the runs in each of these states."""
        asked = [(name, status) for name in names for status in statuses]
        counts = await asyncio.gather(*(self._count(name, status) for name, status in asked))
        found: dict[str, dict[Status, Counted]] = {}
        for (name, status), count in zip(asked, counts, strict=True):
            found.setdefault(name, {})[status] = Counted(count, count >= _MOST)
        return found

    async def by_status(self, wanted: RunFilter) -> dict[Status, Counted]:
        """How many of these runs are in each state, whichever of them the filter names.

        No index knows the states of one client's runs, or of one parent's: of these the newest
        thousand are looked at, and a count of more than those is "at least".
        """
        query, now = query_of(replace(wanted, status=None)), self._clock.now()
        runs = self._due.collection
        if wanted.client is not None or wanted.parent is not None:
            found = await newest(runs, query, limit=_MOST, now=now, read={"status": 1})
            seen = Counter(run["status"] for run in found)
            more = len(found) >= _MOST
            return {status: Counted(seen[status.value], more) for status in Status}
        each = by_status(query, Status)
        counts = await asyncio.gather(
            *(count_newest(runs, one, most=_MOST, now=now) for one in each)
        )
        return {
            status: Counted(count, count >= _MOST)
            for status, count in zip(Status, counts, strict=True)
        }

    async def by_version(
        self, name: str, deployed: Iterable[int] = ()
    ) -> dict[int, dict[Status, Counted]]:
        """For each version that there are runs of, how many are in each state."""
        looks = (self._versions(name, status) for status in Status)
        read = dict(zip(Status, await asyncio.gather(*looks), strict=True))
        counts = {
            (version, status): count
            for status, versions in read.items()
            for version, count in Counter(versions).items()
        }
        # Where there are more of a state than were read, each version is counted by itself.
        versions = sorted({version for version, _ in counts} | set(deployed))
        full = [
            (one, status) for one in versions for status in Status if len(read[status]) >= _MOST
        ]
        whole = await asyncio.gather(*(self._count(name, status, one) for one, status in full))
        counts |= dict(zip(full, whole, strict=True))
        found: dict[int, dict[Status, Counted]] = {}
        for (version, status), count in counts.items():
            found.setdefault(version, {})[status] = Counted(count, count >= _MOST)
        return found

    async def by_hour(self, status: Status, since: datetime, hours: int) -> list[int]:
        """How many runs of this status were made in each of so many hours; the newest are counted,
        2,000 an hour on average."""
        begins = [ulid_floor(since + timedelta(hours=place)) for place in range(hours + 1)]
        ids = {"$gte": begins[0], "$lt": begins[-1]}
        # The hours are told by the ids, and these by an index: no run is read.
        asked: list[Mapping[str, Any]] = [
            {"$match": {"status": status.value, "_id": ids}},
            {"$sort": {"_id": -1}},
            {"$limit": _MOST_AN_HOUR * hours},
            {"$project": {"_id": 1}},
            {"$bucket": {"groupBy": "$_id", "boundaries": begins, "output": {"n": {"$sum": 1}}}},
        ]
        found = await guarded(self._due.collection.aggregate(asked))
        counts = {one["_id"]: int(one["n"]) for one in await guarded(found.to_list())}
        return [counts.get(begin, 0) for begin in begins[:-1]]

    async def _count(self, name: str, status: Status, version: int | None = None) -> int:
        query, now = query_of(self._wanted(name, status, version)), self._clock.now()
        return await count_newest(self._due.collection, query, most=_MOST, now=now)

    async def _versions(self, name: str, status: Status) -> list[int]:
        query = query_of(self._wanted(name, status))
        found = self._due.collection.find(query, {"_id": 0, "version": 1}).limit(_MOST)
        return [int(run["version"]) for run in await guarded(found.to_list())]

    def _wanted(self, name: str, status: Status, version: int | None = None) -> RunFilter:
        return RunFilter(
            client=None,
            status=status,
            workflow=name,
            version=version,
            created_from=shown_since(status, self._clock.now()),
        )


def shown_since(status: Status, now: datetime) -> datetime | None:
    """From when on runs in this state are counted for people: what has ended stays for a month,
    and only its last day says something. From a whole minute on, as in the links that lead to what
    was counted."""
    return (now - _SHOWN).replace(second=0, microsecond=0) if status in ENDED else None

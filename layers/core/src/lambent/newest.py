"""Finds and counts the newest documents without looking at old ones, however many there are.

Ids begin with the instant of their making, so a span of time is a range of ids. Each look takes
one such span, from now backwards: together with an equality it is a two-sided range of an index,
and a server that reads a whole range before it sorts still reads a few times the page at most.

How long the next span must be is told by what the spans before it held; as long as that is nothing,
each is many times as long as the one before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from pymongo.asynchronous.collection import AsyncCollection

from lambent.clock import EPOCH
from lambent.ids import ulid_floor, ulid_instant
from lambent.mongo import Document, guarded

_FIRST: Final = timedelta(seconds=2)
# Where nothing was found in a span, thrice its like may be expected of the next at most.
_GROWTH: Final = 32
_LEAST_GROWTH: Final = 4
# A count reads no documents: fewer looks weigh more than what the last of them reads too much.
_FIRST_COUNT: Final = timedelta(minutes=15)
_GROWTH_COUNT: Final = 100
# Beyond it there is little: what has ended is kept for a month, unless told otherwise.
_LONG: Final = timedelta(days=40)
Lanes = Callable[[Document], list[Document]]


class Spans:
    """The query, narrowed to one span of time after the other, the newest first."""

    def __init__(
        self,
        query: Mapping[str, Any],
        *,
        now: datetime,
        first: timedelta = _FIRST,
        growth: int = _GROWTH,
    ) -> None:
        """`query` has both ends of a range of `_id`, as `$gte` and `$lt`."""
        self._query = query
        self._low, self._high = str(query["_id"]["$gte"]), str(query["_id"]["$lt"])
        # From the cursor or from now, whichever is earlier; the first span reaches up to the end.
        self._began = self._upper = min(now, ulid_instant(self._high) or now)
        self._length = self._next = first
        self._growth = growth

    def __iter__(self) -> Iterator[Document]:
        high = self._high
        while self._low < high:
            far = self._length >= _LONG or self._upper - EPOCH <= self._length
            begin = EPOCH if far else self._upper - self._length
            start = max(self._low, ulid_floor(begin))
            self._next = self._length * self._growth
            yield {**self._query, "_id": {"$gte": start, "$lt": high}}
            if far:
                return
            high, self._upper, self._length = start, begin, self._next

    def tell(self, *, found: int, left: int) -> None:
        """Up to the present span so many were found, and so many are wanted still: the next one is
        made to hold those and half as many more, if they lie as close there."""
        if found:
            passed = self._began - self._upper + self._length
            likely = passed * left * 3 // (2 * found)
            # Never too short either: they may lie in heaps, with years in between.
            self._next = min(self._next, max(likely, self._length * _LEAST_GROWTH))


async def newest(
    collection: AsyncCollection[Document],
    query: Mapping[str, Any],
    *,
    lanes: Lanes,
    limit: int,
    now: datetime,
    read: Mapping[str, int] | None = None,
    order: str = "_id",
) -> list[Document]:
    """Up to `limit` documents that fit, newest first. `query` has both ends of a range of `_id`;
    `lanes` splits it into queries that each have an index; `read` is the projection; `order`, a
    field whose order is that of the ids, where their index is of that."""
    found: list[Document] = []
    spans = Spans(query, now=now)
    for span in spans:
        left = limit - len(found)
        looks = (
            collection.find(lane, read).sort(order, -1).limit(left).to_list()
            for lane in lanes(span)
        )
        seen = [one for look in await asyncio.gather(*map(guarded, looks)) for one in look]
        found += sorted(seen, key=_id, reverse=True)[:left]
        if len(found) >= limit:
            break
        spans.tell(found=len(found), left=limit - len(found))
    return found


async def count_newest(
    collection: AsyncCollection[Document],
    query: Mapping[str, Any],
    *,
    lanes: Lanes,
    most: int,
    now: datetime,
) -> int:
    """How many fit; counting stops at `most`, which stands for "and more"."""
    count = 0
    spans = Spans(query, now=now, first=_FIRST_COUNT, growth=_GROWTH_COUNT)
    for span in spans:
        for lane in lanes(span):
            count += await guarded(collection.count_documents(lane, limit=most - count))
            if count >= most:
                return count
        spans.tell(found=count, left=most - count)
    return count


def by_status(query: Document, statuses: Iterable[StrEnum]) -> list[Document]:
    """The query once for each status, which together ask the same; as it is where it names one."""
    if "status" in query:
        return [query]
    return [{**query, "status": status.value} for status in statuses]


def _id(document: Document) -> str:
    return str(document["_id"])

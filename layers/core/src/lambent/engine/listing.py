"""Finds and counts the newest runs without looking at old ones, however many there are.

Ids begin with the instant of their making, so a span of time is a range of ids. Each look takes
one such span, from now backwards and each many times as long as the one before: together with an
equality it is a two-sided range of an index, and a server that reads a whole range before it sorts
still reads a few times the page at most.

Every index of `runs` is written at each change of a run, so there are few: what names neither a
client nor a status is asked for by each status.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from pymongo.asynchronous.collection import AsyncCollection

from lambent.clock import EPOCH
from lambent.engine.documents import ulid_instant
from lambent.engine.model import RUNS, Status
from lambent.ids import ulid_floor
from lambent.mongo import Document, guarded

_FIRST: Final = timedelta(seconds=2)
_GROWTH: Final = 8
# A count reads no documents: fewer looks weigh more than what the last of them reads too much.
_FIRST_COUNT: Final = timedelta(minutes=15)
_GROWTH_COUNT: Final = 100
_IDS_AT_ONCE: Final = 200


async def newest(
    runs: AsyncCollection[Document], query: Mapping[str, Any], *, limit: int, now: datetime
) -> list[Document]:
    """Up to `limit` runs that fit, newest first. `query` has both ends of a range of `_id`."""
    found: list[Document] = []
    for span in spans(query, now=now):
        left = limit - len(found)
        looks = (
            runs.find(lane, RUNS.read).sort("_id", -1).limit(left).to_list() for lane in lanes(span)
        )
        seen = [run for look in await asyncio.gather(*map(guarded, looks)) for run in look]
        found += sorted(seen, key=_id, reverse=True)[:left]
        if len(found) >= limit:
            break
    return found


async def count_newest(
    runs: AsyncCollection[Document], query: Mapping[str, Any], *, most: int, now: datetime
) -> int:
    """How many fit; counting stops at `most`, which stands for "and more"."""
    count = 0
    for span in spans(query, now=now, first=_FIRST_COUNT, growth=_GROWTH_COUNT):
        for lane in lanes(span):
            count += await guarded(runs.count_documents(lane, limit=most - count))
            if count >= most:
                return count
    return count


async def newest_of(
    runs: AsyncCollection[Document], ids: Iterable[str], query: Mapping[str, Any], *, limit: int
) -> list[Document]:
    """As `newest`, of the runs with these ids."""
    low, high = query["_id"]["$gte"], query["_id"]["$lt"]
    wanted = sorted({id for id in ids if low <= id < high}, reverse=True)
    found: list[Document] = []
    for first in range(0, len(wanted), _IDS_AT_ONCE):
        some = {"$in": wanted[first : first + _IDS_AT_ONCE]}
        page = await guarded(runs.find({**query, "_id": some}, RUNS.read).to_list())
        found += sorted(page, key=_id, reverse=True)
        if len(found) >= limit:
            break
    return found[:limit]


def lanes(query: Document) -> list[Document]:
    """The queries that together ask the same, each led by an equality that has an index."""
    if "client" in query or "status" in query:
        return [query]
    return [{**query, "status": status.value} for status in Status]


def spans(
    query: Mapping[str, Any],
    *,
    now: datetime,
    first: timedelta = _FIRST,
    growth: int = _GROWTH,
) -> Iterator[Document]:
    """The query, narrowed to one span of time after the other, the newest first."""
    ids = query["_id"]
    low, high = str(ids["$gte"]), str(ids["$lt"])
    # From the cursor or from now, whichever is earlier; the first span reaches up to the end.
    upper = min(now, ulid_instant(high) or now)
    length = first
    while low < high:
        begin = upper - length if upper - EPOCH > length else EPOCH
        start = max(low, ulid_floor(begin))
        yield {**query, "_id": {"$gte": start, "$lt": high}}
        if begin == EPOCH:
            return
        high, upper, length = start, begin, length * growth


def _id(run: Document) -> str:
    return str(run["_id"])

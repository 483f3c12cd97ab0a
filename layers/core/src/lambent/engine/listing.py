"""Finds and counts the newest runs without looking at old ones, however many there are.

Ids begin with the instant of their making, so a span of time is a range of ids. Each look takes
one such span, from now backwards and each eight times as long as the one before: together with an
equality it is a two-sided range of an index, and a server that reads a whole range before it sorts
still reads about eight times the page at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import OperationFailure

from lambent.clock import EPOCH, FAR_FUTURE
from lambent.engine.documents import ulid_floor, ulid_instant
from lambent.mongo import Document, guarded

_FIRST: Final = timedelta(seconds=2)
_GROWTH: Final = 8
# A count reads no documents: fewer looks weigh more than what the last of them reads too much.
_FIRST_COUNT: Final = timedelta(minutes=15)
_GROWTH_COUNT: Final = 100
# An id is older than the `created_at` beside it by what it takes to keep a big input.
_SLACK: Final = timedelta(minutes=1)
_BY_INSTANT: Final = [("created_at", 1)]


@dataclass(frozen=True, slots=True)
class Span:
    """The query of one look; `hint`: the index that a planner may not see by itself."""

    query: Document
    hint: list[tuple[str, int]] | None = None


async def newest(
    runs: AsyncCollection[Document], query: Mapping[str, Any], *, limit: int, now: datetime
) -> list[Document]:
    """Up to `limit` runs that fit, newest first. `query` has both ends of a range of `_id`."""
    found: list[Document] = []
    for span in spans(query, now=now):
        found += await _look(runs, span, limit - len(found))
        if len(found) >= limit:
            break
    return found


async def _look(runs: AsyncCollection[Document], span: Span, limit: int) -> list[Document]:
    cursor = runs.find(span.query).sort("_id", -1).limit(limit)
    if span.hint is None:
        return await guarded(cursor.to_list())
    try:
        return await guarded(cursor.clone().hint(span.hint).to_list())
    except OperationFailure:  # setup of this version has not been run yet: slower, and right
        return await guarded(cursor.to_list())


async def count_newest(
    runs: AsyncCollection[Document], query: Mapping[str, Any], *, most: int, now: datetime
) -> int:
    """How many fit, by an equality; counting stops at `most`, which stands for "and more"."""
    count = 0
    for span in spans(query, now=now, first=_FIRST_COUNT, growth=_GROWTH_COUNT):
        count += await guarded(runs.count_documents(span.query, limit=most - count))
        if count >= most:
            break
    return count


def spans(
    query: Mapping[str, Any],
    *,
    now: datetime,
    first: timedelta = _FIRST,
    growth: int = _GROWTH,
) -> Iterator[Span]:
    """The query, narrowed to one span of time after the other, the newest first."""
    wanted = dict(query)
    ids = wanted.pop("_id")
    low, high = str(ids["$gte"]), str(ids["$lt"])
    # From the cursor or from now, whichever is earlier; the first span reaches up to the end.
    upper = min(now, ulid_instant(high) or now)
    length = first
    while low < high:
        begin = upper - length if upper - EPOCH > length else EPOCH
        start = max(low, ulid_floor(begin))
        narrowed: Document = {**wanted, "_id": {"$gte": start, "$lt": high}}
        if wanted:
            yield Span(narrowed)
        else:
            # No equality to lead an index: the instant of making has one of its own.
            until = (ulid_instant(high) or FAR_FUTURE - _SLACK) + _SLACK
            yield Span({**narrowed, "created_at": {"$gte": begin, "$lt": until}}, _BY_INSTANT)
        if begin == EPOCH:
            return
        high, upper, length = start, begin, length * growth

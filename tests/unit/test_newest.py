"""How far back each look for the newest documents goes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from lambent.clock import EPOCH, FAR_FUTURE
from lambent.ids import ulid_floor, ulid_instant
from lambent.newest import Spans

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ALL = {"_id": {"$gte": ulid_floor(EPOCH), "$lt": ulid_floor(FAR_FUTURE)}}


def looks_at(made: list[datetime], limit: int) -> list[int]:
    """How many documents each look finds until there are enough, or none are left."""
    spans = Spans(ALL, now=NOW)
    counts: list[int] = []
    for span in spans:
        low, high = ulid_instant(span["_id"]["$gte"]), ulid_instant(span["_id"]["$lt"])
        assert low is not None
        counts.append(sum(1 for at in made if low <= at < (high or FAR_FUTURE)))
        if sum(counts) >= limit:
            break
        spans.tell(found=sum(counts), left=limit - sum(counts))
    return counts


def test_a_store_that_is_empty_is_known_to_be_so_after_a_few_looks() -> None:
    assert looks_at([], 50) == [0] * 6


def test_spans_meet_without_a_gap() -> None:
    bounds = [one["_id"] for one in Spans(ALL, now=NOW)]
    assert [one["$gte"] for one in bounds[:-1]] == [one["$lt"] for one in bounds[1:]]
    assert (bounds[-1]["$gte"], bounds[0]["$lt"]) == (ALL["_id"]["$gte"], ALL["_id"]["$lt"])


def test_what_lies_evenly_is_found_without_reading_much_more() -> None:
    for apart in (timedelta(seconds=1), timedelta(seconds=26), timedelta(hours=2)):
        counts = looks_at([NOW - number * apart for number in range(3000)], 50)
        assert len(counts) <= 6
        assert sum(counts) < 50 * 4


def test_a_heap_with_years_behind_it_does_not_shorten_the_looks() -> None:
    heap = [NOW - timedelta(milliseconds=number) for number in range(49)]
    counts = looks_at([*heap, NOW - timedelta(days=900)], 50)
    assert sum(counts) == 50
    assert len(counts) < 20

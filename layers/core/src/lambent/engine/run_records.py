"""Shows what a run has left of itself: its records page by page, its slices, what it said.

A run may have ten thousand records and a page shows a hundred: records are numbered in the order
in which they were begun, so a page is a range of numbers in an index, and nothing else is read.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from lambent.clock import Clock
from lambent.due import Database, DueDocuments
from lambent.engine.model import STEPS, step_id
from lambent.engine.values import Values
from lambent.engine.views import (
    LineView,
    SliceView,
    StepView,
    lines_of,
    slice_views,
    step_view,
    wait_as_step,
)
from lambent.errors import NotFound, RequestError
from lambent.mongo import Document, drop_former_indexes, guarded
from lambent.waits import WAITS, Waits

_FORMER_INDEX: Final = "run_1_epoch_1"  # the new one begins like it
# Above every number: no index is asked for an open range.
_ABOVE: Final = 10**9
_GROWTH: Final = 8
_COUNTED: Final = 1000
_SAMPLES: Final = 60
Place = tuple[int, int]  # epoch and number


@dataclass(frozen=True, slots=True)
class Records:
    """A page, in the order of beginning. `cursor` asks for the next one, `before` for the one
    before; None where there is none. `first` counts from 1, `total` is of all epochs; of more than
    a thousand they go by the records' numbers, and by what the last settle knew."""

    steps: list[StepView]
    cursor: str | None
    before: str | None
    first: int
    total: int


@dataclass(frozen=True, slots=True)
class History:
    """How the platform dealt with a run: its last slices, what its code said at its end, and
    `pace`: when each of some 60 records, spread evenly over all, was done."""

    slices: tuple[SliceView, ...]
    log: tuple[LineView, ...]
    pace: tuple[datetime, ...]


class RunRecords:
    """Every method is scoped: `client` is whose runs may be seen, None (an admin) everybody's."""

    def __init__(
        self, mongo: Database, due: DueDocuments, *, values: Values, waits: Waits, clock: Clock
    ) -> None:
        self._mongo = mongo
        self._due = due
        self._values = values
        self._waits = waits
        self._clock = clock

    async def ensure_indexes(self) -> None:
        """Make the index of the pages; a replay, which asks for epochs, stands on it too."""
        index = [("run", 1), ("epoch", 1), ("order", 1)]
        await guarded(self._mongo.db[STEPS].create_index(index))
        await drop_former_indexes(self._mongo.db[STEPS], _FORMER_INDEX)

    async def page(
        self,
        run_id: str,
        *,
        client: str | None,
        limit: int,
        cursor: str | None = None,
        before: str | None = None,
        newest: bool = False,
        around: str | None = None,
    ) -> Records:
        """From `cursor` on, or what comes before `before`, or the newest, or those around the step
        of that key, or the first ones. Raises `NotFound`, `RequestError` for another's cursor."""
        run = await self._read(run_id, client)
        reader = _Reader(self._mongo, run, await self._waits.of_run(run_id))
        total = await reader.total()
        if before is not None or (newest and total > limit):
            above = _place_of(before) if before else (int(run["epoch"]), _ABOVE)
            found = await reader.backwards(above, limit)
            more = above if before else None
        else:
            start = _place_of(cursor) if cursor else (0, 0)
            if around is not None:
                start = await reader.near(around, limit // 2)
            found = await reader.forwards(start, limit + 1)
            more = _place(found[limit]) if len(found) > limit else None
            found = found[:limit]
        passed = await reader.passed(_place(found[0])) if found else 0
        return Records(
            steps=[await self._view(one, inside=client is None) for one in found],
            cursor=None if more is None else _cursor(more),
            before=_cursor(_place(found[0])) if passed else None,
            first=passed + 1,
            total=total,
        )

    async def history(self, run_id: str) -> History:
        """For operators only: it names what runs the run."""
        run = await self._read(run_id, None)
        count = int(run["records"])
        of_epoch = {"run": run_id, "epoch": run["epoch"]}
        pace: list[datetime] = []
        if count > 1:
            asked = {place * count // _SAMPLES for place in range(_SAMPLES)}
            wanted = {**of_epoch, "order": {"$in": sorted(asked)}}
            shown = self._mongo.db[STEPS].find(wanted, {"finished_at": 1})
            for one in await guarded(shown.to_list()):
                pace += [one["finished_at"]] if one.get("finished_at") else []
        return History(
            slices=slice_views(run, now=self._clock.now()),
            log=lines_of(run),
            pace=tuple(sorted(pace)),
        )

    async def _read(self, run_id: str, client: str | None) -> Document:
        run = await guarded(self._due.collection.find_one({"_id": run_id}))
        if run is None or (client is not None and run["client"] != client):
            raise NotFound(f"There is no run {run_id!r}.")
        return run

    async def _view(self, record: Document, *, inside: bool) -> StepView:
        if "opened_at" in record:
            return wait_as_step(record, inside=inside)
        return await step_view(record, self._values, inside=inside)


class _Reader:
    """Reads ranges of one run's records; its waits, which are few, are all there already."""

    def __init__(self, mongo: Database, run: Document, waits: list[Document]) -> None:
        self._mongo = mongo
        self._run = run
        self._last = int(run["epoch"])
        self._many = False
        self.waits = waits

    async def total(self) -> int:
        """How many records there are: counted, unless the last settle knew of very many, for some
        servers read what they count."""
        known = int(self._run["records"])
        self._many = known > _COUNTED
        return known if self._many else await self._count({}) + len(self.waits)

    async def _count(self, where: Document) -> int:
        of_run = {"run": self._run["_id"], **where}
        return await guarded(self._mongo.db[STEPS].count_documents(of_run))

    async def forwards(self, start: Place, limit: int) -> list[Document]:
        """Up to `limit` records from `start` on."""
        found: list[Document] = []
        epoch, low = start
        while len(found) < limit and epoch <= self._last:
            width = limit
            while low < _ABOVE and len(found) < limit:
                found += await self._range(epoch, low, low + width)
                low, width = low + width, width * _GROWTH
            epoch, low = epoch + 1, 0
        return found[:limit]

    async def backwards(self, above: Place, limit: int) -> list[Document]:
        """The last up to `limit` records before `above`."""
        found: list[Document] = []
        epoch, high = above
        while len(found) < limit and epoch >= 0:
            width = limit
            # From above all numbers down to the last ones at a stroke: there is little up there.
            low = high if high < _ABOVE else max(0, int(self._run["records"]) - width)
            if high == _ABOVE:
                found = [*await self._range(epoch, low, high), *found]
            while low > 0 and len(found) < limit:
                high, low, width = low, max(0, low - width), width * _GROWTH
                found = [*await self._range(epoch, low, high), *found]
            epoch, high = epoch - 1, _ABOVE
        found = found[-limit:]
        return found

    async def near(self, key: str, before: int) -> Place:
        """Where to begin for a page around the step; the newest of that key."""
        for epoch in range(self._last, -1, -1):
            of_key = {"_id": step_id(self._run["_id"], epoch, key)}
            for name in (STEPS, WAITS):
                record = await guarded(self._mongo.db[name].find_one(of_key, {"order": 1}))
                if record is not None:
                    return epoch, max(0, int(record["order"]) - before)
        raise NotFound(f"The run has no step {key!r} on record.")

    async def passed(self, place: Place) -> int:
        """How many records come before it."""
        epoch, number = place
        if self._many:
            return number
        earlier = await self._count({"epoch": {"$gte": 0, "$lt": epoch}}) if epoch else 0
        earlier += sum(1 for one in self.waits if one["epoch"] < epoch)
        return earlier + await self._below(epoch, number)

    async def _below(self, epoch: int, number: int) -> int:
        if number <= 0:
            return 0
        steps = await self._count({"epoch": epoch, "order": {"$gte": 0, "$lt": number}})
        return steps + len(self._waits_in(epoch, 0, number))

    async def _range(self, epoch: int, low: int, high: int) -> list[Document]:
        wanted = {"run": self._run["_id"], "epoch": epoch, "order": {"$gte": low, "$lt": high}}
        steps = await guarded(self._mongo.db[STEPS].find(wanted).to_list())
        return sorted([*steps, *self._waits_in(epoch, low, high)], key=_place)

    def _waits_in(self, epoch: int, low: int, high: int) -> list[Document]:
        return [one for one in self.waits if one["epoch"] == epoch and low <= one["order"] < high]


def _place(record: Document) -> Place:
    return int(record["epoch"]), int(record["order"])


def _cursor(place: Place) -> str:
    return base64.urlsafe_b64encode(f"{place[0]}.{place[1]}".encode()).decode()


def _place_of(cursor: str) -> Place:
    try:
        epoch, _, number = base64.urlsafe_b64decode(cursor).decode().partition(".")
        place: Any = int(epoch), int(number)
    except ValueError:
        raise RequestError("This cursor is none of ours.") from None
    if not (0 <= place[0] <= _ABOVE and 0 <= place[1] <= _ABOVE):
        raise RequestError("This cursor is none of ours.")
    return int(place[0]), int(place[1])

"""Keeps what a run has done: read once when a slice starts, written once a step."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError

from lambent.due import Database, durable, read_winner
from lambent.engine.branch import enclosing
from lambent.engine.documents import visible
from lambent.engine.model import OPEN_WAITS, STEPS, Kind, StepStatus, record_id, step_id
from lambent.engine.run_log import MOST_LINES, Lines
from lambent.engine.under_way import UnderWay
from lambent.errors import NonDeterministic, StoreUnavailable
from lambent.mongo import Document, guarded
from lambent.waits import WAITS, Waits, WaitStatus

MOST_TRIES: Final = 10
# What a replay goes by. The rest, which only people look at, does not travel with it: decoding two
# instants a step would cost more than all else of a step that is replayed.
_READ: Final = {"_id": 0} | dict.fromkeys(
    (
        *("epoch", "key", "kind", "status", "order", "output", "error", "spent", "undo"),
        *("attempts", "retry_at", "deadline_at"),  # of one that goes on
        *("at", "until", "branch", "child"),  # of one kind each
    ),
    1,
)


class Journal:
    """The records of one run in its present epoch, by step key; waits are among them."""

    def __init__(self, mongo: Database, run: Mapping[str, Any]) -> None:
        self._mongo = mongo
        self.run = run
        self.epoch = int(run["epoch"])
        self.steps: dict[str, Document] = {}
        self.waits: dict[str, Document] = {}
        self.asked: set[str] = set()
        self.spent = int(run["spent_before"])
        self.spent_by: Counter[str] = Counter()  # by child: what of it is in `spent`
        self.lines = Lines(int(run.get("lines", 0)))
        self.resting: dict[str, Document] = {}  # steps that are to be tried again later
        self.under_way = UnderWay()
        self.fresh = 0  # records written by this slice: what counts as progress
        self._next_order = 0
        # See `_unasked`; None until it matters. Then `_keys_in` has the keys that it counts.
        self._left: Counter[str] | None = None
        self._keys_in: dict[str, list[str]] = {}
        self._written_off: set[str] = set()

    @property
    def _collection(self) -> AsyncCollection[Document]:
        return self._mongo.db[STEPS]

    async def load(self, waits: Waits) -> None:
        """Read every record. After the run itself: else a signal between the two is lost.

        With majority concern: what the code goes on from must not be rolled back under it. It may
        be repeated where the store failed in the middle: each time begins with nothing.
        """
        run = self.run
        of_run: Document = {"run": run["_id"]}
        if run["base_epoch"] == run["epoch"]:
            of_run["epoch"] = run["epoch"]
        else:
            # Never "$lte": of a field that is not the last of its index, a server that is only
            # compatible with MongoDB leaves that very value out.
            of_run["epoch"] = {"$gte": run["base_epoch"], "$lt": run["epoch"] + 1}
        found = durable(self._collection).find(of_run, _READ, batch_size=10_000).to_list()
        steps, waiting = await asyncio.gather(guarded(found), waits.of_run(run["_id"]))
        self.steps, self.waits = {}, {}
        paid = [one for one in steps if "spent" in one]
        self.spent = int(run["spent_before"]) + sum(int(one["spent"]) for one in paid)
        self.spent_by = Counter()
        for one in paid:
            if "child" in one:
                self.spent_by[one["child"]] += int(one["spent"])
        if run["base_epoch"] == run["epoch"]:
            # One epoch, so that no cut is later than any of them.
            self.steps = {one["key"]: one for one in steps}
            self._next_order = max((one["order"] + 1 for one in steps), default=0)
        else:
            for step in steps:
                self._take_in(self.steps, step)
        for wait in waiting:
            if not self._take_in(self.waits, wait) and wait["status"] == WaitStatus.OPEN:
                await self._give_up(waits, wait)

    def _take_in(self, into: dict[str, Document], record: Document) -> bool:
        self._next_order = max(self._next_order, record["order"] + 1)
        if not visible(self.run, record):
            return False
        there = into.get(record["key"])
        if there is None or there["epoch"] < record["epoch"]:
            into[record["key"]] = record
        return True

    async def _give_up(self, waits: Waits, wait: Document) -> None:
        # A wait that a restart cut off must not catch events any more.
        if wait["epoch"] < self.run["epoch"]:
            await waits.close(wait["_id"])

    def rests(self) -> Document | None:
        """The step that is tried again next, and what it rests for, for people who look."""
        if not self.resting:
            return None
        next_up = min(self.resting.values(), key=lambda one: one["retry_at"])
        error = {name: next_up["error"][name] for name in ("type", "message")}
        return {"step": next_up["key"], "until": next_up["retry_at"], **error}

    @property
    def count(self) -> int:
        return len(self.steps) + len(self.waits)

    def replaying(self, path: str) -> bool:
        """Whether the branch, one inside it, or one around it after this one, has yet to ask for
        a record: what its code does until then it has done before."""
        if len(self.asked) == self.count:
            return False
        left = self._unasked()
        if left[path]:
            return True
        # The branch around a gather comes by its own later records once all in the gather ended.
        around = list(enclosing(path))
        beside = [path[: path.rfind("[") + 1], *(one[: one.rfind("[") + 1] for one in around)]
        return any(left[one] > left[group] for one, group in zip(around, beside, strict=False))

    def write_off(self, paths: Iterable[str]) -> None:
        """Nobody will ask for what these branches, which were given up, have on record."""
        if len(self.asked) == self.count:
            return
        left = self._unasked()
        for path in paths:
            for key in self._keys_in.get(path, ()) if left[path] else ():
                if key not in self.asked and key not in self._written_off:
                    self._written_off.add(key)
                    left.subtract(_counted(key))

    def _unasked(self) -> Counter[str]:
        """How many records in and inside each branch it has yet to ask for."""
        if self._left is None:
            records = {**self.steps, **self.waits}
            for key, record in records.items():
                if record["status"] == StepStatus.TOMBSTONE:
                    self._written_off.add(key)
            self._left = Counter()
            for key in records.keys() - self.asked - self._written_off:
                self._left.update(_counted(key))
                for path in enclosing(key):
                    self._keys_in.setdefault(path, []).append(key)
        return self._left

    def last_key(self) -> str | None:
        """The key of the record that was begun last."""
        records = [*self.steps.values(), *self.waits.values()]
        return max(records, key=lambda one: one["order"])["key"] if records else None

    def left(self) -> list[str]:
        """What the run leaves when it ends now: the collections with records of it, and whether
        any wait is open. Never too little: what others change, they only close."""
        earlier = self.run["epoch"] > 0
        found = [STEPS] if self.steps or earlier else []
        if self.waits or earlier:
            found.append(WAITS)
        if earlier or any(one["status"] == WaitStatus.OPEN for one in self.waits.values()):
            found.append(OPEN_WAITS)
        return found

    def to_undo(self) -> bool:
        """Whether a completed step left something that its workflow would undo."""
        done = StepStatus.COMPLETED
        return any(one.get("undo") and one["status"] == done for one in self.steps.values())

    def satisfied(self) -> list[str]:
        """The `_id`s of the waits whose events reached the code."""
        return [
            wait["_id"]
            for key, wait in self.waits.items()
            if key in self.asked and wait["status"] == WaitStatus.SATISFIED
        ]

    def next_order(self) -> int:
        """A number for a record that is begun now; later than all that are known."""
        order = self._next_order
        self._next_order += 1
        return order

    def ask(self, key: str, kind: Kind) -> Document | None:
        """What is on record under the key; raises `NonDeterministic` for another kind of step."""
        record = self.steps.get(key) or self.waits.get(key)
        if record is None:
            return None
        if record["kind"] != kind:
            raise NonDeterministic(
                f"Step {key!r} is on record as {record['kind']!r}; the code now asks for {kind!r}."
            )
        if self._left is not None and key not in self.asked and key not in self._written_off:
            self._left.subtract(_counted(key))
        self.asked.add(key)
        return record

    def passed_over(self, path: str) -> str | None:
        """A recorded step of this branch, or of one inside it, that has not been asked for.

        For when the branch asks for a step that is not on record: its code runs one step after
        the other, so by then it has asked for all that are; else it is not the code that wrote
        them.
        """
        if len(self.asked) == self.count or not self._unasked()[path]:
            return None
        records = {**self.steps, **self.waits}
        for key in sorted(records, key=lambda one: int(records[one]["order"])):
            if key not in self.asked and key not in self._written_off and _inside(key, path):
                return key
        return None

    def unasked(self) -> str | None:
        """A recorded step that the code, having ended, never asked for; None if all is well."""
        return self.passed_over("")

    async def insert(
        self,
        key: str,
        kind: Kind,
        status: StepStatus,
        order: int,
        fields: Mapping[str, Any],
        *,
        tried: Document | None = None,
    ) -> Document:
        """Record a step; the first writer wins, and the loser gets what the winner wrote.

        Repeating it after a lost acknowledgement is safe: one then loses against oneself. `tried`:
        the attempt that led here, for people who look.
        """
        run = self.run
        document: Document = {
            "_id": step_id(run["_id"], run["epoch"], key),
            "run": run["_id"],
            "epoch": run["epoch"],
            "key": key,
            "kind": kind.value,
            "status": status.value,
            "order": order,
            **fields,
        }
        lines = self.lines.take()
        if lines:
            document["log"] = lines
        if tried is not None:
            document["tries"] = [tried]
        try:
            await guarded(self._collection.insert_one(document))
        except DuplicateKeyError:
            document = await self._winner(document["_id"])
        except StoreUnavailable:
            self.lines.give_back(lines)
            raise
        return self._keep(document)

    async def advance(
        self, record: Document, changes: Mapping[str, Any], *, tried: Document | None = None
    ) -> Document:
        """Move a record that is not final on by compare-and-set; the loser gets the winner's."""
        own_id = record_id(self.run, record)
        guard = {"_id": own_id, "status": record["status"]}
        guard["attempts"] = record.get("attempts", 0)
        update: Document = {"$set": dict(changes)}
        lines = self.lines.take()
        # Only with an attempt that is counted: the guard then lets a repeated write add nothing.
        more = {"log": (lines, MOST_LINES), "tries": ([tried] if tried else [], MOST_TRIES)}
        pushed = {
            name: {"$each": items, "$slice": -most} for name, (items, most) in more.items() if items
        }
        if pushed:
            update["$push"] = pushed
        try:
            answer = await guarded(self._collection.update_one(guard, update))
        except StoreUnavailable:
            self.lines.give_back(lines)
            raise
        if answer.matched_count == 1:
            return self._keep({**record, **changes})
        return self._keep(await self._winner(own_id))

    async def finished_at(self, record: Document) -> datetime:
        """When the step was done, which `load` does not read."""
        own_id = record_id(self.run, record)
        at: datetime = (await self._winner(own_id))["finished_at"]
        return at

    async def _winner(self, own_id: str) -> Document:
        found = await read_winner(self._collection, own_id)
        if found is None:
            raise LookupError(f"the step {own_id} was deleted under its run")
        return found

    def _keep(self, record: Document) -> Document:
        if record["key"] not in self.steps:
            self.fresh += 1
        before = self.steps.get(record["key"], {})
        if more := int(record.get("spent", 0)) - int(before.get("spent", 0)):
            self.spent += more
            if "child" in record:
                self.spent_by[record["child"]] += more
        self.steps[record["key"]] = record
        self.asked.add(record["key"])
        return record

    def keep_wait(self, wait: Document) -> Document:
        """Take a wait that was opened or changed into the journal."""
        if wait["key"] not in self.waits:
            self.fresh += 1
        self.waits[wait["key"]] = wait
        self.asked.add(wait["key"])
        return wait

    def stale(self, holder: Document) -> bool:
        """Whether another wait of this run holds its event for nothing: it was cut off, and no
        epoch that stands has consumed it."""
        cut_off = holder["epoch"] < self.run["epoch"] and not visible(self.run, holder)
        return cut_off and not holder.get("consumed", False)


def _counted(key: str) -> Iterator[str]:
    """The branches that a record stands in, and the groups ("m[" of "m[3]") of those."""
    for path in enclosing(key):
        yield path
        if path:
            yield path[: path.rfind("[") + 1]


def _inside(key: str, path: str) -> bool:
    """Whether the step is one of this branch or of a branch opened in it."""
    return not path or key.startswith(f"{path}/")

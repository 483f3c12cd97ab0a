"""Listens to all that is asked of MongoDB, and says what of it is not by an index."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from pymongo import monitoring
from pymongo.asynchronous.database import AsyncDatabase

_READS: Final = ("find", "aggregate", "count", "distinct")
_UNSAID: Final = ("lsid", "$db", "$clusterTime", "$readPreference", "readConcern", "maxTimeMS")
_RANGES: Final = {"$gt", "$gte", "$lt", "$lte"}
# What may be looked at for each that is asked for: spans of time are longer than needed.
MOST_FOR_ONE: Final = 20
_FEW: Final = 100

Command = dict[str, Any]


@dataclass
class Asked:
    """What a page asked."""

    commands: list[Command] = field(default_factory=list)


class _Listener(monitoring.CommandListener):
    def __init__(self) -> None:
        self.asked: Asked | None = None
        self.database = ""

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if self.asked is None or event.database_name != self.database:
            return
        if event.command_name in _READS:
            said = {name: part for name, part in event.command.items() if name not in _UNSAID}
            self.asked.commands.append(said)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None: ...

    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...


_LISTENER: Final = _Listener()
monitoring.register(_LISTENER)  # hears the clients that are made from now on


@contextmanager
def overheard(database: str) -> Iterator[Asked]:
    """Everything that is asked of the database within the block."""
    asked = Asked()
    _LISTENER.asked, _LISTENER.database = asked, database
    try:
        yield asked
    finally:
        _LISTENER.asked = None


@dataclass(frozen=True)
class Look:
    """A read, whichever command it is: which documents, in which order, how many at most."""

    collection: str
    filter: Mapping[str, Any]
    sort: Mapping[str, int]
    limit: int | None

    @property
    def shape(self) -> str:
        asked = {name: "range" if _is_range(one) else "=" for name, one in self.filter.items()}
        return f"{self.collection} {asked} sorted by {dict(self.sort)}"


def look_of(command: Command) -> Look:
    name = next(iter(command))
    match name:
        case "find":
            return Look(command[name], command.get("filter", {}), command.get("sort", {}),
                        command.get("limit"))  # fmt: skip
        case "aggregate":
            stages = {next(iter(one)): next(iter(one.values())) for one in command["pipeline"]}
            assert "$match" in command["pipeline"][0], command
            return Look(command[name], stages["$match"], stages.get("$sort", {}),
                        stages.get("$limit"))  # fmt: skip
        case _:
            return Look(command[name], command.get("query", {}), {}, command.get("limit"))


def _is_range(condition: Any) -> bool:
    return isinstance(condition, dict) and bool(condition.keys() & _RANGES)


def left_over(look: Look, indexes: Sequence[Sequence[str]]) -> set[str] | None:
    """The fields that have to be looked for in the documents that the best index leads to; None
    where no index leads anywhere.

    An index serves equalities on what it begins with, then the order, then a range.
    """
    if "_id" in look.filter and not _is_range(look.filter["_id"]):
        return set()  # no more documents than are named
    best: set[str] | None = None
    equal = {name for name, one in look.filter.items() if not _is_range(one)}
    for index in indexes:
        begun = 0
        while begun < len(index) and index[begun] in equal:
            begun += 1
        served = set(index[:begun])
        order = [name for name in look.sort if name not in served]
        ordered = order == list(index[begun : begun + len(order)])
        rest = index[begun:]
        if rest and rest[0] in look.filter and (ordered or not order):
            served.add(rest[0])
        leads = bool(served) or (bool(order) and ordered and look.limit is not None)
        if leads and (ordered or not order):
            left = set(look.filter) - served
            best = left if best is None or len(left) < len(best) else best
    return best


async def examined(db: AsyncDatabase[Any], command: Command) -> tuple[str, int, int]:
    """The plan, how many documents are looked at, and how many come out of that."""
    said = await db.command({"explain": command, "verbosity": "executionStats"})
    if "stages" in said:
        said = said["stages"][0]["$cursor"]
    stats = said["executionStats"]
    plan = json.dumps(said["queryPlanner"]["winningPlan"])
    return plan, int(stats["totalDocsExamined"]), int(stats["nReturned"])


def wasteful(look: Look, looked_at: int, returned: int) -> bool:
    """Whether too much is looked at for what is asked for."""
    wanted = max(returned, look.limit or 0)
    return looked_at > max(_FEW, MOST_FOR_ONE * wanted)

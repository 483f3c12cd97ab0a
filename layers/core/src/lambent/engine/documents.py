"""Makes the run documents, and says which records of a run count in its present epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from lambent.due import new_due_fields
from lambent.engine import marks
from lambent.engine.model import Status
from lambent.mongo import Document

# How far before its run was asked for an event may have come and still be meant for it: the
# clocks of two machines, and a publisher that was quicker than the run it belongs to. Counted from
# the asking, not from the first slice: that may come late, and whoever was answered may publish.
SINCE_BEFORE_S: Final = 5.0


def new_run(
    *,
    id: str,
    key: str,
    workflow: str,
    version: int,
    client: str,
    input: Any,
    now: datetime,
    priority: int,
    due_at: datetime | None = None,
    budget: int | None = None,
    parent: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Document:
    """A run that no slice has begun. `key` is its identity: the same key is the same run."""
    return {
        "_id": id,
        "key": key,
        "marks": [marks.identity(client, key)],
        "workflow": workflow,
        "version": version,
        "client": client,
        "input": input,
        "status": Status.PENDING.value,
        "control": None,
        "epoch": 0,
        "base_epoch": 0,
        "cuts": [],
        **new_due_fields(due_at or now),
        "owes": [],
        "parent": dict(parent) if parent else None,
        "priority": int(priority),
        "budget": budget,
        "spent": 0,
        "spent_before": 0,
        "progress": None,
        "records": 0,
        "idle": 0,
        "ending": None,
        "blocked": None,
        "created_at": now,
        "started_at": None,
        "finished_at": None,
        "output": None,
        "error": None,
        **({"child_of": place_among_children(str(parent["run"]), id)} if parent else {}),
        **(extra or {}),
    }


def place_among_children(parent: str, id: str) -> str:
    """The one field by which a run's children are found, in the order of their ids; only children
    have it, so that its index costs the others nothing."""
    return f"{parent}/{id}"


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a run is cut off: what was begun from `order` on, at the step `key`, does not count.

    `child`: a child run that ended otherwise than well, and its epoch then: this end of it is not
    to be taken as its outcome again, so the run that goes on retries it first.
    """

    order: int
    key: str
    child: tuple[str, int] | None = None


def new_cut(epoch: int, order: int, key: str) -> Document:
    """What a restart at the step `key` leaves of the epochs up to `epoch`: see `visible`."""
    return {"epoch": epoch, "order": order, "path": list(branch_of(key))}


def branch_of(key: str) -> tuple[str, ...]:
    """The branch path of a step key: all but its last part."""
    return tuple(key.split("/")[:-1])


def is_child(run: Mapping[str, Any], parent: str) -> bool:
    """Whether this parent started it; a singleton that was there before is somebody else's."""
    return bool((run["parent"] or {}).get("run") == parent)


def visible(run: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    """Whether a step or wait counts in the run's present epoch.

    Each cut since it was recorded must keep it: it was reached before the step that was cut, or
    in a sibling branch of it (same gather, other index), which the cut does not touch.
    """
    if record["epoch"] < run["base_epoch"]:
        return False
    if not run["cuts"]:
        return True
    return all(
        record["order"] < cut["order"] or _beside(branch_of(record["key"]), tuple(cut["path"]))
        for cut in run["cuts"]
        if cut["epoch"] >= record["epoch"]
    )


def _beside(path: tuple[str, ...], cut: tuple[str, ...]) -> bool:
    for mine, other in zip(path, cut, strict=False):
        if mine != other:
            # "gather#2[1]" and "gather#2[3]" are siblings; "gather[1]" ended before "gather#2".
            return mine.rpartition("[")[0] == other.rpartition("[")[0] != ""
    return False

"""Says by which indexes runs are found and counted; see `lambent.newest` for how.

Every index of `runs` is written at each change of a run, so there are few: what names neither a
parent, a client nor a status is asked for by each status.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from pymongo.asynchronous.collection import AsyncCollection

from lambent import newest as newest_documents
from lambent.clock import EPOCH, FAR_FUTURE
from lambent.engine.documents import place_among_children
from lambent.engine.model import GOING_ON, RUNS, Status
from lambent.errors import Unprocessable
from lambent.ids import ulid_floor
from lambent.mongo import Document

# What has not ended, and how that is asked for.
StatusAsked = Status | Literal["going_on"]
STATUSES_ASKED: Final = ("going_on", *(status.value for status in Status))

# Id, status, epoch, and why it is blocked: what tells one state of a listed run from another.
RunState = tuple[str, str, int, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs; what is None is not asked. `client` None: of all clients (for admins).

    `version` is of a workflow, so it is asked together with one.
    """

    client: str | None
    status: StatusAsked | None = None
    workflow: str | None = None
    version: int | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    parent: str | None = None

    @property
    def statuses(self) -> tuple[Status, ...]:
        match self.status:
            case None:
                return tuple(Status)
            case "going_on":
                return GOING_ON
            case status:
                return (Status(status),)


def query_of(wanted: RunFilter) -> Document:
    """The query, with both ends of a range of `_id`. Raises `Unprocessable`."""
    if wanted.version is not None and wanted.workflow is None:
        said = "is that of a workflow: name the workflow, too"
        errors = [{"field": "version", "message": said}]
        raise Unprocessable(f"version {said}.", fields={"errors": errors})
    # Ids begin with the instant of their making: the order of ids is the order in time, and a
    # span of time is a range of ids, with both ends (a server may scan for an open one).
    since = ulid_floor(wanted.created_from or EPOCH)
    query: Document = {"_id": {"$gte": since, "$lt": ulid_floor(wanted.created_to or FAR_FUTURE)}}
    match wanted.status:
        case None:
            pass
        case "going_on":
            query["status"] = {"$in": [one.value for one in GOING_ON]}
        case status:
            query["status"] = Status(status).value
    asked = {
        "client": wanted.client,
        "workflow": wanted.workflow,
        "version": wanted.version,
        "parent.run": wanted.parent,
    }
    return query | {name: one for name, one in asked.items() if one is not None}


async def newest(
    runs: AsyncCollection[Document],
    query: Mapping[str, Any],
    *,
    limit: int,
    now: datetime,
    read: Mapping[str, int] | None = RUNS.read,
) -> list[Document]:
    """Up to `limit` runs that fit, newest first. `query` has both ends of a range of `_id`; `read`
    is the projection."""
    order = "child_of" if "parent.run" in query else "_id"
    return await newest_documents.newest(
        runs, query, lanes=lanes, limit=limit, now=now, read=read, order=order
    )


async def count_newest(
    runs: AsyncCollection[Document], query: Mapping[str, Any], *, most: int, now: datetime
) -> int:
    """How many fit; counting stops at `most`, which stands for "and more"."""
    return await newest_documents.count_newest(runs, query, lanes=lanes, most=most, now=now)


def lanes(query: Document) -> list[Document]:
    """The queries that together ask the same, each led by what has an index."""
    if "parent.run" in query:
        return [_children(query)]
    if "client" in query:
        return [query]
    if isinstance(several := query.get("status"), dict):
        return [{**query, "status": status} for status in several["$in"]]
    return newest_documents.by_status(query, Status)


def _children(query: Document) -> Document:
    rest = {name: one for name, one in query.items() if name not in ("parent.run", "_id")}
    parent = query["parent.run"]
    span = {end: place_among_children(parent, id) for end, id in query["_id"].items()}
    return {**rest, "child_of": span}


def state_of(run_id: str, run: Mapping[str, Any]) -> RunState:
    """Of a run's document, or of its view as JSON."""
    return run_id, run["status"], run["epoch"], (run["blocked"] or {}).get("reason")


def page_digest(rows: Iterable[RunState]) -> str:
    """What tells one page of a list from another."""
    return hashlib.sha256(json.dumps(list(rows)).encode()).hexdigest()[:16]

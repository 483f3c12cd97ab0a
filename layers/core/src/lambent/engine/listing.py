"""Says by which indexes runs are found and counted; see `lambent.newest` for how.

Every index of `runs` is written at each change of a run, so there are few: what names neither a
parent, a client nor a status is asked for by each status.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pymongo.asynchronous.collection import AsyncCollection

from lambent import newest as newest_documents
from lambent.engine.documents import place_among_children
from lambent.engine.model import RUNS, Status
from lambent.mongo import Document


async def newest(
    runs: AsyncCollection[Document], query: Mapping[str, Any], *, limit: int, now: datetime
) -> list[Document]:
    """Up to `limit` runs that fit, newest first. `query` has both ends of a range of `_id`."""
    order = "child_of" if "parent.run" in query else "_id"
    return await newest_documents.newest(
        runs, query, lanes=lanes, limit=limit, now=now, read=RUNS.read, order=order
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
    return [query] if "client" in query else newest_documents.by_status(query, Status)


def _children(query: Document) -> Document:
    rest = {name: one for name, one in query.items() if name not in ("parent.run", "_id")}
    parent = query["parent.run"]
    span = {end: place_among_children(parent, id) for end, id in query["_id"].items()}
    return {**rest, "child_of": span}

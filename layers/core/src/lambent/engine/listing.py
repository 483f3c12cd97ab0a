"""Says by which indexes runs are found and counted; see `lambent.newest` for how.

Every index of `runs` is written at each change of a run, so there are few: what names neither a
client nor a status is asked for by each status.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from pymongo.asynchronous.collection import AsyncCollection

from lambent import newest as newest_documents
from lambent.engine.model import RUNS, Status
from lambent.mongo import Document, guarded

_IDS_AT_ONCE: Final = 200


async def newest(
    runs: AsyncCollection[Document], query: Mapping[str, Any], *, limit: int, now: datetime
) -> list[Document]:
    """Up to `limit` runs that fit, newest first. `query` has both ends of a range of `_id`."""
    return await newest_documents.newest(
        runs, query, lanes=lanes, limit=limit, now=now, read=RUNS.read
    )


async def count_newest(
    runs: AsyncCollection[Document], query: Mapping[str, Any], *, most: int, now: datetime
) -> int:
    """How many fit; counting stops at `most`, which stands for "and more"."""
    return await newest_documents.count_newest(runs, query, lanes=lanes, most=most, now=now)


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
    return [query] if "client" in query else newest_documents.by_status(query, Status)


def _id(run: Document) -> str:
    return str(run["_id"])

"""`GET /runs/counts/events` on the chat function: how a list of runs changes, as events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, ValidationError

from lambent.engine.census import Census
from lambent.engine.control import RunControl
from lambent.engine.listing import STATUSES_ASKED, page_digest
from lambent.errors import Unprocessable
from lambent.http.run_query import ListQuery
from lambent.http.watching import Watching


class WatchedList(ListQuery):
    """Which list is watched: the same words as those of `GET /runs`, and no others."""

    model_config = ConfigDict(extra="forbid")

    @classmethod
    def of(cls, query: Mapping[str, str]) -> WatchedList:
        """Raises `Unprocessable` that names each field."""
        try:
            return cls.model_validate(dict(query))
        except ValidationError as error:
            # One for each field: a choice of kinds is complained about kind by kind.
            said = {str(one["loc"][0]): one["msg"] for one in error.errors()}
            if "status" in said:
                said["status"] = f"is one of {', '.join(STATUSES_ASKED)}"
            errors = [{"field": field, "message": message} for field, message in said.items()]
            named = ", ".join(said)
            raise Unprocessable(f"Not valid: {named}.", fields={"errors": errors}) from None


class RunListEvents(Watching[str]):
    """Streams how a list of runs changes.

    Each frame has the counts by status and, as `runs`, a digest of the page of the list: who shows
    that page asks for it again where the digest is another.
    """

    event = "counts"
    # It is some twenty short reads by index.
    first_pause_s = 1.0
    longest_pause_s = 4.0

    def __init__(
        self,
        control: RunControl,
        census: Census,
        asked: ListQuery,
        *,
        client: str | None,
        **watching: Any,
    ) -> None:
        super().__init__(**watching)
        self._control = control
        self._census = census
        self._asked = asked
        self._wanted = asked.filter(client)

    async def look(self) -> str:
        asked = self._asked
        rows, counts = await asyncio.gather(
            self._control.list_states(self._wanted, limit=asked.limit, cursor=asked.cursor),
            self._census.by_status(self._wanted),
        )
        told = {
            "counts": {one: {"count": n.count, "more": n.more} for one, n in counts.items()},
            "runs": page_digest(rows),
        }
        return json.dumps(told)

    def shown(self, state: str) -> str:
        return state

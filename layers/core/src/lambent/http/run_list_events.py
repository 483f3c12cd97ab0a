"""`GET /runs/counts/events` on the chat function: how a list of runs changes, as events."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Annotated, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from starlette.types import Receive, Scope, Send

from lambent.clock import Clock
from lambent.engine.census import Census
from lambent.engine.control import RunControl, RunState
from lambent.engine.listing import RunFilter, StatusAsked
from lambent.engine.model import Status
from lambent.errors import StoreUnavailable, Unprocessable
from lambent.http.sse import HEADERS, KEEP_ALIVE

# How often is looked; it is some twenty short reads by index, and doubles while nothing changes.
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 4.0
_STATUSES: Final = ("going_on", *(one.value for one in Status))


class ListQuery(BaseModel):
    """Which list is watched: the same words as those of `GET /runs`."""

    model_config = ConfigDict(extra="forbid")

    status: StatusAsked | None = None
    workflow: Annotated[str | None, Field(max_length=100)] = None
    version: Annotated[int | None, Field(ge=1)] = None
    client: Annotated[str | None, Field(max_length=100)] = None
    parent: Annotated[str | None, Field(max_length=64)] = None
    created_from: AwareDatetime | None = None
    created_to: AwareDatetime | None = None
    cursor: Annotated[str | None, Field(max_length=200)] = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50

    @classmethod
    def of(cls, query: Mapping[str, str]) -> ListQuery:
        """Raises `Unprocessable` that names each field."""
        try:
            return cls.model_validate(dict(query))
        except ValidationError as error:
            # One for each field: a choice of kinds is complained about kind by kind.
            said = {str(one["loc"][0]): one["msg"] for one in error.errors()}
            if "status" in said:
                said["status"] = f"is one of {', '.join(_STATUSES)}"
            errors = [{"field": field, "message": message} for field, message in said.items()]
            named = ", ".join(said)
            raise Unprocessable(f"Not valid: {named}.", fields={"errors": errors}) from None

    def filter(self, client: str | None) -> RunFilter:
        """`client`: whose runs may be seen; None is everybody's."""
        asked = self.model_dump(exclude={"cursor", "limit", "client"})
        return RunFilter(client=client or self.client, **asked)


class RunListEvents:
    """An ASGI application that tells of a list of runs, from a state that its reader has not seen.

    Each frame has the counts by status and, as `runs`, a digest of the page of the list: who shows
    that page asks for it again where the digest is another. A frame's id is a digest of it all; who
    comes back with it as `Last-Event-ID` is told nothing twice. Ends after `longest_s`.
    """

    def __init__(
        self,
        control: RunControl,
        census: Census,
        asked: ListQuery,
        *,
        client: str | None,
        last_event_id: str,
        keep_alive_s: float,
        clock: Clock,
        longest_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._control = control
        self._census = census
        self._asked = asked
        self._wanted = asked.filter(client)
        self._seen = last_event_id
        self._keep_alive_s = keep_alive_s
        self._clock = clock
        self._ends_s = None if longest_s is None else clock.monotonic_s() + longest_s
        self._headers = {**HEADERS, **(headers or {})}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Looked at first: what cannot be asked is a problem document, not a stream.
        data = await self._look()
        raw = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in self._headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        async for frame in self.frames(data):
            await send({"type": "http.response.body", "body": frame, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def frames(self, data: str) -> AsyncIterator[bytes]:
        """The frames, from this look on."""
        pause_s, silent_s = _FIRST_PAUSE_S, 0.0
        while True:
            frame_id = _digest(data)
            if frame_id != self._seen:
                self._seen, pause_s, silent_s = frame_id, _FIRST_PAUSE_S, 0.0
                yield f"id: {frame_id}\nevent: counts\ndata: {data}\n\n".encode()
            elif silent_s >= self._keep_alive_s:
                silent_s = 0.0
                yield KEEP_ALIVE
            if self._ends_s is not None and self._clock.monotonic_s() >= self._ends_s:
                return
            await self._clock.sleep(pause_s)
            silent_s += pause_s
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
            try:
                data = await self._look()
            except StoreUnavailable:
                continue  # the runs go on without us looking; so does the stream

    async def _look(self) -> str:
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


def page_digest(rows: Iterable[RunState]) -> str:
    """What tells one page of a list from another."""
    return _digest(json.dumps(list(rows)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]

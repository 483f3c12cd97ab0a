"""What the bus needs of the engine and of dispatch; it imports neither capability."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from datetime import datetime
from typing import Any, Protocol

from lambent.dispatch import Work
from lambent.mongo import Document


class Starts(Protocol):
    """Starts runs, each once by its identity."""

    async def start_on(self, event: Document) -> list[str]:
        """One run of each workflow registered `on=` the event's type, keyed by the event."""
        ...

    async def start_tick(
        self,
        *,
        client: str,
        workflow: str,
        version: int | None,
        input: Any,
        schedule_id: str,
        tick_at: datetime,
    ) -> str:
        """The run of this schedule for this instant; the first call makes it."""
        ...


class Nudges(Protocol):
    """`lambent.dispatch.Dispatch` is one."""

    def nudge(
        self, work: Work, ids: Iterable[str], *, news: bool = False
    ) -> Coroutine[Any, Any, int]: ...

"""What the bus needs of the engine and of dispatch; it imports neither capability."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Sequence
from datetime import datetime
from typing import Any, Protocol

from lambent.dispatch import Work
from lambent.mongo import Document


class Started(Protocol):
    """A run that was asked for, new or known."""

    @property
    def run(self) -> Document: ...


class Starts(Protocol):
    """Starts runs, each once by its identity, and nudges for them; the engine is one."""

    async def start_for_event(self, event: Document) -> Sequence[Started]:
        """One run of each workflow registered `on=` the event's type, keyed by the event."""
        ...


class Nudges(Protocol):
    """`lambent.dispatch.Dispatch` is one."""

    def nudge(
        self, work: Work, ids: Iterable[str], *, news: bool = False, early: bool = False
    ) -> Coroutine[Any, Any, int]: ...


class Bell(Protocol):
    """`lambent.poller.generation.PollerBell` is one: it wakes a poller for what is due soon."""

    async def ring(self, due_at: datetime) -> bool: ...


class NoBell:
    """For where the poller's next tick is soon enough."""

    async def ring(self, due_at: datetime) -> bool:
        del due_at
        return False

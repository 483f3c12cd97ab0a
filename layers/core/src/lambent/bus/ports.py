"""What the bus needs of the engine and of dispatch; it imports neither capability."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Sequence
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
        self, work: Work, ids: Iterable[str], *, news: bool = False
    ) -> Coroutine[Any, Any, int]: ...

"""What the engine is told from outside: its limits, and the ports to what is not the engine's."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from lambent.mongo import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Limits of the engine; made from `Settings` by app.py.

    `longest_step_s`: what a function's timeout leaves for one step. `reserve_s`: what a slice
    keeps back to settle. `warm_s`: waits below this stay in the slice.
    """

    longest_step_s: float = 840.0
    step_timeout_s: float = 600.0
    reserve_s: float = 5.0
    warm_s: float = 2.0
    unwind_s: float = 2.0  # what an author's code has to end after what it waits for is called off
    retention_s: float = 30 * 86400.0
    leftovers_s: float = 86400.0  # how long steps, waits and chunks outlive their run
    deaths: int = 5  # lapsed leases in a row that make a run poison
    idle_slices: int = 25  # slices in a row without a checkpoint that block a run
    chunk_over_bytes: int = 1_000_000
    chunk_bytes: int = 4 * 1024 * 1024
    largest_value_bytes: int = 64 * 1024 * 1024
    no_code_retry_s: float = 300.0
    callback_base_url: str = ""


class Nudger(Protocol):
    """Says that runs are due; only a hint, so it never raises and may drop them."""

    async def nudge(self, run_ids: Sequence[str]) -> None: ...

    async def ring(self, due_at: datetime) -> None:
        """After the write of a run that is due only then: a poller has to be awake for it."""
        ...


@dataclass(frozen=True, slots=True)
class Generated:
    """A model's answer: `value` is JSON (text, tool calls, ...), `tokens` what it cost.

    `beside`: what is still written down of the call elsewhere; it never fails.
    """

    value: Any
    tokens: int
    beside: asyncio.Task[None] | None = None


class Listener(Protocol):
    """Hears a generation as it comes, in pieces of text and of thinking."""

    async def begin(self) -> str:
        """Before each attempt: the text that an attempt before it has told already; the new one
        goes on from there. May raise, which ends the attempt."""
        ...

    def tell(self, text: str, thinking: str) -> None:
        """A piece more. May raise, which ends the attempt."""
        ...

    async def end(self) -> None:
        """Before the result goes on record. May raise, which ends the attempt."""
        ...


class ModelPort(Protocol):
    """A model call with breaker and slot. Raises `BreakerOpen`, `NoSlot`, `ModelBusy` to be
    tried later, `ModelRefused` or `UnknownModel` for good. `listener` hears what comes."""

    async def generate(
        self, request: Mapping[str, Any], *, client: str, listener: Listener | None = None
    ) -> Generated: ...


class EventPort(Protocol):
    """Publishes an event: durable when it returns, deduplicated by (client, source, id)."""

    async def publish(
        self,
        *,
        client: str,
        id: str,
        source: str,
        type: str,
        subject: str | None,
        data: Any,
    ) -> None: ...


class NoNudges:
    """For where the poller alone is quick enough."""

    async def nudge(self, run_ids: Sequence[str]) -> None:
        del run_ids

    async def ring(self, due_at: datetime) -> None:
        del due_at


class RunWatcher(Protocol):
    """Is told what a run reports while it goes on (`progress`, statuses); must not raise."""

    async def seen(self, run: Document) -> None: ...

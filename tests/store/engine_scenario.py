"""What a scenario is: workflows, the actors that meet over them, and what must come of it."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from lambent.engine.config import EngineConfig
from lambent.engine.registry import Registry
from lambent.errors import Conflict
from tests.store.engine_explorer import Act
from tests.store.engine_world import World

Register = Callable[[Registry, Callable[[], World]], None]
Setup = Callable[[World], Awaitable[dict[str, Act]]]
Check = Callable[[World], Awaitable[None]]

# No warm waits: whatever has to wait settles.
CONFIG = EngineConfig(warm_s=0.0)


@dataclass(frozen=True, slots=True)
class Scenario:
    """`setup` makes what is there before and names the actors; `check` what must have come of it.

    `weight`: its share of the schedules. `prompt`: what must hold as soon as the actors are
    through, with nobody to recover anything, where none of them died or stalled.
    """

    name: str
    register: Register
    setup: Setup
    check: Check
    weight: float = 1
    config: EngineConfig = CONFIG
    prompt: Check | None = None


async def publish_again(world: World, *numbers: int) -> None:
    """A publisher that died, or was told nothing, publishes again: duplicates do not count."""
    if not world.faulty:
        return
    for number in numbers:
        await world.publish("e", number)
    await world.drain()


async def outcome(world: World, number: int = 0) -> tuple[str, Any]:
    """The status and the output of a run, as the last drain found it."""
    run = world.last[number]
    return run["status"], run["output"]


def canceller(world: World, run: str) -> Act:
    """Somebody who cancels the run, if it may still be cancelled."""

    async def cancel() -> None:
        with contextlib.suppress(Conflict):
            await world.engine.control.cancel(run, client=world.client)
            world.told["cancelled"] = True

    return cancel


def retrier(world: World, run: str) -> Act:
    """Somebody who retries the run, if it has failed."""

    async def retry() -> None:
        with contextlib.suppress(Conflict):
            await world.engine.control.retry(run, client=world.client)
            world.told["retries"] = world.told.get("retries", 0) + 1

    return retry

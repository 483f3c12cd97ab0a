"""Keeps one embedded service running, unless someone asked that it stay down.

The rule: a service whose process ended, for whatever reason, is started again on the same port
and data five seconds later. While the data folder holds a file `hold-<service>` it stays down;
once the file is gone it comes back. A stopped process (SIGSTOP) has not ended and is left alone.
"""

import asyncio
import sys
from collections.abc import Callable
from typing import Protocol

from local.emulator.guardian import Guardian
from local.screen import Screen
from local.services import ServiceError

RESTART_AFTER_S = 5.0
_LOOK_EVERY_S = 0.25


class Service(Protocol):
    """What the classes of `local.services` have in common."""

    @property
    def pid(self) -> int: ...

    @property
    def alive(self) -> bool: ...

    def stop(self) -> None: ...

    def kill(self) -> None: ...

    def restart(self) -> None: ...


class Embedded:
    """One running service; `watch` is its keeper."""

    def __init__(
        self,
        name: str,
        service: Service,
        *,
        held: Callable[[str], bool],
        screen: Screen,
        guardian: Guardian,
        on_change: Callable[[], None],
    ) -> None:
        self.name = name
        self._service = service
        self._held = held
        self._screen = screen
        self._guardian = guardian
        self._on_change = on_change
        self._guard()

    @property
    def pid(self) -> int:
        return self._service.pid

    async def watch(self) -> None:
        """For ever: notice an end, say so, start again."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            if not self._service.alive:
                await self._bring_back()

    async def stop(self, patience_s: float) -> None:
        """End it gracefully, or by force when that takes too long."""
        stopping = asyncio.create_task(asyncio.to_thread(self._service.stop))
        _, late = await asyncio.wait({stopping}, timeout=patience_s)
        if late:
            await asyncio.to_thread(self._service.kill)
            await asyncio.wait({stopping}, timeout=1.0)

    async def _bring_back(self) -> None:
        hold = f"hold-{self.name}"
        if self._held(self.name):
            self._screen.warn(f"{self.name} ended and stays down while {hold} exists")
        else:
            wait = f"it is started again in {RESTART_AFTER_S:.0f} s"
            self._screen.warn(f"{self.name} ended; {wait} (a file {hold} would keep it down)")
            await asyncio.sleep(RESTART_AFTER_S)
        while self._held(self.name):  # noqa: ASYNC110 - another process holds and lets go
            await asyncio.sleep(_LOOK_EVERY_S)
        try:
            await asyncio.to_thread(self._service.restart)
        except (ServiceError, OSError) as error:
            self._screen.warn(f"{self.name} could not be started again: {error}")
            return
        self._screen.warn(f"{self.name} is back")
        self._guard()
        self._on_change()

    def _guard(self) -> None:
        # On Linux a service is tied to us by its own death signal, and stops more gently by it.
        if sys.platform != "linux":
            self._guardian.watch(self._service.pid)

"""`RotatingSecret`: a credential that is looked up anew once its server refuses it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Final

from lambent.clock import Clock
from lambent.errors import ConfigError
from lambent.telemetry import log_fields, logger

# A wrong password stays wrong: asking for it all the time costs money and slows every request.
LOOK_EVERY_S: Final = 30.0
LookUp = Callable[[], str | None]


class RotatingSecret:
    """What a server is told; `look_up` reads it where it is kept, None where it was given as such.

    Shared by threads: the keeper of leases has a connection of its own.
    """

    def __init__(self, name: str, value: str, *, clock: Clock, look_up: LookUp | None = None):
        self.name = name
        self._value = value
        self._clock = clock
        self._look_up = look_up
        self._looked_s: float | None = None
        self._lock = threading.Lock()

    @property
    def value(self) -> str:
        """As known now."""
        return self._value

    async def renew(self, refused: str) -> bool:
        """Whether there is another value than the one that was refused; off the event loop."""
        if self._look_up is None:
            return False
        return await asyncio.to_thread(self.renew_now, refused)

    def renew_now(self, refused: str) -> bool:
        """The same for a thread of its own: it blocks."""
        if self._look_up is None:
            return False
        with self._lock:
            # Several are refused at once; the first one has looked.
            if self._value == refused and self._may_look():
                self._look(self._look_up)
            return self._value != refused

    def _may_look(self) -> bool:
        now_s = self._clock.monotonic_s()
        if self._looked_s is not None and now_s - self._looked_s < LOOK_EVERY_S:
            return False
        self._looked_s = now_s
        return True

    def _look(self, look_up: LookUp) -> None:
        try:
            found = look_up()
        except ConfigError as error:
            why = log_fields(setting=self.name, detail=error.detail)
            logger().error("A refused secret cannot be looked up again", **why)
            return
        if found is not None and found != self._value:
            self._value = found
            logger().warning("A rotated secret was taken up", **log_fields(setting=self.name))
        else:
            logger().error("A secret is refused as it is kept", **log_fields(setting=self.name))

"""Sees to it that a frame held for the end of the event loop's turn leaves even if the turn lasts.

An application that blocks the loop right after it sent two frames would otherwise keep the second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

# How long a frame may be held while the loop is blocked.
GUARD_S = 0.001


class Guard:
    """One daemon thread, started when it is first needed, asleep unless something is held."""

    def __init__(self) -> None:
        self._wake = threading.Semaphore(0)
        self._armed = False
        self._flush: Callable[[], None] | None = None
        self._started = False

    def arm(self, flush: Callable[[], None]) -> None:
        """Call `flush()` on the thread within about a millisecond, once for all calls till then."""
        self._flush = flush
        if self._armed:
            return
        self._armed = True
        if not self._started:
            self._started = True
            threading.Thread(target=self._run, name="guard", daemon=True).start()
        self._wake.release()

    def _run(self) -> None:
        while True:
            self._wake.acquire()
            time.sleep(GUARD_S)
            # Disarmed before the flush: what is held from here on arms it again.
            self._armed = False
            flush, self._flush = self._flush, None
            if flush is not None:
                flush()


guard = Guard()

"""The ASGI lifespan of the application: startup before the first invocation, shutdown at the end.

UNKNOWN: the application was called and has not answered yet. UNSUPPORTED: it raised or returned
before it answered, so it has no lifespan. UP: startup is complete. FAILED: it said so itself.
DOWN: shutdown is complete.
"""

from __future__ import annotations

import asyncio
import logging
from enum import Enum, auto
from typing import Any

from lambda_stream.failure import RuntimeFault
from lambda_stream.function import ASGIApp, Message


class Stage(Enum):
    """See the module's prose."""

    UNKNOWN = auto()
    UNSUPPORTED = auto()
    UP = auto()
    FAILED = auto()
    DOWN = auto()


class Lifespan:
    """Runs the application's lifespan call beside the requests."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._stage = Stage.UNKNOWN
        self._message = ""
        self._state: dict[str, Any] = {}
        self._events: asyncio.Queue[Message] = asyncio.Queue()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> dict[str, Any] | None:
        """The state that requests share; None without a lifespan. Raises RuntimeFault."""
        self._events.put_nowait({"type": "lifespan.startup"})
        self._task = asyncio.get_running_loop().create_task(self._run())
        await self._changed.wait()
        if self._stage is Stage.FAILED:
            text = f"The application failed to start: {self._message}".rstrip(": ")
            raise RuntimeFault("Runtime.LifespanStartupFailed", text)
        return self._state if self._stage is Stage.UP else None

    async def stop(self, *, timeout_s: float) -> bool:
        """Ask for shutdown and wait; False if it failed or did not end in time."""
        if self._stage is not Stage.UP or self._task is None:
            return self._stage is not Stage.FAILED
        self._changed.clear()
        self._events.put_nowait({"type": "lifespan.shutdown"})
        await asyncio.wait({self._task}, timeout=timeout_s)
        return self._reached(Stage.DOWN)

    def _reached(self, stage: Stage) -> bool:
        return self._stage is stage

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self._state,
        }
        try:
            await self._app(scope, self._events.get, self._send)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if self._stage is Stage.UP:
                self._stage, self._message = Stage.FAILED, repr(error)
            elif self._stage is Stage.UNKNOWN:
                log = logging.getLogger("lambda_stream")
                log.info("The application has no lifespan: %r", error)
        finally:
            if self._stage is Stage.UNKNOWN:
                self._stage = Stage.UNSUPPORTED
            self._changed.set()

    async def _send(self, message: Message) -> None:
        match message["type"], self._stage:
            case "lifespan.startup.complete", Stage.UNKNOWN:
                self._stage = Stage.UP
            case "lifespan.startup.failed", Stage.UNKNOWN:
                self._stage, self._message = Stage.FAILED, str(message.get("message", ""))
            case "lifespan.shutdown.complete", Stage.UP:
                self._stage = Stage.DOWN
            case "lifespan.shutdown.failed", Stage.UP:
                self._stage, self._message = Stage.FAILED, str(message.get("message", ""))
            case kind, stage:
                raise RuntimeError(f"{kind} is out of turn ({stage.name.lower()})")
        self._changed.set()

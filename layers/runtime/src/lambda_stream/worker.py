"""Runs a plain handler: a coroutine function on the event loop, any other on one thread.

The thread keeps the loop free for signals while a handler blocks, and lets a handler start a loop
of its own (`asyncio.run`), which is not allowed in the loop's thread. It is always the same thread,
so that thread-local connections of libraries are kept between invocations.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import threading
from queue import SimpleQueue
from typing import Any

from lambda_stream.function import EventHandler

_Work = tuple[contextvars.Context, EventHandler, Any, Any, "asyncio.Future[Any]"]


class Worker:
    """One daemon thread, started when it is first needed: it never holds up the process's end."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[_Work] = SimpleQueue()
        self._thread: threading.Thread | None = None

    async def call(self, handler: EventHandler, event: Any, context: Any) -> Any:
        """The handler's result, or whatever it raises, SystemExit included."""
        if _is_async(handler):
            return await handler(event, context)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="handler", daemon=True)
            self._thread.start()
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.put((contextvars.copy_context(), handler, event, context, done))
        result, error = await done
        if error is not None:
            raise error
        return await result if inspect.isawaitable(result) else result

    def _run(self) -> None:
        while True:
            variables, handler, event, context, done = self._queue.get()
            outcome: tuple[Any, BaseException | None]
            try:
                outcome = variables.run(handler, event, context), None
            except BaseException as error:  # handed to the waiting side, which sorts it
                outcome = None, error
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                done.get_loop().call_soon_threadsafe(_settle, done, outcome)


def _settle(done: asyncio.Future[Any], outcome: tuple[Any, BaseException | None]) -> None:
    if not done.done():
        done.set_result(outcome)


def _is_async(handler: EventHandler) -> bool:
    call = getattr(handler, "__call__", None)  # noqa: B004 - an object's own async __call__
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(call)

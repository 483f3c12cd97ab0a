"""What a function's module declares: its entry points, shutdown callbacks, background work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from dataclasses import dataclass
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
EventHandler = Callable[[Any, Any], Any]


@dataclass(frozen=True, slots=True)
class Function:
    """HTTP events go to `asgi`, all others to `event`; either may be None, not both."""

    asgi: ASGIApp | None = None
    event: EventHandler | None = None

    def __post_init__(self) -> None:
        if self.asgi is None and self.event is None:
            raise ValueError("Function needs an ASGI application, an event handler, or both")


class Lifetime:
    """The process-wide state behind `on_shutdown` and `background`; filled by the runtime."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], object]] = []
        self.tasks: set[asyncio.Task[Any]] = set()
        self.loop: asyncio.AbstractEventLoop | None = None

    def add_callback(self, callback: Callable[[], object]) -> Callable[[], None]:
        self.callbacks.append(callback)

        def remove() -> None:
            if callback in self.callbacks:
                self.callbacks.remove(callback)

        return remove

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        self.tasks.add(asyncio.get_running_loop().create_task(work))


lifetime = Lifetime()


def on_shutdown(callback: Callable[[], object]) -> Callable[[], None]:
    """Call `callback()` on the event loop when SIGTERM arrives; about 300 ms are left then.

    An invocation may be in flight. A coroutine that the callback returns is run within the same
    time. Returns a function that takes the registration back.
    """
    return lifetime.add_callback(callback)


def background(work: Coroutine[Any, Any, Any]) -> None:
    """Run `work` on the event loop and hold the invocation open until it has ended.

    The answer does not wait for it, but Lambda bills until it is done. It is cancelled shortly
    before the invocation's deadline. May be called from a plain handler's thread as well.
    """
    loop = lifetime.loop
    try:
        running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if loop is None or running is loop:
        lifetime.spawn(work)
        return
    # From another thread: wait for the hand-over, or the invocation could end before it is seen.
    asyncio.run_coroutine_threadsafe(_hand_over(work), loop).result()


async def _hand_over(work: Coroutine[Any, Any, Any]) -> None:
    lifetime.spawn(work)

"""`Foreseen`: asks for admission while what comes before a model call is still being written down.

A grant that nobody takes is given back at once: it holds a slot, and others wait for it. Each call
is admitted once all the same, in its turn behind whoever waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from lambent.admission.decisions import Candidates, Grant

# A checkpoint takes a few milliseconds.
_GIVEN_UP_AFTER_S: Final = 0.5
Granted = tuple[Grant, Candidates]
Admit = Callable[[str, str], Awaitable[Granted]]


class Foreseen:
    """Of each client's next call of a model at most one; `admit` and `give_back` do the work."""

    def __init__(self, admit: Admit, give_back: Callable[[Grant], Awaitable[object]]) -> None:
        self._admit = admit
        self._give_back = give_back
        self._asked: dict[tuple[str, str], asyncio.Task[Granted]] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    def expect(self, client: str, model: str) -> None:
        """A call is about to be made."""
        key = (client, model)
        if key in self._asked:
            return
        task = asyncio.ensure_future(self._admit(client, model))
        self._asked[key] = task
        asyncio.get_running_loop().call_later(_GIVEN_UP_AFTER_S, self._give_up, key, task)

    async def take(self, client: str, model: str) -> Granted:
        """What was asked for ahead, else what is asked for now. Raises what `admit` raises."""
        task = self._asked.pop((client, model), None)
        if task is None:
            return await self._admit(client, model)
        try:
            return await task
        except asyncio.CancelledError:
            # Ours, while it was under way or had just come: nobody else knows of it.
            self._leave(task)
            raise

    def _give_up(self, key: tuple[str, str], task: asyncio.Task[Granted]) -> None:
        if self._asked.get(key) is task:
            del self._asked[key]
            self._leave(task)

    def _leave(self, task: asyncio.Task[Granted]) -> None:
        leaving = asyncio.create_task(self._end(task))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def _end(self, task: asyncio.Task[Granted]) -> None:
        task.cancel()
        with suppress(Exception, asyncio.CancelledError):
            grant, _ = await task
            await self._give_back(grant)

"""`TurnRuns`: durable runs as one turn may start and follow them, in its client's name."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any, Final

from lambent.clock import Clock

if TYPE_CHECKING:
    from lambent.engine.engine import WorkflowEngine
    from lambent.engine.views import RunView

_ENDED: Final = frozenset({"completed", "failed", "cancelled"})
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0


class TurnRuns:
    """Only turns whose key holds the scope `runs` get one: a prompt cannot widen a key.

    `engine` is called at the first use: a chat does not pay for loading it.
    """

    def __init__(self, engine: Callable[[], WorkflowEngine], *, client: str, clock: Clock) -> None:
        self._engine = engine
        self._client = client
        self._clock = clock

    async def start(self, workflow: str, input: Any = None, *, key: str) -> str:
        """The run's id; the same key starts it once. Raises `NotFound`, `Conflict`."""
        started = await self._engine().start(workflow, input, client=self._client, key=key)
        return str(started.run["_id"])

    async def get(self, run_id: str) -> RunView:
        """Raises `NotFound`, also for another client's run."""
        return await self._engine().control.get(run_id, client=self._client)

    async def follow(self, run_id: str, *, within_s: float) -> AsyncGenerator[RunView, None]:
        """The run whenever its state or progress changed, until it ended or the time is over."""
        until_s = self._clock.monotonic_s() + within_s
        seen: object = None
        pause_s = _FIRST_PAUSE_S
        while True:
            run = await self.get(run_id)
            shown = (run.status, run.progress, run.waits)
            if shown != seen:
                seen, pause_s = shown, _FIRST_PAUSE_S
                yield run
            if run.status in _ENDED or self._clock.monotonic_s() >= until_s:
                return
            await self._clock.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

"""`GET /runs/{id}/events` on the chat function: a run's progress as server-sent events."""

from __future__ import annotations

import json
from typing import Any, Final

from lambent.engine.control import RunControl
from lambent.engine.model import ENDED
from lambent.engine.views import RunView
from lambent.http.watching import Watching

_ENDED: Final = frozenset(status.value for status in ENDED)
_SHOWN: Final = ("status", "control", "progress", "recorded", "output", "error", "blocked")


class RunEvents(Watching[RunView]):
    """Streams one run; each frame is the run's whole state."""

    event = "run"
    # It is one read by `_id`.
    first_pause_s = 0.1
    longest_pause_s = 1.0

    def __init__(
        self, control: RunControl, run_id: str, *, client: str | None, **watching: Any
    ) -> None:
        super().__init__(**watching)
        self._control = control
        self._run_id = run_id
        self._client = client

    async def look(self) -> RunView:
        return await self._control.get(self._run_id, client=self._client)

    def has_ended(self, state: RunView) -> bool:
        return state.status in _ENDED

    def shown(self, state: RunView) -> str:
        told: dict[str, Any] = {"id": state.id, "workflow": state.workflow}
        told |= {name: getattr(state, name) for name in _SHOWN}
        told["waits"] = [
            {"step": one.step, "kind": one.kind, "type": one.type, "subject": one.subject}
            for one in state.waits
        ]
        told["under_way"] = [
            {"step": one.step, "attempt": one.attempt, "started_at": one.started_at.isoformat()}
            for one in state.under_way
        ]
        return json.dumps(told, ensure_ascii=False, default=str)

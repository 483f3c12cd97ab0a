"""What the readers of a durable turn are told while its run is parked: blocked, paused, or at
rest until a budget is raised.

Nobody knows for how long, so their answers end with an error. That is no part of the stream, and
has no number in it: once the run goes on, who comes back reads on behind the last event.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Final

from lambent.agents.turn_stream import error_body
from lambent.engine.model import Status
from lambent.errors import BudgetExceeded, TurnParked

if TYPE_CHECKING:
    from lambent.engine.views import RunView

_PARKED: Final = {Status.BLOCKED.value, Status.PAUSED.value}


def parked(run: RunView, *, now: datetime) -> TurnParked | None:
    """What to tell of the run; None where it is not parked."""
    rests = run.rests
    if rests is not None and rests.type == BudgetExceeded.__name__ and rests.until > now:
        return TurnParked(
            f"The run {run.id} of this turn waits, because {rests.message[:1].lower()}"
            f"{rests.message[1:]} It looks again at {rests.until:%Y-%m-%d %H:%M:%S} UTC, and goes "
            "on by itself once there is budget; read its stream again then."
        )
    if run.status not in _PARKED:
        return None
    why = run.status
    if run.blocked is not None:
        why = f"{why} ({run.blocked['reason']})"
    said = f"The run {run.id} of this turn is {why}; resume it, then read its stream again."
    return TurnParked(said)


def parked_event(error: TurnParked) -> bytes:
    """The event that ends an answer, without a number."""
    data = json.dumps(error_body(error), ensure_ascii=False)
    return f": parked\nevent: error\ndata: {data}\n\n".encode()

"""What the readers of a durable turn are told while its run is parked: blocked, or paused.

Nobody knows for how long, so their answers end with an error. That is no part of the stream, and
has no number in it: once the run goes on, who comes back reads on behind the last event.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from lambent.agents.turn_stream import error_body
from lambent.engine.model import Status
from lambent.errors import LambentError

if TYPE_CHECKING:
    from lambent.engine.views import RunView

_PARKED: Final = {Status.BLOCKED.value, Status.PAUSED.value}


class TurnParked(LambentError):
    """The turn's run rests until somebody lets it go on; the detail says why, and which run."""

    code = "turn_parked"
    title = "The turn is parked"


def parked(run: RunView) -> TurnParked | None:
    """What to tell of the run; None where it is not parked."""
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

"""Why work in flight is stopped from outside."""

from enum import Enum, auto


class Stop(Enum):
    """BROKEN: nobody takes the answer any more. DEADLINE, SHUTDOWN: the time is up."""

    BROKEN = auto()
    DEADLINE = auto()
    SHUTDOWN = auto()

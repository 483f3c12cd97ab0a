"""Names the states of a run, what someone may ask of it, and the shape of its document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any, Final

from lambent.due import DueKind
from lambent.mongo import Document


class Status(StrEnum):
    PENDING = "pending"  # no slice has begun it
    RUNNING = "running"  # a slice has it, or died with it
    WAITING = "waiting"  # settled, to go on at its due time or when woken
    PAUSED = "paused"  # parked by someone
    BLOCKED = "blocked"  # parked by the engine; `blocked.reason` says why
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


ACTIVE: Final = (Status.PENDING, Status.RUNNING, Status.WAITING)
PARKED: Final = (Status.PAUSED, Status.BLOCKED)
GOING_ON: Final = (*ACTIVE, *PARKED)
ENDED: Final = (Status.COMPLETED, Status.FAILED, Status.CANCELLED)


class Control(StrEnum):
    """What someone has asked for and no slice has obeyed yet."""

    CANCEL = "cancel"
    PAUSE = "pause"


class Reason(StrEnum):
    """Why a run is blocked."""

    POISON = "poison"  # five slices in a row died with it
    NO_CODE = "no code"  # its version is not deployed; taken up by itself once it is
    NONDETERMINISTIC = "nondeterministic"  # the code no longer fits what is on record
    BUDGET = "budget"  # it has spent what it may
    NO_PROGRESS = "no progress"  # many slices in a row recorded nothing


class Debt(StrEnum):
    """What an ended run still owes; each is idempotent, and paid before the run is forgotten."""

    PARENT = "parent"  # wake the run that started it
    SLOT = "slot"  # pass its concurrency slot on to a registered waiter
    RETENTION = "retention"  # close its waits, set the expiry of everything it left


class Level(IntEnum):
    """Priority: a lower number is served first."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


class StepStatus(StrEnum):
    COMPLETED = "completed"
    FAILED = "failed"
    RETRYING = "retrying"  # an attempt failed; the next one is due at `retry_at`
    MARKED = "marked"  # an at_most_once step that was begun
    OPEN = "open"  # begun, and to be looked at again: a sleep, a polled condition
    TOMBSTONE = "tombstone"  # nothing may be recorded here any more


FINAL: Final = (StepStatus.COMPLETED, StepStatus.FAILED, StepStatus.TOMBSTONE)


class SliceEnd(StrEnum):
    """How a slice let go of its run."""

    ENDED = "ended"  # the run came to its end
    SUSPENDED = "suspended"  # nothing could go on: until a time, an event, a child
    OUT_OF_TIME = "out of time"  # it goes on in another invocation
    TERMINATED = "terminated"  # SIGTERM: the environment went away
    PAUSED = "paused"
    BLOCKED = "blocked"
    CRASHED = "crashed"  # it did not let go: its lease lapsed


class Kind(StrEnum):
    """What a recorded key was asked for as; another kind under the key is changed code."""

    DO = "do"
    SLEEP = "sleep"
    WAIT = "wait"
    CALLBACK = "callback"
    UNTIL = "until"
    GATHER = "gather"
    CHILD = "child"
    RESULT = "result"
    PUBLISH = "publish"
    GENERATE = "generate"
    NOW = "now"
    PROGRESS = "progress"
    UNDO = "undo"


RUNS: Final = DueKind(
    "runs",
    levels=tuple(int(level) for level in Level),
    wakeable={"status": {"$in": [status.value for status in ACTIVE]}},
    unread=("slices", "log"),
)
STEPS: Final = "steps"
CHUNKS: Final = "chunks"
# Of what an ended run left: the epoch whose end set its expiry.
ENDED_IN: Final = "ended_in"
# Among what a run left: waits that nobody has closed yet.
OPEN_WAITS: Final = "open waits"


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """An error as it is kept on a run or a step."""

    type: str
    message: str
    step: str | None = None
    fields: Mapping[str, Any] | None = None

    def document(self) -> Document:
        kept: Document = {"type": self.type, "message": self.message[:8000]}
        if self.step is not None:
            kept["step"] = self.step
        if self.fields:
            kept["fields"] = dict(self.fields)
        return kept


def step_id(run: str, epoch: int, key: str) -> str:
    """The `_id` of the step, wait or callback under this key of this epoch."""
    return f"{run}/{epoch}/{key}"


def record_id(run: Mapping[str, Any], step: Mapping[str, Any]) -> str:
    """The same, of one that says its epoch and key itself."""
    return step_id(run["_id"], step["epoch"], step["key"])

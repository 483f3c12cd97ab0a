"""Draws the steps of a run to scale: one lane a step, in percent of the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from lambent.http.admin.formats import instant, took

_WAITS: Final = frozenset({"sleep", "wait", "callback", "until", "child"})
_ENDED: Final = frozenset({"completed", "failed", "cancelled"})
_ENDED_STEPS: Final = frozenset({"completed", "failed", "tombstone", "closed", "satisfied"})
_MARKS: Final = 5
_NARROWEST: Final = 0.4


@dataclass(frozen=True, slots=True)
class Lane:
    """One step. `left` and `width` are percent; `ahead`: from now to when it is due, if waiting."""

    step: Mapping[str, Any]
    name: str
    branch: str
    indent: int
    tone: str
    left: str
    width: str
    ahead_left: str
    ahead_width: str
    took_s: float | None
    old: bool


@dataclass(frozen=True, slots=True)
class Timeline:
    lanes: tuple[Lane, ...]
    marks: tuple[str, ...]


def timeline(
    run: Mapping[str, Any], steps: Sequence[Mapping[str, Any]], *, now: datetime
) -> Timeline:
    """The lanes, in the order in which the steps were begun, and the marks of the scale."""
    begun = instant(run["created_at"]) or now
    ends = [one for step in steps if (one := instant(step["finished_at"]))]
    last = instant(run["finished_at"]) if run["status"] in _ENDED else now
    end = max([last or now, *ends, begun + timedelta(milliseconds=1)])
    scale = _Scale(begun, (end - begun).total_seconds())
    lanes = tuple(_lane(run, step, scale, now=now) for step in steps)
    marks = [took(scale.seconds * place / (_MARKS - 1)) for place in range(_MARKS)]
    return Timeline(lanes, ("0", *marks[1:]))


@dataclass(frozen=True, slots=True)
class _Scale:
    begun: datetime
    seconds: float

    def place(self, at: datetime) -> float:
        share = (at - self.begun).total_seconds() / self.seconds * 100
        return min(100.0, max(0.0, share))


def _lane(run: Mapping[str, Any], step: Mapping[str, Any], scale: _Scale, *, now: datetime) -> Lane:
    finished = instant(step["finished_at"])
    started = instant(step["started_at"]) or finished or scale.begun
    going = finished is None and step["status"] not in _ENDED_STEPS and run["status"] not in _ENDED
    until = finished or (now if going else started)
    left, right = scale.place(started), scale.place(until)
    width = max(right - left, _NARROWEST)
    ahead_left = ahead_width = ""
    wake = instant(step["wake_at"])
    if going and wake is not None and wake > now and right < 100:
        ahead_left, ahead_width = f"{right:.3f}%", f"{scale.place(wake) - right:.3f}%"
    *branch, name = step["key"].split("/")
    return Lane(
        step=step,
        name=name,
        branch="/".join(branch),
        indent=min(len(branch), 3),
        tone="wait" if step["kind"] in _WAITS else str(step["status"]),
        left=f"{min(left, 100 - width):.3f}%",
        width=f"{width:.3f}%",
        ahead_left=ahead_left,
        ahead_width=ahead_width,
        took_s=(until - started).total_seconds() if finished or going else None,
        old=step["epoch"] < run["epoch"],
    )
